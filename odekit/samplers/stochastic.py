"""Samplers that add noise on the way."""

from typing import Any

import numpy as np

from odekit.loops.table import SamplerTable
from odekit.samplers.grids import Grid, on_grid
from odekit.samplers.multistep import corrected_multistep, multistep, step_orders, weights_by_age
from odekit.samplers.weights import exponential_moments, polynomial_weights
from odekit.schedules import Schedule

_SOURCE = "Xue et al., SA-Solver, NeurIPS 2023 (arXiv 2305.14267)"


def sa(
    schedule: Schedule,
    ts: Any,
    order: int = 3,
    *,
    corrector: int | None = None,
    tau: Any = 1.0,
    lower_order_final: bool | None = None,
) -> SamplerTable:
    """Stochastic Adams: exponential Adams in lam on the data prediction, with any amount of noise.

    Integrates the reverse SDE whose noise is tau times the usual: 0 is the probability-flow ODE (there the predictor
    has order `order` in lam), 1 the reverse SDE (order 1 or 2 in law; more history lowers the constant). The corrector
    reuses the evaluation that the next step needs, so every table costs one evaluation per step.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data.
        order: 1 to 4, evaluations used by the predictor.
        corrector: 2 to 4, evaluations used by the corrector, the newest included; None for none.
        tau: () or (N,) amount of noise of each step.
        lower_order_final: as for `dpmpp`.

    Returns:
        A table of N rows in the data view, stochastic unless tau is 0.

    Raises:
        ValueError: the grid is not monotone, or adds noise on the way from data to noise; order is not 1 to 4,
            corrector not 2 to 4; tau does not fit.

    Example:
        >>> from odekit.schedules import VPLinear
        >>> sa(VPLinear(), [1.0, 0.6, 0.3, 0.001], order=2).noise.shape
        (3, 1)

    Source: Xue et al., SA-Solver, NeurIPS 2023 (arXiv 2305.14267).
    """
    if corrector not in (None, 2, 3, 4):
        raise ValueError(f"`corrector` is {corrector!r}; it must be None, 2, 3 or 4.")
    grid = on_grid(schedule, ts)
    orders, tau = step_orders(grid, order, lower_order_final), np.asarray(tau, np.float64)
    if tau.shape not in ((), (grid.n,)):
        raise ValueError(f"`tau` has shape {tau.shape}; it must be a number or one for each of the {grid.n} steps.")
    tau2 = grid.xp.asarray(np.broadcast_to(tau**2, (grid.n,)), grid.ts.dtype)
    fading = grid.decay**tau2
    keep, noise = grid.keep * fading, None
    if np.any(tau != 0):
        grid.need_descent("tau")
        noisy, variance = tau2 > 0, 1 - fading**2
        # the square root has no derivative at the zero variance of a step without noise
        noise = grid.sigma[1:] * grid.xp.where(noisy, grid.xp.sqrt(grid.xp.where(noisy, variance, 1.0)), 0.0)
    moments = _moments(grid, keep, 1 + tau2)
    about = {"view": "data", "name": f"sa{order}", "source": _SOURCE}

    def predict(rows: np.ndarray, order: int) -> list:
        older = (grid.lam[rows - j] - grid.lam[rows] for j in range(1, order))
        return polynomial_weights([0.0, *older], moments(rows, order))

    depth = max(order, corrector or 0)
    ages = weights_by_age(grid, orders, predict, depth)
    if corrector is None:
        return multistep(grid, keep, ages, noise, **about)

    def correct(rows: np.ndarray, nodes: int) -> list:
        start = rows - 1  # the corrected step ends at `rows`, whose evaluation is the newest
        if nodes == 1:
            return [grid.xp.zeros_like(grid.lam[rows]), *predict(start, 1)]
        others = [rows, *(start - j for j in range(1, nodes - 1))]
        offsets = [0.0, *(grid.lam[i] - grid.lam[start] for i in others)]
        first, newest, *older = polynomial_weights(offsets, moments(start, nodes))
        return [newest, first, *older]

    fixes = np.append(0, np.minimum(corrector, step_orders(grid, 4, lower_order_final)[:-1] + 1))
    if grid.starts_at_zero and grid.n > 1:
        fixes[1] = 1  # an infinite step in lam cannot be interpolated: it stays as predicted
    return corrected_multistep(grid, keep, ages, weights_by_age(grid, fixes, correct, depth), noise, **about)


def _moments(grid: Grid, keep: Any, q: Any):
    """Moments of `alpha q exp(q (lam - lam_end))` over a step about its start; the zeroth is exact at both ends."""
    gain = grid.alpha[1:] - grid.alpha[:-1] * keep

    def moments(rows: np.ndarray, count: int) -> list:
        if count == 1:
            return [gain[rows]]
        dlam = grid.lam[rows + 1] - grid.lam[rows]
        higher = exponential_moments(grid.xp, q[rows] * dlam, count)[1:]
        return [gain[rows], *(grid.alpha[rows + 1] * dlam**k * m for k, m in enumerate(higher, start=1))]

    return moments
