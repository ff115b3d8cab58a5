"""The adaptive loop: the only `while_loop` over time.

Lanes are the trailing axis of every array. A lane's time is kept as the elapsed length `s >= 0` from its `t0` in a
compensated pair, so that float32 neither stalls at large `t` nor drifts over many steps. A finished lane takes steps of
length zero, which reproduce its state; nothing else freezes it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.control import PID, first_step
from odekit.errors import RUNNING, Result
from odekit.loops.record import Rows, Span
from odekit.problem import Lifted
from odekit.trees import select
from odekit.typing import PyTree

Field = Callable[[Array, PyTree], PyTree]


class Lanes(NamedTuple):
    """What the loop carries; all `(lanes,)` but `y` and `carry` `(..., lanes)` and the shared counter `n`."""

    s: Array
    s_low: Array
    dt: Array
    y: PyTree
    carry: PyTree
    memory: PyTree
    code: Array
    accepted: Array
    n: Array


class Loop(NamedTuple):
    """Everything that does not change from step to step."""

    method: Any
    control: PID
    field: Field
    span: Span
    fenced: bool
    attached: bool = False

    def problem(self, live: Array | None) -> Lifted:
        """Return the field as a method sees it, never evaluated beyond t1; `live` is the fence's predicate."""
        span = self.span

        def clipped(t: Array, y: PyTree) -> PyTree:
            inside = jnp.where(span.sign > 0, jnp.minimum(t, span.t1), jnp.maximum(t, span.t1))
            return self.field(t + lax.stop_gradient(inside - t), y)

        return Lifted(clipped, live if self.fenced else None)


def start(loop: Loop, y0: PyTree, dt0: Array | None) -> Lanes:
    """Return the lanes before their first step."""
    span, problem = loop.span, loop.problem(None)
    carry = loop.method.init(problem, span.t0, y0)
    if dt0 is None:
        dt0 = first_step(problem, loop.method.order, span.t0, span.sign, span.length, y0, carry, loop.control)
    zero = jnp.zeros_like(span.length)
    return Lanes(
        s=zero,
        s_low=zero,
        dt=jnp.abs(dt0),
        y=y0,
        carry=carry,
        memory=loop.control.init(span.t0),
        code=_first_code(span, y0, carry),
        accepted=jnp.zeros_like(span.length, jnp.int32),
        n=jnp.zeros((), jnp.int32),
    )


def _first_code(span: Span, y0: PyTree, carry: PyTree) -> Array:
    """Return the codes before the first step: zero lengths are done; bad states and unresolvable times have failed."""
    finite = jnp.ones_like(span.length, bool)
    for leaf in jax.tree.leaves((y0, carry)):
        finite &= jnp.all(jnp.isfinite(leaf), axis=tuple(range(leaf.ndim - 1)))
    large = jnp.maximum(jnp.abs(span.t0), jnp.abs(span.t1))
    coarse = span.length < 16 * jnp.finfo(large.dtype).eps * large
    code = jnp.where(coarse, int(Result.UNDERFLOW), RUNNING)
    code = jnp.where(finite & jnp.isfinite(large), code, int(Result.NONFINITE))
    return jnp.where(span.length == 0, int(Result.SUCCESS), code).astype(jnp.int32)


def attempt(loop: Loop, lanes: Lanes, live: Array) -> tuple[Lanes, Array]:
    """Try one step in every live lane; return the lanes after it and the lengths that were accepted."""
    span, control = loop.span, loop.control
    rest = (span.length - lanes.s) - lanes.s_low
    last = 1.01 * lanes.dt >= rest
    h = lax.stop_gradient(jnp.where(live, jnp.where(last, rest, lanes.dt), 0))
    h = span.share(h) if loop.attached else h
    new = loop.method.step(loop.problem(lanes.n >= 0), span.at(lanes.s), span.sign * h, lanes.y, lanes.carry)
    ok, factor, memory = control(loop.method.order, *lax.stop_gradient((new.err, lanes.y, new.y)), lanes.memory)
    broken = jnp.isnan(factor)
    dt = h * jnp.where(broken, 0.25, factor).astype(h.dtype)
    dt = dt if control.dt_max is None else jnp.minimum(dt, jnp.abs(jnp.asarray(control.dt_max, h.dtype)))
    failed = live & ~ok & (dt < _floor(control, span, lanes.s))
    code = jnp.where(broken, int(Result.NONFINITE), int(Result.UNDERFLOW))
    code = jnp.where(failed, code, jnp.where(live & ok & last, int(Result.SUCCESS), lanes.code)).astype(jnp.int32)
    moved = jnp.where(ok, h, 0)
    s, s_low = _accumulate(lanes.s, lanes.s_low, moved)
    done = ok & last & live
    after = Lanes(
        s=jnp.where(done, span.length, s),
        s_low=jnp.where(done, 0, s_low),
        dt=jnp.where(live, dt, lanes.dt),
        y=select(ok, new.y, lanes.y),
        carry=select(ok, new.carry, lanes.carry),
        memory=memory,
        code=code,
        accepted=lanes.accepted + (ok & live).astype(jnp.int32),
        n=lanes.n + 1,
    )
    return after, moved


