"""From our solution to diffrax's: buffers filled in order of time, dense output, result codes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.errors import Result
from odekit.tracing import Static
from odekit.trees import leading
from odekit.typing import PyTree

_SAVE_Y = diffrax.SubSaveAt(t1=True).fn
_RESULTS = {
    Result.MAX_STEPS: diffrax.RESULTS.max_steps_reached,
    Result.UNDERFLOW: diffrax.RESULTS.dt_min_reached,
    Result.NONFINITE: diffrax.RESULTS.nonfinite,
}


class Interpolation(diffrax.AbstractPath):
    """Dense output: the step that holds a time is taken once more and read by the method's own interpolant.

    The derivative is the vector field at the interpolated state.
    """

    dense: Callable[[Array], PyTree]
    t0: Any
    t1: Any
    arrays: list[Any]
    static: Static = eqx.field(static=True)

    @eqx.filter_jit
    def evaluate(self, t0: Any, t1: Any = None, left: bool = True) -> PyTree:
        """Return the state at t0, NaN outside of the interval, or its change from t0 to t1."""
        if t1 is not None:
            return jax.tree.map(lambda a, b: b - a, self.evaluate(t0), self.evaluate(t1))
        return jax.tree.map(lambda y: y[0], self.dense(jnp.asarray(t0, self.t1.dtype)[None]))

    @eqx.filter_jit
    def derivative(self, t: Any, left: bool = True) -> PyTree:
        """Return the vector field at `(t, evaluate(t))`."""
        field, args = self.static.join(self.arrays)
        return field(jnp.asarray(t, self.t1.dtype), self.evaluate(t), args)


def result_of(code: Array) -> Any:
    """Return the member of `diffrax.RESULTS` for one of our codes."""
    result = diffrax.RESULTS.successful
    for ours, theirs in _RESULTS.items():
        result = diffrax.RESULTS.where(code == int(ours), theirs, result)
    return result


class Saved(NamedTuple):
    """What was saved: start, given times (in order), steps, end."""

    start: tuple[Array, PyTree]
    times: tuple[Array, PyTree]
    steps: tuple[Array, PyTree]
    end: tuple[Array, PyTree]
    accepted: Array


def buffers(sub: Any, saved: Saved, args: PyTree, max_steps: int | None, dtype: Any) -> tuple[Array, PyTree]:
    """Return the buffers of one `SubSaveAt`: what it asks for in order of time, then infinities."""
    (t0, y0), (t1, y1) = saved.start, saved.end
    direction = jnp.where(t1 < t0, -1, 1).astype(t0.dtype)
    parts = []
    if sub.t0:
        parts.append((t0[None], jax.tree.map(lambda y: y[None], y0), jnp.ones(1, bool)))
    if sub.ts is not None:
        ts = jnp.asarray(sub.ts, t0.dtype)
        at = jnp.searchsorted(direction * saved.times[0], direction * ts)
        inside = (direction * ts >= direction * t0) & (direction * ts <= direction * t1)
        parts.append((ts, jax.tree.map(lambda y: y[at], saved.times[1]), inside))
    if sub.steps:
        ts, ys = jax.tree.map(lambda x: x[sub.steps - 1 :: sub.steps], saved.steps)
        parts.append((ts, ys, jnp.isfinite(ts)))
    ts, ys, full = jax.tree.map(lambda *x: jnp.concatenate(x), *parts) if parts else _nothing(saved)
    if sub.ts is not None and sub.steps:
        order = jnp.argsort(jnp.where(full, direction * ts, jnp.inf), stable=True)
        ts, ys, full = jax.tree.map(lambda x: x[order], (ts, ys, full))
    ended = sub.t1 and (sub.steps == 0 or (sub.steps > 1 and saved.accepted % sub.steps != 0))
    size = _size(sub, max_steps)
    full = jnp.pad(full, (0, max(0, size - full.shape[0])))[:size]
    filled = full | ((jnp.arange(size) == jnp.sum(full)) & ended)

    def put(x: Array, final: Array) -> Array:
        """Rows that hold nothing get the end: what is saved there must have a finite derivative."""
        x = jnp.concatenate([x, jnp.broadcast_to(final, (max(0, size - x.shape[0]), *final.shape))])[:size]
        return jnp.where(leading(full, x), x, final)

    ts, ys = put(ts, t1).astype(dtype), jax.tree.map(put, ys, y1)
    if sub.fn is not _SAVE_Y:
        ys = jax.vmap(lambda t, y: sub.fn(t, y, args))(ts, ys)
    ys = jax.tree.map(lambda y: jnp.where(leading(filled, y), y, jnp.full((), jnp.inf, y.dtype)), ys)
    return jnp.where(filled, ts, jnp.inf), ys


def _nothing(saved: Saved) -> tuple[Array, PyTree, Array]:
    ts, ys = jax.tree.map(lambda x: x[None][:0], saved.end)
    return ts, ys, jnp.zeros(0, bool)


def _size(sub: Any, max_steps: int | None) -> int:
    """Return how many rows diffrax sets aside."""
    size = sub.t0 + (0 if sub.ts is None else sub.ts.shape[0])
    if sub.steps and max_steps is not None:
        size += max_steps // sub.steps
    ends = sub.t1 and (max_steps is None or sub.steps == 0 or max_steps % sub.steps != 0)
    return size + ends
