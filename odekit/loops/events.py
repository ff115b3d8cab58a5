"""Events inside the adaptive loop: sign changes, the attempts that close in on one, the state on its other side.

An accepted step over which an event changes sign is turned down, and the lane aims at the root on the step's own
interpolant. The attempts that follow are genuine steps of the method from the same start, each corrected by Newton's
method inside a bracket, until the state of such a step lies on the event: about three attempts an event. No loop runs
inside the time loop, the located state has the method's full order, and its row in the record replays exactly.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.loops.record import Span
from odekit.trees import scale, select
from odekit.typing import PyTree

LOOKS = (0.25, 0.5, 0.75, 1.0)
"""Where in a step the sign is looked at."""
_SECANTS = 10
_NEWTONS = 4


class Watched(NamedTuple):
    """An event: `fn(t, y)`, `apply(t, y)` or None, the sign of its direction or 0, whether it ends the lane."""

    fn: Callable[..., Array]
    apply: Callable[..., PyTree] | None
    direction: int
    terminal: bool


class Watch(NamedTuple):
    """What a lane knows of its events.

    Attributes:
        side: (events, lanes) signs where the lane stands; at an event, the sign that it is moving to.
        hunt: (4, lanes) of an event that is aimed at: the elapsed length aimed for (infinite for none), the step
            lengths between which it lies, its sign before.
        whole: (3, lanes) the event aimed at or that has ended the lane, -1 for none; how many corrections were made;
            the event that the last attempt has landed on, -1 for none.
    """

    side: Array
    hunt: Array
    whole: Array

    @property
    def aim(self) -> Array:
        """The elapsed length aimed for."""
        return self.hunt[0]

    @property
    def event(self) -> Array:
        """The event aimed at, or that has ended the lane."""
        return self.whole[0]

    @property
    def met(self) -> Array:
        """The event that the last attempt has landed on."""
        return self.whole[2]


class Attempt(NamedTuple):
    """An attempted step: its start (elapsed length and compensation), length, states inside and at its end."""

    s: Array
    low: Array
    h: Array
    inner: Callable[[Array | float], PyTree]
    y1: PyTree
    ok: Array
    live: Array


class Crossing(NamedTuple):
    """The first sign change of every event in a step, (lanes,) each: where between, and the signs around it."""

    found: Array
    low: Array
    high: Array
    before: Array
    end: Array


def watching(
    events: tuple[Watched, ...], field: Callable[..., PyTree], span: Span, s: Array, dt: Array, y: PyTree
) -> Watch:
    """Return what is known before the first step."""
    nothing = jnp.zeros_like(s)
    hunt = jnp.stack([nothing + jnp.inf, nothing, nothing, nothing])
    whole = jnp.stack([jnp.full_like(s, k, jnp.int32) for k in (-1, 0, -1)])
    return Watch(sides(events, field, span, s, dt, y, jnp.full_like(whole[0], -1)), hunt, whole)


def sides(
    events: tuple[Watched, ...],
    field: Callable[..., PyTree],
    span: Span,
    s: Array,
    dt: Array,
    y: PyTree,
    met: Array,
) -> Array:
    """Return the signs of all events at a state that a step of length `dt` will leave.

    Where an event has just been `met`, or is no further away than time resolves, that is the sign it is moving to.
    """
    t = span.at(s)
    rates = span.sign, scale(span.sign, field(t, y))
    fine = _resolution(span, s) + 4 * jnp.finfo(s.dtype).eps * jnp.abs(dt)

    def side(i: int, event: Watched) -> Array:
        g, slope = jax.jvp(event.fn, (t, y), rates)
        at = (met == i) | (jnp.abs(g) <= fine.astype(g.dtype) * jnp.abs(slope))
        return jnp.where(at, jnp.sign(slope), jnp.sign(g)).astype(t.dtype)

    return lax.stop_gradient(jnp.stack([side(i, event) for i, event in enumerate(events)]))


def _resolution(span: Span, s: Array) -> Array:
    return 4 * jnp.finfo(s.dtype).eps * jnp.maximum(jnp.abs(span.t0), s)


def look(events: tuple[Watched, ...], span: Span, watch: Watch, attempt: Attempt) -> tuple[Array, Watch]:
    """Return which accepted attempts are turned down to aim at an event, and what is known after them."""
    s, _, h, inner, y1, ok, live = attempt
    t = span.at(s)

    def along(i: int, theta: Array) -> Array:
        return events[i].fn(t + span.sign * h * theta, inner(theta)).astype(h.dtype)

    states = [inner(x) for x in LOOKS[:-1]] + [y1]
    crossings = []
    for event, side in zip(events, watch.side, strict=True):
        values = [event.fn(t + span.sign * h * x, y) for x, y in zip(LOOKS, states, strict=True)]
        crossings.append(_first_change(event.direction, side, values))
    ok &= live
    found = ok & (watch.event >= 0)
    for crossing in crossings:
        found |= ok & crossing.found
    none = jnp.stack([jnp.full_like(s, jnp.inf), *[jnp.zeros_like(s)] * 3])
    idle = jnp.zeros_like(found), none, jnp.stack([jnp.full_like(watch.event, k) for k in (-1, 0, -1)])
    pursue = partial(_pursue, events, span, watch, attempt._replace(ok=ok), along, crossings)
    seek, hunt, whole = lax.stop_gradient(lax.cond(jnp.any(found), pursue, lambda: idle))
    side = select(ok & ~seek, jnp.stack([crossing.end for crossing in crossings]), watch.side)
    over = jnp.stack([watch.event, watch.whole[1], jnp.full_like(watch.event, -1)])
    return seek, Watch(side, hunt, jnp.where(live, whole, over))


def _first_change(direction: int, side: Array, values: list[Array]) -> Crossing:
    """Return the first change of sign in the wanted direction among the values at `LOOKS`, after `side` at 0."""
    found, low, high, first = side != side, jnp.zeros_like(side), jnp.ones_like(side), side
    sign, place = side, jnp.zeros_like(side)
    for x, value in zip(LOOKS, values, strict=True):
        now = lax.stop_gradient(jnp.where(jnp.isnan(value), 0, jnp.sign(value)).astype(side.dtype))
        change = (sign != 0) & (now != sign) & ~jnp.isnan(value)
        change &= (sign == -direction) if direction else True
        new = change & ~found
        low, high, first = jnp.where(new, place, low), jnp.where(new, x, high), jnp.where(new, sign, first)
        found |= change
        place, sign = jnp.where(now != 0, x, place), jnp.where(now != 0, now, sign)
    return Crossing(found, low, high, first, sign)


def _pursue(
    events: tuple[Watched, ...],
    span: Span,
    watch: Watch,
    attempt: Attempt,
    along: Callable[[int, Array], Array],
    crossings: list[Crossing],
) -> tuple[Array, Array, Array]:
    """Return which lanes go on seeking, and their `hunt` and `whole`: new roots, and corrections of those aimed at."""
    s, slack, h, _, _, ok, _ = attempt
    (_, low, high, before), (event, tries, _) = watch.hunt, watch.whole
    aimed, fine = ok & (event >= 0), _resolution(span, s + h)
    g, slope = jnp.zeros_like(h), jnp.zeros_like(h)
    for i in range(len(events)):
        value, rate = jax.jvp(partial(along, i), (jnp.ones_like(h),), (jnp.ones_like(h),))
        g, slope = jnp.where(event == i, value, g), jnp.where(event == i, rate / h, slope)
    shift, loose = -g / slope, fine * 8.0 ** jnp.minimum(tries, _NEWTONS).astype(h.dtype)
    found, theta, fresh, which = jnp.zeros_like(aimed), jnp.full_like(h, jnp.inf), watch.hunt, event
    for i, crossing in enumerate(crossings):
        root = _root(partial(along, i), crossing)
        other = ~aimed | ((event != i) & (h + jnp.minimum(shift, 0) - root * h > 64 * fine))
        better = ok & crossing.found & other & (root < theta)
        found |= better
        bracket = jnp.stack([s + (slack + root * h), 0.9 * crossing.low * h, jnp.minimum(1.1 * crossing.high, 1) * h])
        fresh = select(better, jnp.concatenate([bracket, crossing.before[None]]), fresh)
        theta, which = jnp.where(better, root, theta), jnp.where(better, i, which)
    crossed = jnp.sign(g) != before
    low, high = jnp.where(crossed, low, h), jnp.where(crossed, h, high)
    newton = h + shift
    length = jnp.where((low < newton) & (newton < high) & (tries < _NEWTONS), newton, 0.5 * (low + high))
    close, thin = jnp.abs(shift) <= loose, high - low <= loose
    aimed &= ~found
    landed = aimed & (close | (thin & crossed))
    again = aimed & ~close & ~thin
    corrected = jnp.stack([s + (slack + length), low, high, before])
    none = jnp.stack([jnp.full_like(h, jnp.inf), *[jnp.zeros_like(h)] * 3])
    hunt = select(found, fresh, select(again, corrected, none))
    ends = jnp.zeros_like(landed)
    for i, each in enumerate(events):
        ends |= landed & (event == i) & each.terminal
    whole = (
        jnp.where(found, which, jnp.where(again | ends, event, -1)),
        jnp.where(again, tries + 1, 0),
        jnp.where(landed, event, -1),
    )
    return found | again, hunt, jnp.stack(whole)


def _root(along: Callable[[Array], Array], crossing: Crossing) -> Array:
    """Return the theta of a sign change by a fixed number of Illinois steps; any point of the bracket would do.

    Source: Dowell & Jarratt, BIT 11 (1971), 168-174.
    """

    def secant(low: Array, high: Array, g_low: Array, g_high: Array) -> Array:
        mid = low - g_low * (high - low) / (g_high - g_low)
        return jnp.where((low <= mid) & (mid <= high), mid, 0.5 * (low + high))

    def narrow(_: Any, state: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, g_low, g_high, last = state
        mid = secant(low, high, g_low, g_high)
        g = along(mid)
        crossed = jnp.sign(g) != crossing.before
        kept = jnp.where(crossed, -1, 1).astype(last.dtype)
        half = jnp.where(kept == last, 0.5, 1.0).astype(g.dtype)
        return (
            jnp.where(crossed, low, mid),
            jnp.where(crossed, mid, high),
            jnp.where(crossed, g_low * half, g),
            jnp.where(crossed, g, g_high * half),
            kept,
        )

    low, high = lax.stop_gradient((crossing.low, crossing.high))
    g_low, g_high = along(low), along(high)
    left = jnp.abs(g_low) <= jnp.finfo(g_low.dtype).eps ** 0.5 * jnp.abs(g_high)  # the event that is being left
    first = low, high, jnp.where(left, -g_high, g_low), g_high, jnp.zeros_like(low)
    return secant(*lax.stop_gradient(lax.fori_loop(0, _SECANTS, narrow, first))[:4])
