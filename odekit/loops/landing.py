"""Where a step must end inside the interval, and how a lane goes on from there: stops, jumps, events."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.loops.events import Watched, sides
from odekit.trees import add, scale, select
from odekit.typing import PyTree


def next_goal(loop: Any, lanes: Any) -> Array:
    """Return the elapsed length at which the next step must not pass: t1, a stop, a jump, an event aimed at."""
    span, goal = loop.span, loop.span.length
    for times in (loop.control.stops, loop.control.jumps):
        if times is not None:
            ends = span.elapsed(times)
            goal = jnp.minimum(goal, jnp.min(jnp.where(ends > lanes.s[None], ends, jnp.inf), axis=0))
    if loop.events:
        aim = jnp.minimum(lanes.watch.aim, lax.stop_gradient(span.length))
        goal = jnp.minimum(goal, span.share(aim) if loop.attached else aim)
    return goal


def ends_here(loop: Any, watch: Any, landed: Array, goal: Array, dt: Array, wish: Array) -> tuple[Array, Array]:
    """Return which lanes that have landed are at their end, and the next lengths of all."""
    done, cut = landed & (goal >= loop.span.length), landed
    if loop.events:
        done, cut = done | (landed & (watch.event >= 0)), landed & (watch.met < 0)
    return done, jnp.where(cut, jnp.maximum(wish, dt), wish)  # a step cut short doesn't shorten the next


def begin_anew(loop: Any, lanes: Any, landed: Array) -> Any:
    """Return the lanes, those that have landed on a jump or on an event without any memory of what was before."""
    span, again, met = loop.span, jnp.zeros_like(landed), lanes.watch and lanes.watch.met
    if span.jumps is None and all(event.terminal for event in loop.events):
        return lanes
    if span.jumps is not None:
        again |= landed & jnp.any(span.elapsed(span.jumps) == lanes.s[None], axis=0)
    if loop.events:
        again |= landed & (met >= 0)

    def fresh(lanes: Any) -> Any:
        t = span.at(lanes.s)
        y = land(loop.events, loop.field, met, t, lanes.y)
        new = lanes._replace(y=y, carry=loop.method.init(loop.problem(None, lanes.s), t, y))
        new = new._replace(memory=loop.control.init(span.t0))
        if loop.events:
            side = sides(loop.events, loop.field, span, lanes.s, lanes.dt, y, met)
            new = new._replace(watch=new.watch._replace(side=side))
        return lanes._replace(**{name: select(again, getattr(new, name), getattr(lanes, name)) for name in _FRESH})

    return lax.cond(jnp.any(again), fresh, lambda lanes: lanes, lanes)


_FRESH = ("y", "carry", "memory", "watch")


@jax.custom_jvp
def delay(g: Array, slope: Array) -> Array:
    """Return 0, with the derivative of the time by which an event moves: `-dg / slope`."""
    return jnp.zeros_like(g * slope)


@delay.defjvp
def _delay_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return delay(*primals), -tangents[0] / primals[1]


def moved(event: Watched, here: Array, t: Array, y: PyTree, rate: PyTree) -> Array:
    """Return 0 with the derivative of the signed time by which `event` moves, in the lanes that are `here`.

    Where the solution only grazes the event, `|dg/dt| < 1e-8 |dg/dy| |f|`, its time has no derivative: NaN.
    Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, 1993, II.6 (implicit function theorem).
    """
    g, pull = jax.vjp(event.fn, t, y)
    by_t, by_y = pull(jnp.ones_like(g))
    slope, size_y, size_f = by_t.astype(t.dtype), jnp.zeros_like(t), jnp.zeros_like(t)
    for a, f in zip(jax.tree.leaves(by_y), jax.tree.leaves(rate), strict=True):
        rest = tuple(range(f.ndim - t.ndim))
        slope += jnp.sum(jnp.real(a * f), axis=rest).astype(t.dtype)
        size_y += jnp.sum(jnp.abs(a) ** 2, axis=rest).astype(t.dtype)
        size_f += jnp.sum(jnp.abs(f) ** 2, axis=rest).astype(t.dtype)
    grazing = slope**2 <= 1e-16 * size_y * size_f
    slope = lax.stop_gradient(jnp.where(here, jnp.where(grazing, jnp.nan, slope), 1))
    return jnp.where(here, delay(g.astype(t.dtype), slope), 0)


def land(events: tuple[Watched, ...], field: Callable[..., PyTree], met: Array | None, t: Array, y: PyTree) -> PyTree:
    """Return the state after the event `met` at `(t, y)`, with the derivative of the time that it happens at.

    The other lanes keep theirs. Source: Aizerman & Gantmacher, Q. J. Mech. Appl. Math. 11 (1958), 163-175 (the
    saltation matrix).
    """
    if not any(event.apply for event in events):
        return y
    before, out = field(t, y), y
    for i, event in enumerate(events):
        if event.apply is None:
            continue
        here = met == i
        rate = select(here, lax.stop_gradient(before), jax.tree.map(jnp.zeros_like, before))
        dt = moved(event, here, t, y, rate)
        new = event.apply(t + dt, add(y, scale(dt, rate)))
        rate = select(here, lax.stop_gradient(field(t, new)), jax.tree.map(jnp.zeros_like, before))
        out = select(here, add(new, scale(-dt, rate)), out)
    return out


def move_end(
    events: tuple[Watched, ...], field: Callable[..., PyTree], event: Array, t: Array, y: PyTree
) -> tuple[Array, PyTree]:
    """Return time and state of the end of a lane with the derivative of the event that ended it."""
    rate, shift = lax.stop_gradient(field(t, y)), jnp.zeros_like(t)
    rate = jax.tree.map(lambda f: jnp.where(event >= 0, f, 0), rate)
    for i, watched in enumerate(events):
        if watched.terminal:
            shift += moved(watched, event == i, t, y, rate)
    return t + shift, add(y, scale(shift, rate))
