"""Methods that remember past evaluations: which order each step has, and their weights as a table."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from odekit.loops.table import SamplerTable
from odekit.samplers.grids import Grid


def ramp(n: int, order: int) -> np.ndarray:
    """Return the orders that history allows: 1, 2 ... up to `order`."""
    return np.minimum(order, 1 + np.arange(n))


def step_orders(grid: Grid, order: int, lower_order_final: bool | None) -> np.ndarray:
    """Return the order of every step: the ramp, and at the end its mirror image if asked for.

    None lowers where it pays: under 15 steps, where the last step in lam is over twice the one before, and on a grid
    being trained. A last point without noise always gets order 1, which is exact for its own data prediction.

    Raises:
        ValueError: order is not 1, 2, 3 or 4.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"`order` is {order!r}; it must be 1, 2, 3 or 4.")
    orders = ramp(grid.n, order)
    if lower_order_final is None:
        lower_order_final = grid.traced or grid.n < 15 or grid.jumps_at_end
    if lower_order_final:
        return np.minimum(orders, grid.n - np.arange(grid.n))
    if not grid.traced and grid.ends_at_zero:
        orders[-1] = 1
    return orders


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
    """Reorder (N, H) weights from age, 0 for the row's own evaluation, to ring position."""
    depth = ages.shape[1]
    return grid.xp.take_along_axis(ages, (np.arange(grid.n)[:, None] - np.arange(depth)) % depth, axis=1)


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