def _floor(control: PID, span: Span, s: Array) -> Array:
    """Return the step length below which a rejected lane gives up: what its time can resolve, or `dt_min`."""
    if control.dt_min is not None:
        return jnp.broadcast_to(jnp.abs(jnp.asarray(control.dt_min, s.dtype)), s.shape)
    return 4 * jnp.finfo(s.dtype).eps * s + 1e-30 * span.length


def _accumulate(s: Array, low: Array, h: Array) -> tuple[Array, Array]:
    """Return `s + low + h` as a compensated pair. Source: Kahan, Commun. ACM 8 (1965), 40."""
    step = h + low
    total = s + step
    return total, step - (total - s)


def advance(loop: Loop, lanes: Lanes, max_steps: Array | int) -> Lanes:
    """Run every lane to its end, or the shared counter to `max_steps`."""

    def going(lanes: Lanes) -> Array:
        return jnp.any(lanes.code == RUNNING) & (lanes.n < max_steps)

    return lax.while_loop(going, lambda lanes: attempt(loop, lanes, lanes.code == RUNNING)[0], lanes)


def record(loop: Loop, lanes: Lanes, max_steps: int, every: int = 1) -> tuple[Lanes, Rows]:
    """Run as `advance` does and keep every step, and the state at every `every`-th.

    Row k of a single lane is its k-th accepted step, of many lanes the k-th iteration: rows are written in one piece.
    """
    single = lanes.s.shape[0] == 1
    states = jax.tree.map(lambda x: _rows_like(x, -(-max_steps // every)), lanes.y)
    rows = Rows(_rows_like(lanes.s, max_steps), _rows_like(lanes.dt, max_steps), states)

    def put(buffer: Array, x: Array, k: Array) -> Array:
        return lax.dynamic_update_index_in_dim(buffer, x, k, 0)

    def put_state(buffer: Array, x: Array, k: Array) -> Array:
        slot = k // every
        if every > 1:
            x = jnp.where(k % every == 0, x, lax.dynamic_index_in_dim(buffer, slot, 0, keepdims=False))
        return put(buffer, x, slot)

    def body(state: tuple[Lanes, Rows]) -> tuple[Lanes, Rows]:
        lanes, rows = state
        after, moved = attempt(loop, lanes, lanes.code == RUNNING)
        k = lanes.accepted[0] if single else lanes.n
        states = jax.tree.map(lambda buffer, x: put_state(buffer, x, k), rows.y, lanes.y)
        return after, Rows(put(rows.s, lanes.s, k), put(rows.dt, moved, k), states)

    def going(state: tuple[Lanes, Rows]) -> Array:
        return jnp.any(state[0].code == RUNNING) & (state[0].n < max_steps)

    return lax.while_loop(going, body, (lanes, rows))


def _rows_like(x: Array, n: int) -> Array:
    return jnp.broadcast_to(jnp.zeros_like(x)[None], (n, *x.shape))


def used_rows(lanes: Lanes) -> Array:
    """Return how many rows `record` has filled."""
    return lanes.accepted[0] if lanes.s.shape[0] == 1 else lanes.n


def final_code(lanes: Lanes) -> Array:
    """Return the codes of lanes that the loop has left."""
    return jnp.where(lanes.code == RUNNING, int(Result.MAX_STEPS), lanes.code)
