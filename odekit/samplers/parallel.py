"""Parallel in time: all predictions of many rows at once, again and again until they stop changing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.loops.table import Known, SamplerTable, TableState, march
from odekit.samplers.sample import check
from odekit.typing import PyTree


class Parallel(NamedTuple):
    """A sample, and what it took.

    Attributes:
        x: the sample.
        rounds: () how many batched calls of the model were made, one after the other.
        evaluations: () predictions in all.
    """

    x: PyTree
    rounds: Array
    evaluations: Array


class Window(NamedTuple):
    """The rows that are worked on.

    Attributes:
        row: () the first of them.
        begin: the exact state of the table before it.
        inputs: what the model is thought to see in each row, stacked.
        rounds: () batched calls so far.
        evaluations: () predictions so far.
    """

    row: Array
    begin: TableState
    inputs: PyTree
    rounds: Array
    evaluations: Array


def sample_parallel(
    model: Any,
    table: SamplerTable,
    x_init: PyTree,
    *,
    window: int | None = None,
    tol: float = 1e-3,
    key: Array | None = None,
    cond: Any = None,
    project: Callable[[PyTree, Array], PyTree] | None = None,
) -> Parallel:
    """Run a table in fewer, wider calls of the model: the predictions of a window of rows in one batch.

    For one or a few samples on a device that has room for more. Every round predicts all rows of the window from
    guessed states, puts the predictions through the table's own rows, and moves the window on behind the rows whose
    states have settled; at least one row has. The end is that of `sample` with the same key, up to `tol`. Costs more
    predictions than rows in all, but far fewer calls in a row. Derivatives are those of `sample`: take them there.

    Args:
        model: as for `sample`.
        table: any table, stochastic ones too.
        x_init: (batch, ...) float arrays.
        window: rows predicted together; None for all. Memory is that of so many states of the table and inputs of the
            model.
        tol: a state has settled when it has changed by at most this share of the move that its row has made, both in
            root mean square over a sample, in every sample.
        key: as for `sample`; the noise of every row is that of `sample`.
        cond: handed to the model.
        project: as for `sample`.

    Returns:
        The sample, rounds and predictions.

    Raises:
        ValueError: window or tol is not positive, or as for `sample`.
        TypeError: as for `sample`.

    Example:
        >>> from odekit.samplers import ddim, gaussian, time_grid
        >>> from odekit.schedules import VPLinear
        >>> model = gaussian([2.0], 0.5, VPLinear())
        >>> bool(sample_parallel(model, ddim(VPLinear(), time_grid(VPLinear(), 50)), jnp.ones((1, 1))).rounds < 20)
        True

    Source: Shih et al., ParaDiGMS, NeurIPS 2023, algorithm 1 (arXiv 2305.16317).
    """
    x = jax.tree.map(jnp.asarray, x_init)
    check(model, table, x, key)
    if window is not None and window < 1:
        raise ValueError(f"`window` is {window}; give a positive number of rows, or None.")
    if not tol > 0:
        raise ValueError(f"`tol` is {tol}; it must be positive.")
    rows = min(window or table.nfe, table.nfe)
    return _run(table.unlabelled(), model, x, rows, jnp.asarray(tol, float), key, cond, project)


@eqx.filter_jit
def _run(
    table: SamplerTable, model: Any, x: PyTree, width: int, tol: Array, key: Any, cond: Any, project: Any
) -> Parallel:
    n, offsets = table.nfe, jnp.arange(width, dtype=jnp.int32)

    def predict(inputs: PyTree, rows: Array) -> PyTree:
        times = table.rows(x).t[rows]
        return jax.vmap(lambda x, t: getattr(model, table.view)(x, t, cond))(inputs, times)

    def combine(begin: TableState, predictions: PyTree, rows: Array) -> TableState:
        """Return the states after each of the rows, given the predictions; those past the end change nothing."""

        def apply(state: TableState, row: tuple[Array, PyTree]) -> tuple[TableState, TableState]:
            k, prediction = row
            new = table.step(Known(prediction), jnp.minimum(k, n - 1), state, key, cond, project)
            new = jax.tree.map(lambda a, b: jnp.where(k < n, a, b), new, state)
            return new, new

        return march(apply, begin, (rows, predictions), remat=False)[1]

    def round_(at: Window) -> Window:
        rows = at.row + offsets
        after = combine(at.begin, predict(at.inputs, jnp.minimum(rows, n - 1)), rows)
        seen = after.slots[0]  # at rows + 1
        here = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), at.begin.slots[0], seen)
        settled = _settled(_rows(here, 1), _rows(at.inputs, 1), _rows(here, 0, -1), tol) | (rows[1:] >= n)
        gone = 1 + jnp.sum(jnp.cumprod(settled.astype(jnp.int32)), dtype=jnp.int32)  # rows whose predictions stand
        begin = jax.tree.map(lambda leaf: leaf[gone - 1], after)
        inputs = jax.tree.map(lambda leaf: leaf[jnp.minimum(gone - 1 + offsets, width - 1)], seen)
        live = jnp.sum(rows < n, dtype=jnp.int32)
        return Window(at.row + gone, begin, inputs, at.rounds + 1, at.evaluations + live)

    zero = jnp.zeros((), jnp.int32)
    begin = table.init(x, key)
    inputs = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (width, *leaf.shape)), begin.slots[0])
    end = lax.while_loop(lambda at: at.row < n, round_, Window(zero, begin, inputs, zero, zero))
    return Parallel(end.begin.slots[0], end.rounds, end.evaluations)


def _rows(tree: PyTree, first: int, last: int | None = None) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[first:last], tree)


def _settled(new: PyTree, old: PyTree, before: PyTree, tol: Array) -> Array:
    """Return in which rows every sample has changed by at most the share `tol` of its move; (rows, batch, ...) leaves.

    Or by no more than rounding.
    """

    def square(tree: PyTree) -> Array:
        leaves = [leaf.astype(tol.dtype) ** 2 for leaf in jax.tree.leaves(tree)]
        return sum((jnp.sum(leaf, axis=tuple(range(2, leaf.ndim))) for leaf in leaves), jnp.zeros((), tol.dtype))

    rounding = 4 * max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(new))
    change, move = (square(jax.tree.map(jnp.subtract, new, other)) for other in (old, before))
    return jnp.all(change <= tol**2 * move + rounding**2 * square(new), axis=1)
