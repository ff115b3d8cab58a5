"""The table loop: a fixed-grid method is rows of numbers, and running it is one scan.

Row k evaluates the model at slot 0, files the answer in a ring of the last H evaluations, and replaces the A slots by
linear combinations of the slots, the ring and one draw of noise. The network is compiled once whatever the number of
rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.loops.brownian import fresh_noise
from odekit.trees import add, align, lincomb, real_dtype, scale
from odekit.typing import PyTree

VIEWS = ("data", "noise", "velocity", "score")


def march(step: Callable, carry: PyTree, rows: PyTree, *, remat: bool = True) -> tuple[PyTree, PyTree]:
    """Return `lax.scan(step, carry, rows)`, the package's only scan over time.

    Args:
        step: `step(carry, row) -> (carry, out)`.
        carry: the state before the first row.
        rows: pytree whose leaves lead with the number of rows.
        remat: whether a reverse pass keeps only the carry before each row and repeats the rest of the step.

    Returns:
        The last carry, and the outputs stacked along a new leading axis.

    Example:
        >>> float(march(lambda total, row: (total + row, None), jnp.array(0.0), jnp.arange(4.0))[0])
        6.0
    """
    # prevent_cse would put barriers into the loop body; inside a scan they are not needed.
    return lax.scan(jax.checkpoint(step, prevent_cse=False) if remat else step, carry, rows)


def time_dtype(x: PyTree) -> Any:
    """Return the real dtype of the state, but never below float32: bfloat16 cannot tell times apart."""
    dtype = real_dtype(jax.tree.leaves(x)[0].dtype)
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


class TableState(NamedTuple):
    """What the loop carries: A slots (slot 0 is the sample so far), and the ring of H evaluations, blank at first."""

    slots: tuple[PyTree, ...]
    ring: PyTree = None


class Row(NamedTuple):
    """One row of a table, in the precision it is applied in."""

    t: Array
    states: Array
    evals: Array
    noise: Array | None
    offset: Array | None
    t_next: Array
    draw: Array


class SamplerTable(eqx.Module):
    """A sampler as N rows of numbers, one network evaluation each.

    With `u` the slots, `F` the ring after this row's evaluation and `z` one unit normal per row,
    `u_a <- sum_b states[k, a, b] u_b + sum_j evals[k, a, j] F_j + noise[k, a] z + offset[k, a]`. Evaluation k is at
    ring position `k % H`. All slots start as the initial sample unless given one by one; slot 0 is what the model sees,
    and after the last row the result.

    Args:
        t: (N,) times handed to the model.
        states: (N, A, A, ...) new slots from old slots; further axes are those of a sample, for coefficients that
            differ from pixel to pixel.
        evals: (N, A, H, ...) new slots from evaluations, by ring position.
        noise: (N, A) new slots from the row's noise; None for a deterministic table, which needs no key.
        t_state: (N+1,) times that slot 0 stands for before each row and at the end.
        view: which prediction of the model the rows speak in: "data", "noise", "velocity" or "score".
        name: what it is listed and cited under.
        source: the publication that the numbers come from.
        offset: (N, A, ...) constants, alike for all samples or with the shape of the whole state; None for none.
        start_noise: () noise added to the initial sample before row 0; None for none.
        start: (A, A) slots before row 0 from those given; None: as given.
        draws: N numbers under which the rows draw their noise, equal ones for one draw; empty: 0 to N-1.
        lags: for a table whose steps, of H rows each, can be undone (`odekit.samplers.inverse`): how many steps each
            slot lags behind the result; empty for any other.

    Raises:
        ValueError: the shapes do not belong together, or there is no such view.

    Example:
        >>> halve = SamplerTable(jnp.ones(3), jnp.full((3, 1, 1), 0.5), jnp.zeros((3, 1, 1)), None, jnp.ones(4))
        >>> halve.nfe
        3

    Source: Butcher, Acta Numerica 15 (2006), for general linear methods, of which each row is one.
    """

    t: Array
    states: Array
    evals: Array
    noise: Array | None
    t_state: Array
    view: str = eqx.field(static=True, default="data")
    name: str = eqx.field(static=True, default="")
    source: str = eqx.field(static=True, default="")
    offset: Array | None = None
    start_noise: Array | None = None
    start: Array | None = None
    draws: tuple[int, ...] = eqx.field(static=True, default=())
    lags: tuple[int, ...] = eqx.field(static=True, default=())

    def __check_init__(self):
        (n, slots, _, *pixels), shape = jnp.shape(self.evals), jnp.shape
        want = {"t": (n,), "states": (n, slots, slots, *pixels), "noise": (n, slots), "t_state": (n + 1,)}
        want |= {"start_noise": (), "start": (slots, slots), "offset": (n, slots)}
        got = {name: shape(leaf) for name in want if (leaf := getattr(self, name)) is not None}
        if "offset" in got:  # its further axes are those of the state
            got["offset"] = got["offset"][:2]
        want |= {"draws": (n,), "lags": (slots,)}
        got |= {name: (len(row),) for name in ("draws", "lags") if (row := getattr(self, name))}
        for name, given in got.items():
            if given != want[name]:
                raise ValueError(f"`{name}` has shape {given}; evals of shape {shape(self.evals)} need {want[name]}.")
        if self.view not in VIEWS:
            raise ValueError(f"`view` is {self.view!r}; it must be one of {', '.join(VIEWS)}.")

    @property
    def nfe(self) -> int:
        """The number of network evaluations."""
        return self.t.shape[0]

    @property
    def stochastic(self) -> bool:
        """Whether running it takes a key."""
        return self.noise is not None or self.start_noise is not None

    def unlabelled(self) -> "SamplerTable":
        """Return the table without name and source, so that tables of equal shapes share one compiled loop."""
        return dataclasses.replace(self, name="", source="")

    def rows(self, x: PyTree) -> Row:
        """Return all rows in the dtype of the times of `x`."""
        numbers = (self.t, self.states, self.evals, self.noise, self.offset, self.t_state[1:])
        numbers = jax.tree.map(lambda leaf: jnp.asarray(leaf, time_dtype(x)), numbers)
        return Row(*numbers, draw=jnp.asarray(self.draws or range(self.nfe), jnp.int32))

    def init(self, x: PyTree, key: Array | None = None) -> TableState:
        """Return the state before row 0, with the first noise if there is any; the ring is zero.

        Args:
            x: the initial sample, which every slot starts as, or a `TableState` whose slots are taken.
            key: as for `run_table`, for a table with `start_noise`.
        """
        depth, count = self.evals.shape[2], self.evals.shape[1]
        slots = x.slots if isinstance(x, TableState) else (x,) * count
        if self.start is not None:
            slots = tuple(lincomb(row, slots) for row in jnp.asarray(self.start, time_dtype(slots)))
        if self.start_noise is not None:
            slots = _begin(jnp.asarray(self.start_noise, time_dtype(slots)), jnp.int32(self.nfe), slots, key)
        return TableState(slots, jax.tree.map(lambda u: jnp.zeros((depth, *u.shape), u.dtype), slots[0]))

    def step(
        self,
        model: Any,
        k: int | Array,
        state: TableState,
        key: Array | None = None,
        cond: Any = None,
        project: Callable[[PyTree, Array], PyTree] | None = None,
    ) -> TableState:
        """Apply row `k`: one network evaluation. `state.slots[0]` is the sample so far.

        The same code as the loop of `run_table`, compiled once for all rows; for serving, streaming and custom loops.

        Args:
            model: offers the prediction named by `view`, called as `model.data(x, t, cond)`.
            k: row number from 0; rows must be taken in order.
            state: what `init` or the previous row returned.
            key: as for `run_table`; the same key for every row.
            cond: handed to the model.
            project: as for `run_table`.

        Returns:
            The state after the row.

        Raises:
            IndexError: there is no such row.
        """
        if isinstance(k, int) and not 0 <= k < self.nfe:
            raise IndexError(f"`k` is {k}; this table has rows 0 to {self.nfe - 1}.")
        return _step(self.unlabelled(), model, jnp.asarray(k, jnp.int32), state, key, cond, project)


class Known(eqx.Module):
    """A prediction that is known already, in the place of the model that would make it."""

    prediction: PyTree

    def data(self, x: PyTree, t: Array, cond: Any = None) -> PyTree:
        """Return the prediction, whatever view it is in."""
        return self.prediction

    noise = velocity = score = data


@eqx.filter_jit
def _begin(start_noise: Array, k: Array, slots: tuple, key: Array | None) -> tuple:
    """Compiled by itself, so that row by row it gives the bits of the loop."""
    z = scale(start_noise, fresh_noise(key, k, slots[0]))
    return tuple(add(u, z) for u in slots)


def _check_prediction(f: PyTree, x: PyTree, view: str) -> None:
    given, want = (jax.tree.map(lambda leaf: (jnp.shape(leaf), str(jnp.result_type(leaf))), tree) for tree in (f, x))
    if given != want:
        raise ValueError(f"`model.{view}` returned {given} for a state of {want}; a prediction must match the state.")


def _apply_row(table: SamplerTable, model, key, cond, project, state: TableState, k: Array, row: Row) -> TableState:
    u, depth = state.slots, table.evals.shape[2]
    f = getattr(model, table.view)(u[0], row.t, cond)
    _check_prediction(f, u[0], table.view)
    ring = jax.tree.map(lambda old, one: lax.dynamic_update_index_in_dim(old, one, k % depth, 0), state.ring, f)
    history = [jax.tree.map(lambda leaf, j=j: leaf[j], ring) for j in range(depth)]
    new = [add(lincomb(s, u), lincomb(e, history)) for s, e in zip(row.states, row.evals, strict=True)]
    if row.noise is not None:
        z = fresh_noise(key, row.draw, u[0])
        new = [add(one, scale(c, z)) for one, c in zip(new, row.noise, strict=True)]
    if row.offset is not None:
        new = [
            jax.tree.map(lambda leaf, c=c: leaf + align(c, leaf).astype(leaf.dtype), one)
            for one, c in zip(new, row.offset, strict=True)
        ]
    if project is not None:
        new = [project(one, row.t_next) for one in new]
    return TableState(tuple(new), ring)


@eqx.filter_jit
def _step(table: SamplerTable, model, k: Array, state: TableState, key, cond, project) -> TableState:
    row = jax.tree.map(lambda leaf: leaf[k], table.rows(state.slots[0]))
    return _apply_row(table, model, key, cond, project, state, k, row)


def run_table(
    table: SamplerTable,
    model: Any,
    x: PyTree,
    key: Array | None = None,
    cond: Any = None,
    *,
    trajectory: bool = False,
    state: bool = False,
    remat: bool = True,
    project: Callable[[PyTree, Array], PyTree] | None = None,
) -> PyTree:
    """Run every row of a table from `x`; the unchecked core of `odekit.sample`, for use inside other programs.

    Args:
        table: the sampler.
        model: offers the prediction named by `table.view`, called as `model.data(x, t, cond)`.
        x: pytree of float arrays, the state at `table.t_state[0]`; or a `TableState`, to start from its slots.
        key: one key, or (batch,) keys so that a sample's noise does not depend on its batch; noise is a function of
            key and row number. None for deterministic tables.
        cond: handed to the model.
        trajectory: whether to return what the model saw at every row and the result, stacked.
        state: whether to return all that the loop ended with instead of the sample.
        remat: whether a reverse pass repeats network evaluations instead of storing their insides.
        project: `project(x, t)` returns what takes the place of every slot `x` after a row that ends at time `t`:
            reflection into a domain, known pixels put back.

    Returns:
        The sample, like `x`; with `trajectory` (N+1, ...) of these at the times `table.t_state`; with `state` the last
        `TableState`.

    Raises:
        ValueError: a prediction does not match the state in structure, shape or dtype.

    Example:
        >>> from odekit.samplers import ddim, gaussian
        >>> from odekit.schedules import FlowMatching
        >>> flow = FlowMatching()
        >>> float(run_table(ddim(flow, [1.0, 0.0]), gaussian([3.0], 0.1, flow), jnp.zeros(1))[0])
        3.0
    """

    def step(carry, indexed_row):
        carry = _apply_row(table, model, key, cond, project, carry, *indexed_row)
        return carry, carry.slots[0] if trajectory else None

    rows = (jnp.arange(table.nfe, dtype=jnp.int32), table.rows(x))
    begin = table.init(x, key)
    end, visited = march(step, begin, rows, remat=remat)
    if not trajectory:
        return end if state else end.slots[0]
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), begin.slots[0], visited)
