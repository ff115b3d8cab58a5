"""Fixed grids: one method step a row of the package's one scan over time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.errors import Result
from odekit.loops.record import Raw, Rows, Span
from odekit.loops.table import march
from odekit.trees import select
from odekit.typing import PyTree


class Grid(NamedTuple):
    """Steps of a fixed grid: how many, and their lengths as fractions of the interval (None: all equal)."""

    n: int
    fractions: Array | None


def run(
    method: Any, problem: Any, grid: Grid, y0: PyTree, t0: Array, t1: Array, keep_rows: bool
) -> tuple[Raw, Rows | None]:
    """Take every step of the grid; a lane whose state is not finite stops there and keeps its last good state.

    Step k starts at its share of the interval, not at a running sum, so that time doesn't drift. The reverse pass keeps
    one state a step and repeats the step.
    """
    span = Span.of(t0, t1)
    starts, lengths = _lengths(grid, span)
    if grid.fractions is None:
        method = method.prepare(problem, span.sign * lengths[0])

    def body(state: tuple[PyTree, PyTree, Array, Array], row: tuple[Array, Array]) -> tuple[Any, Any]:
        y, carry, alive, count = state
        s, h = row
        new = method.step(problem, span.at(s), span.sign * h, y, carry)
        alive &= _finite(new.y)
        after = (select(alive, new.y, y), select(alive, new.carry, carry), alive, count + alive.astype(jnp.int32))
        return after, Rows(s, jnp.where(alive, h, 0), y, way=method.way(carry)) if keep_rows else None

    first = (y0, method.init(problem, span.t0, y0), _finite(y0), jnp.zeros((), jnp.int32))
    (y, _, alive, count), rows = march(body, first, (starts, lengths))
    ends = jnp.concatenate([starts, span.length[None]])
    s = jnp.where(alive, span.length, ends[count])
    code = jnp.where(alive, int(Result.SUCCESS), int(Result.NONFINITE)).astype(jnp.int32)
    return Raw(y, s, lengths[-1], code, count, jnp.minimum(count + 1, grid.n), count), rows


def _lengths(grid: Grid, span: Span) -> tuple[Array, Array]:
    dtype = span.length.dtype
    if grid.fractions is None:
        return jnp.arange(grid.n, dtype=dtype) * (span.length / grid.n), jnp.full(
            grid.n, 1 / grid.n, dtype
        ) * span.length
    ends = jnp.cumsum(grid.fractions)
    return jnp.concatenate([jnp.zeros(1, dtype), ends[:-1]]) * span.length, grid.fractions * span.length


def _finite(y: PyTree) -> Array:
    alive = jnp.array(True)
    for leaf in jax.tree.leaves(y):
        alive &= jnp.all(jnp.isfinite(leaf))
    return lax.stop_gradient(alive)
