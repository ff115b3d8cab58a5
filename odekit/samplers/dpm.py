"""DPM-Solver++: exponential multistep methods in lam on the data prediction."""

from typing import Any

import numpy as np

from odekit.loops.table import SamplerTable
from odekit.samplers.grids import on_grid
from odekit.samplers.multistep import multistep, step_orders, weights_by_age
from odekit.samplers.weights import exponential_moments, polynomial_weights
from odekit.schedules import Schedule

_SOURCE = "Lu et al., DPM-Solver++, 2022, algorithm 2 (arXiv 2211.01095)"


def dpmpp(
    schedule: Schedule,
    ts: Any,
    order: int = 2,
    *,
    lower_order_final: bool | None = None,
    compat: bool = False,
) -> SamplerTable:
    """DPM-Solver++ multistep: order 1 to 3 in lam, one evaluation per step.

    The usual choice for few steps with a diffusion model, order 2 with strong guidance, order 3 without. Order 1 is
    DDIM. Order 3 is the exact integral of the interpolating parabola; as published, its second-difference term is half
    of that, which makes the method second order.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data.
        order: 1, 2 or 3.
        lower_order_final: whether the last steps go down to order 1 again; None where that pays, under 15 steps or
            where the last step in lam is over twice the one before.
        compat: whether order 3 is as published (and as in most other code).

    Returns:
        A table of N rows in the data view.

    Raises:
        ValueError: the grid is not monotone, or order is not 1, 2 or 3.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> dpmpp(FlowMatching(), [1.0, 0.6, 0.3, 0.0]).evals.shape
        (3, 1, 2)

    Source: Lu et al., DPM-Solver++, 2022, algorithm 2 (arXiv 2211.01095).
    """
    if order not in (1, 2, 3):
        raise ValueError(f"`order` is {order!r}; it must be 1, 2 or 3.")
    grid = on_grid(schedule, ts)

    def weights(rows: np.ndarray, order: int) -> list:
        gain = grid.gain[rows]
        if order == 1:
            return [gain]
        dlam = grid.lam[rows + 1] - grid.lam[rows]
        offsets = [0.0, *(grid.lam[rows - j] - grid.lam[rows] for j in range(1, order))]
        if order == 2:  # the mean of a linear function, not its exponentially weighted mean
            return polynomial_weights(offsets, [gain, 0.5 * dlam * gain])
        _, first, second = exponential_moments(grid.xp, dlam, 3)
        scale = grid.alpha[rows + 1] * dlam
        return polynomial_weights(offsets, [gain, scale * first, scale * dlam * second * (0.5 if compat else 1.0)])

    ages = weights_by_age(grid, step_orders(grid, order, lower_order_final), weights, order)
    return multistep(grid, grid.keep, ages, view="data", name=f"dpmpp{order}", source=_SOURCE)
