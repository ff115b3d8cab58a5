"""Front door of sampling: check, convert, run the table."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from odekit.loops.table import SamplerTable, TableState, run_table
from odekit.typing import PyTree


def sample(
    model: Any,
    table: SamplerTable,
    x_init: PyTree,
    *,
    key: Array | None = None,
    cond: Any = None,
    trajectory: bool = False,
    state: bool = False,
    progress: Callable[[int, int], None] | None = None,
    project: Callable[[PyTree, Array], PyTree] | None = None,
) -> PyTree:
    """Generate samples: run a model through a sampler's table, one network evaluation per row.

    Composes with `jax.jit`, `jax.vmap` and `jax.grad`, with respect to the state, the model and the table. The loop is
    compiled once per shape; new numbers in any of them compile nothing.

    Args:
        model: a `Denoiser`, or any object with a method named like `table.view`, called as `(x, t, cond)`.
        table: from a builder such as `dpmpp(schedule, ts)`.
        x_init: pytree of float arrays, usually sigma(t_0) times unit normals; its dtype is kept. Or a `TableState` of
            such slots, as `invert` and `state` return them.
        key: for stochastic tables: one key, or (batch,) keys, which make a sample independent of its batch.
        cond: handed to the model.
        trajectory: whether to return what the model saw at every row, and the result, stacked.
        state: whether to return all slots at the end, from which `invert` undoes a reversible table exactly.
        progress: called on the host as `progress(rows_done, n_rows)` after every row, which runs row by row then.
        project: `project(x, t)` takes the place of the state `x` after a row that ends at time `t`: reflection into a
            domain, known pixels put back. Hooks on the prediction are part of the model: `guided`, `thresholded`.

    Returns:
        The sample, like `x_init`; with `trajectory` N+1 of these at the times `table.t_state`; with `state` a
        `TableState`, whose `slots[0]` is the sample.

    Raises:
        TypeError: the model lacks the table's view, or x_init is not made of float arrays.
        ValueError: a stochastic table has no key, the keys do not fit the batch, a prediction does not match the state,
            the number of slots is not the table's, both trajectory and state are asked for, or progress is asked for
            inside a transformation.

    Example:
        >>> from odekit.samplers import adams, gaussian, time_grid
        >>> from odekit.schedules import FlowMatching
        >>> flow = FlowMatching()
        >>> table = adams(flow, time_grid(flow, 10), order=2)
        >>> sample(gaussian([1.0], 0.5, flow), table, jnp.zeros((3, 1))).shape
        (3, 1)

    Source: the sampler's own, `table.source`.
    """
    if trajectory and state:
        raise ValueError("`trajectory` and `state` are both True; ask for one of them.")
    x = start_of(x_init)
    check(model, table, x, key)
    table = table.unlabelled()
    if progress is None:
        return _run(table, model, x, key, cond, trajectory, state, project)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((table, x, key, cond))):
        raise ValueError("`progress` was given inside a transformation such as jit; call `sample` outside, or drop it.")
    return _run_by_rows(table, model, x, key, cond, trajectory, state, project, progress)


@eqx.filter_jit
def _run(table, model, x, key, cond, trajectory, state, project):
    return run_table(table, model, x, key, cond, trajectory=trajectory, state=state, project=project)


def _run_by_rows(table, model, x, key, cond, trajectory, state, project, progress):
    at = table.init(x, key)
    seen = [at.slots[0]]
    for k in range(table.nfe):
        at = table.step(model, k, at, key, cond, project)
        seen = [*seen, at.slots[0]] if trajectory else seen
        progress(k + 1, table.nfe)
    if trajectory:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *seen)
    return at if state else at.slots[0]


def start_of(x: PyTree) -> PyTree:
    """Return a start as arrays; of a `TableState` only the slots count."""
    return jax.tree.map(jnp.asarray, TableState(tuple(x.slots)) if isinstance(x, TableState) else x)


def check(model: Any, table: SamplerTable, x: PyTree, key: Array | None, noisy: bool = False) -> None:
    """Raise unless the model can run the table from `x`, with `key` where table or caller is `noisy`."""
    if not isinstance(table, SamplerTable):
        raise TypeError(
            f"`table` is a {type(table).__name__}; call a builder such as `dpmpp(schedule, ts)` to make one."
        )
    if not callable(getattr(model, table.view, None)):
        kind = type(model).__name__
        raise TypeError(f"`model` is a {kind} without a method `{table.view}`; wrap the network in a `Denoiser`.")
    leaves = jax.tree.leaves(x)
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        found = ", ".join(str(leaf.dtype) for leaf in leaves) or "nothing"
        raise TypeError(f"`x_init` holds {found}; it must hold float arrays.")
    if isinstance(x, TableState) and len(x.slots) != (slots := table.evals.shape[1]):
        raise ValueError(f"`x_init` has {len(x.slots)} slots; the table {table.name!r} has {slots}.")
    if not (noisy or table.stochastic):
        return
    if key is None:
        raise ValueError(f"`key` is None, but the table {table.name!r} adds noise; pass `key=jax.random.key(0)`.")
    batch = key.shape if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key.shape[:-1]
    if len(batch) > 1 or (batch and any(leaf.shape[:1] != batch for leaf in leaves)):
        sizes = [leaf.shape for leaf in leaves]
        raise ValueError(f"`key` holds {batch} keys for states of {sizes}; pass one key, or one per sample.")
