"""Methods that remember past evaluations: which order each step has, and their weights as a table."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from odekit.errors import require_one_of
from odekit.loops.table import SamplerTable
from odekit.samplers.grids import Grid


def ramp(n: int, order: int) -> np.ndarray:
    """Return the orders that history allows: 1, 2 ... up to `order`."""
    return np.minimum(order, 1 + np.arange(n))


def step_orders(grid: Grid, order: int, lower_order_final: bool | str | None) -> np.ndarray:
    """Return the order of every step: the ramp, and at the end its mirror image if asked for.

    "last" lowers the last step alone. None lowers where it pays: under 15 steps, where the last step in lam is over
    twice the one before, and on a grid being trained. A last point without noise always gets order 1, which is exact
    for its own data prediction.

    Raises:
        ValueError: order is not 1, 2, 3 or 4.
    """
    require_one_of("order", order, (1, 2, 3, 4))
    require_one_of("lower_order_final", lower_order_final, (True, False, "last", None))
    orders = ramp(grid.n, order)
    if lower_order_final is None:
        lower_order_final = grid.traced or grid.n < 15 or grid.jumps_at_end
    if lower_order_final == "last" or (not grid.traced and grid.ends_at_zero):
        orders[-1] = 1
    mirrored = lower_order_final and lower_order_final != "last"
    return np.minimum(orders, grid.n - np.arange(grid.n)) if mirrored else orders


def weights_by_age(grid: Grid, orders: np.ndarray, weights: Callable[[np.ndarray, int], list], depth: int) -> Any:
    """Return (N, depth) weights, filled order by order so that no row meets history it does not have.

    Args:
        grid: N steps.
        orders: (N,) concrete; 0 leaves a row empty.
        weights: `weights(rows, order)` returns at most `depth` columns for these rows, newest evaluation first.
        depth: number of columns.
    """
    xp, out = grid.xp, grid.xp.zeros((grid.n, depth), grid.ts.dtype)
    for order in sorted(set(orders.tolist()) - {0}):
        rows = np.flatnonzero(orders == order)
        columns = xp.stack(weights(rows, order), axis=-1)
        if xp is np:
            out[rows, : columns.shape[1]] = columns
        else:
            out = out.at[rows, : columns.shape[1]].set(columns)
    return out


def by_ring(grid: Grid, ages: Any) -> Any:
    """Reorder (rows, H) weights from age, 0 for the row's own evaluation, to ring position."""
    rows, depth = ages.shape
    return grid.xp.take_along_axis(ages, (np.arange(rows)[:, None] - np.arange(depth)) % depth, axis=1)


def as_predicted(grid: Grid, ages: Any) -> Any:
    """Return the (N, H) corrections that leave every state as it was predicted, by age one step later."""
    zero = grid.xp.zeros_like(ages)
    return grid.xp.concatenate([zero[:1], grid.xp.concatenate([zero[1:, :1], ages[:-1, :-1]], axis=1)])


def multistep(grid: Grid, keep: Any, ages: Any, noise: Any = None, **about: Any) -> SamplerTable:
    """Return the table of `x1 = keep x0 + sum_a ages[:, a] F_{k-a} + noise z`: one slot, a ring of H evaluations.

    Args:
        grid: N steps.
        keep: (N,).
        ages: (N, H).
        noise: (N,) or None.
        about: view, name and source of the table.
    """
    return SamplerTable(
        t=jnp.asarray(grid.ts[:-1]),
        states=jnp.asarray(keep)[:, None, None],
        evals=jnp.asarray(by_ring(grid, ages))[:, None, :],
        noise=None if noise is None else jnp.asarray(noise)[:, None],
        t_state=jnp.asarray(grid.ts),
        **about,
    )


def corrected_multistep(grid: Grid, keep: Any, ages: Any, fix: Any, noise: Any = None, **about: Any) -> SamplerTable:
    """Return the table of a predictor-corrector whose corrector costs nothing, fused with the next predictor.

    Slot 1 is the last state before its evaluations were added, so that row k, which knows the evaluation at the
    predicted state k, can first complete state k by `fix` and then predict state k+1. Both share the row's noise.

    Args:
        grid: N steps.
        keep: (N,).
        ages: (N, H) weights of the predictor of step k.
        fix: (N, H) weights of the corrector of step k-1 by age, the evaluation at its end being newest; row 0 is zero.
        noise: (N,) or None.
        about: view, name and source of the table.
    """
    xp = grid.xp
    carried = keep[:, None] * fix
    zero = xp.zeros_like(keep)
    states = xp.stack([xp.stack([zero, keep], axis=-1)] * 2, axis=1)
    evals = xp.stack([by_ring(grid, carried + ages), by_ring(grid, carried)], axis=1)
    return SamplerTable(
        t=jnp.asarray(grid.ts[:-1]),
        states=jnp.asarray(states),
        evals=jnp.asarray(evals),
        noise=None if noise is None else jnp.stack([jnp.asarray(noise)] * 2, axis=-1),
        t_state=jnp.asarray(grid.ts),
        **about,
    )
