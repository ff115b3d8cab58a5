"""The adaptive loop: the only `while_loop` over time.

Lanes are the trailing axis of every array. A lane's time is kept as the elapsed length `s >= 0` from its `t0` in a
compensated pair, so that float32 neither stalls at large `t` nor drifts over many steps. A finished lane takes steps of
length zero, which reproduce its state; nothing else freezes it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.control import PID, first_step
from odekit.errors import Result
from odekit.loops.events import Attempt, Watched, look, watching
from odekit.loops.landing import begin_anew, ends_here, next_goal
from odekit.loops.record import Rows, Span
from odekit.problem import Lifted
from odekit.trees import select
from odekit.typing import PyTree

Field = Callable[[Array, PyTree], PyTree]


class Lanes(NamedTuple):
    """What the loop carries, besides the counter `n` shared by all lanes.

    Attributes:
        clock: (3, lanes): the elapsed length, its compensation, and the length of the next attempt. That length is 0
            in a lane that has reached t1, and minus the code of its failure in a lane that has failed. One array,
            because a single lane pays for every kernel: 20 % of the run time of three.
        y: (..., lanes) leaves.
        carry: the method's; lanes last.
        memory: the controller's; `(lanes,)` each.
        counts: (2, lanes) accepted and attempted steps; a lane that has ended attempts none.
        watch: what is known of events; `()` where none is watched.
    """

    clock: Array
    y: PyTree
    carry: PyTree
    memory: PyTree
    counts: Array
    n: Array
    watch: Any = ()

    @property
    def s(self) -> Array:
        """The elapsed length, rounded."""
        return self.clock[0]

    @property
    def dt(self) -> Array:
        """The length of the next attempt, 0 or minus a code."""
        return self.clock[2]

    @property
    def accepted(self) -> Array:
        """The number of accepted steps."""
        return self.counts[0]

    @property
    def tried(self) -> Array:
        """The number of attempted steps."""
        return self.counts[1]

    @property
    def live(self) -> Array:
        """Whether a lane goes on."""
        return self.clock[2] > 0

    @property
    def code(self) -> Array:
        """The codes of lanes that the loop has left."""
        dt = self.dt
        code = jnp.where(dt > 0, int(Result.MAX_STEPS), -lax.stop_gradient(dt).astype(jnp.int32))
        return code.astype(jnp.int32)


class Loop(NamedTuple):
    """Everything that does not change from step to step."""

    method: Any
    control: PID
    field: Field
    span: Span
    fenced: bool
    attached: bool = False
    events: tuple[Watched, ...] = ()

    @property
    def landmarks(self) -> bool:
        """Whether there may be places inside the interval where a step must end."""
        return bool(self.events) or self.control.stops is not None or self.control.jumps is not None

    @property
    def fence(self) -> bool:
        """Whether stage values stand behind a fence: it pays from some lanes on, a single one loses half.

        A stage that solves a system is worth it alone: HIRES in 2.0 us a step against 7.0.
        """
        return self.fenced and (self.method.solves or self.span.length.shape[0] > 1)

    def problem(self, live: Array | None, s: Array) -> Lifted:
        """Return the field as a step from the elapsed length `s` sees it, never evaluated beyond t1 or across a jump.

        `live` is the fence's predicate.
        """
        return Lifted(self.span.smooth(self.field, s), live if self.fence else None)


def start(loop: Loop, y0: PyTree, dt0: Array | None) -> Lanes:
    """Return the lanes before their first step."""
    span = loop.span
    zero = jnp.zeros_like(span.length)
    problem = loop.problem(None, zero)
    carry = loop.method.init(problem, span.t0, y0)
    if dt0 is None:
        slope = loop.method.slope(carry)
        dt0 = first_step(problem, loop.method.order, span.t0, span.sign, span.length, y0, slope, loop.control)
    dt = _first_length(span, y0, carry, lax.stop_gradient(jnp.abs(dt0)))
    return Lanes(
        clock=jnp.stack([zero, zero, dt]),
        y=y0,
        carry=carry,
        memory=loop.control.init(span.t0),
        counts=jnp.stack([jnp.zeros_like(span.length, jnp.int32)] * 2),
        n=jnp.zeros((), jnp.int32),
        watch=watching(loop.events, loop.field, span, zero, dt, y0) if loop.events else (),
    )


def _first_length(span: Span, y0: PyTree, carry: PyTree, dt0: Array) -> Array:
    """Return `dt0`, or 0 for a lane of no length, or minus the code of a lane that cannot start."""
    finite = jnp.isfinite(dt0) & jnp.isfinite(span.length)
    for leaf in jax.tree.leaves((y0, carry)):
        finite &= jnp.all(jnp.isfinite(leaf), axis=tuple(range(leaf.ndim - 1)))
    large = jnp.maximum(jnp.abs(span.t0), jnp.abs(span.t1))
    coarse = span.length < 16 * jnp.finfo(large.dtype).eps * large
    dt = jnp.where(coarse, -int(Result.UNDERFLOW), dt0)
    dt = jnp.where(finite, dt, -int(Result.NONFINITE))
    return jnp.where(span.length == 0, 0, dt)


def attempt(loop: Loop, lanes: Lanes, live: Array) -> tuple[Lanes, Array]:
    """Try one step in every live lane; return the lanes after it and the lengths that were accepted."""
    span, control = loop.span, loop.control
    s, low, dt = lanes.clock
    goal = next_goal(loop, lanes)
    rest = (goal - s) - low
    last = 1.01 * dt >= rest
    h = lax.stop_gradient(jnp.where(live, jnp.where(last, rest, dt), 0))
    h = span.share(h, s) if loop.attached else h
    problem = loop.problem(lanes.n >= 0, s)
    new = loop.method.step(problem, span.at(s), span.sign * h, lanes.y, lanes.carry)
    ok, factor, memory = control(loop.method.error_order, *lax.stop_gradient((new.err, lanes.y, new.y)), lanes.memory)
    broken = jnp.isnan(factor)
    wish = lax.stop_gradient(h) * jnp.where(broken, 0.25, factor).astype(h.dtype)
    wish = wish if control.dt_max is None else jnp.minimum(wish, jnp.abs(jnp.asarray(control.dt_max, h.dtype)))
    code = jnp.where(broken, -float(Result.NONFINITE), -float(Result.UNDERFLOW)).astype(h.dtype)
    whole = jnp.minimum(span.length, 1) if loop.events else span.length  # an interval without end says nothing
    wish = jnp.where(~ok & (wish < _floor(control, whole, s)), code, wish)
    watch = lanes.watch
    if loop.events:
        ok, wish, memory, watch = _watch(loop, lanes, problem, h, new, live, (ok, wish, memory))
    moved = jnp.where(ok, h, 0)
    total, low = _accumulate(s, low, moved)
    done = landed = ok & last & live
    if loop.landmarks:
        done, wish = ends_here(loop, watch, landed, goal, dt, wish)
    clock = jnp.stack(
        [
            jnp.where(landed, goal, total),
            jnp.where(landed, 0, low),
            jnp.where(live, jnp.where(done, 0, wish), dt),
        ]
    )
    y, carry = select(ok, new.y, lanes.y), select(ok, new.carry, lanes.carry)
    counts = lanes.counts + jnp.stack([ok & live, live]).astype(jnp.int32)
    after = Lanes(clock, y, carry, memory, counts, lanes.n + 1, watch)
    return (begin_anew(loop, after, landed & ~done) if loop.landmarks else after), moved


def _watch(
    loop: Loop, lanes: Lanes, problem: Lifted, h: Array, new: Any, live: Array, verdict: tuple[Array, Array, PyTree]
) -> tuple[Array, Array, PyTree, Any]:
    """Return the verdict on an attempt (accepted, next length, memory) once events have been looked at."""
    span, (s, low, dt), (ok, wish, memory) = loop.span, lanes.clock, verdict
    method = loop.method.bound(loop.method.way(lanes.carry)) if loop.method.switches else loop.method
    again = partial(method.dense, problem, span.at(s), span.sign * h, lanes.y)
    inner = new.inner or (lambda theta: again(theta * jnp.ones_like(h)))
    seek, watch = look(loop.events, span, lanes.watch, Attempt(s, low, h, inner, new.y, ok, live))
    piled = watch.aim <= s + 4 * jnp.finfo(s.dtype).eps * s  # event upon event, none further on
    wish = jnp.where(seek, jnp.where(piled, -float(Result.UNDERFLOW), dt), wish)
    return ok & ~seek, wish, select(seek, lanes.memory, memory), watch


def _floor(control: PID, whole: Array, s: Array) -> Array:
    """Return the step length below which a rejected lane gives up: what its time can resolve, or `dt_min`."""
    if control.dt_min is not None:
        return jnp.broadcast_to(jnp.abs(jnp.asarray(control.dt_min, s.dtype)), s.shape)
    return 4 * jnp.finfo(s.dtype).eps * s + 1e-30 * whole


def _accumulate(s: Array, low: Array, h: Array) -> tuple[Array, Array]:
    """Return `s + low + h` as a compensated pair. Source: Kahan, Commun. ACM 8 (1965), 40."""
    step = h + low
    total = s + step
    return total, step - (total - s)


def advance(loop: Loop, lanes: Lanes, max_steps: Array | int, target: Array | None = None) -> Lanes:
    """Run every lane to its end, or to `target` accepted steps, or the shared counter to `max_steps`."""

    def live(lanes: Lanes) -> Array:
        return lanes.live if target is None else lanes.live & (lanes.accepted < target)

    def going(lanes: Lanes) -> Array:
        return jnp.any(live(lanes)) & (lanes.n < max_steps)

    return lax.while_loop(going, lambda lanes: attempt(loop, lanes, live(lanes))[0], lanes)


def record(loop: Loop, lanes: Lanes, max_steps: int, every: int = 1, most: int | None = None) -> tuple[Lanes, Rows]:
    """Run as `advance` does, at most `most` steps, and keep every step, and the state at every `every`-th.

    Row k of a single lane is its k-th accepted step, of many lanes the k-th iteration: rows are written in one piece.
    """
    met = lanes.watch.met if loop.events else None
    rows = blank_rows(lanes.s, lanes.dt, lanes.y, most or max_steps, every, met, loop.method.switches)
    first, last = used_rows(lanes), max_steps if most is None else jnp.minimum(lanes.n + most, max_steps)

    def put(buffer: Array, x: Array, k: Array) -> Array:
        return lax.dynamic_update_index_in_dim(buffer, x, k, 0)

    def put_state(buffer: Array, x: Array, k: Array) -> Array:
        slot = k // every
        if every > 1:
            x = jnp.where(k % every == 0, x, lax.dynamic_index_in_dim(buffer, slot, 0, keepdims=False))
        return put(buffer, x, slot)

    def body(state: tuple[Lanes, Rows]) -> tuple[Lanes, Rows]:
        lanes, rows = state
        after, moved = attempt(loop, lanes, lanes.live)
        k = used_rows(lanes) - first
        states = jax.tree.map(lambda buffer, x: put_state(buffer, x, k), rows.y, lanes.y)
        event = put(rows.event, after.watch.met, k) if loop.events else None
        way = None if rows.way is None else put(rows.way, loop.method.way(lanes.carry), k)
        return after, Rows(put(rows.s, lanes.s, k), put(rows.dt, moved, k), states, event, way)

    def going(state: tuple[Lanes, Rows]) -> Array:
        return jnp.any(state[0].live) & (state[0].n < last)

    return lax.while_loop(going, body, (lanes, rows))


def blank_rows(s: Array, dt: Array, y: PyTree, max_steps: int, every: int, event: Array | None, switches: bool) -> Rows:
    """Return rows of zeros, one for each of `max_steps` steps and a state for every `every`-th."""

    def blank(x: Array, n: int) -> Array:
        return jnp.broadcast_to(jnp.zeros_like(x)[None], (n, *x.shape))

    count = -(-max_steps // every)
    event = None if event is None else blank(event, max_steps)
    way = blank(jnp.zeros_like(s, bool), max_steps) if switches else None
    return Rows(blank(s, max_steps), blank(dt, max_steps), jax.tree.map(lambda x: blank(x, count), y), event, way)


def used_rows(lanes: Lanes) -> Array:
    """Return how many rows `record` has filled."""
    return lanes.accepted[0] if lanes.s.shape[0] == 1 else lanes.n
