"""Samplers that add noise on the way."""

from typing import Any

import numpy as np

from odekit.errors import require_one_of
from odekit.loops.table import SamplerTable
from odekit.samplers.exponential import Exponential, amounts, exponential
from odekit.samplers.grids import on_grid
from odekit.samplers.multistep import corrected_multistep, multistep, step_orders, weights_by_age
from odekit.samplers.singlestep import singlestep
from odekit.schedules import Schedule

_SOURCE = "Xue et al., SA-Solver, NeurIPS 2023 (arXiv 2309.05019)"


def sa(
    schedule: Schedule,
    ts: Any,
    order: int = 3,
    *,
    corrector: int | None = None,
    tau: Any = 1.0,
    lower_order_final: bool | str | None = None,
    compat: bool = False,
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
        tau: () or (N,) amount of noise of each step, or a function of the time at which it ends; published settings
            are a constant between two times, such as `lambda t: (t > 0.2) & (t < 0.8)`, and 0 outside.
        lower_order_final: as for `dpmpp`.
        compat: whether the weights are those that the authors use for few steps: with two evaluations the slope counts
            as if it acted over the whole step, orders are lowered at the end, and the last step adds no noise. (Their
            mode for more steps is a grid that ends without noise.)

    Returns:
        A table of N rows in the data view, stochastic unless tau is 0.

    Raises:
        ValueError: the grid is not monotone, or adds noise on the way from data to noise; order is not 1 to 4,
            corrector not 2 to 4; tau does not fit.

    Example:
        >>> from odekit.schedules import VPLinear
        >>> sa(VPLinear(), [1.0, 0.6, 0.3, 0.001], order=2).noise.shape
        (3, 1)

    Source: Xue et al., SA-Solver, NeurIPS 2023 (arXiv 2309.05019).
    """
    if corrector not in (None, 2, 3, 4):
        raise ValueError(f"`corrector` is {corrector!r}; it must be None, 2, 3 or 4.")
    grid = on_grid(schedule, ts)
    tau = amounts(grid, tau)
    if compat:
        lower_order_final, tau = True, grid.xp.where(np.arange(grid.n) < grid.n - 1, tau, 0.0)
    ex, orders = exponential(grid, schedule, tau), step_orders(grid, order, lower_order_final)
    ex = _few_steps(ex, tau) if compat else ex
    about = {"view": "data", "name": f"sa{order}", "source": _SOURCE}
    depth = max(order, corrector or 0)
    ages = weights_by_age(grid, orders, ex.predict, depth)
    if corrector is None:
        return multistep(grid, ex.keep, ages, ex.noise, **about)
    fix = weights_by_age(grid, ex.corrections(corrector, lower_order_final), ex.correct, depth)
    return corrected_multistep(grid, ex.keep, ages, fix, ex.noise, **about)


def _few_steps(ex: Exponential, tau: Any) -> Exponential:
    """Replace the mean of a linear function by its value at the end of the step times half of it."""

    def moments(rows: np.ndarray, count: int) -> list:
        exact = ex.moments(rows, count)
        if count != 2:
            return exact
        return [exact[0], ex.grid.alpha[rows + 1] * (1 + tau[rows] ** 2) * ex.dlam[rows] ** 2 / 2]

    return ex._replace(moments=moments)


def seeds(
    schedule: Schedule,
    ts: Any,
    order: int = 2,
    view: str = "data",
    *,
    tau: Any = 1.0,
    lower_order_final: bool | None = None,
) -> SamplerTable:
    """SEEDS: exponential Runge-Kutta steps whose stages lie on one path of the noise; order 1 or 2 in law.

    For many evaluations, where a sampler without history is wanted; with few `dpmpp(tau=1)` is better. Order 3 has law
    order 2 with a smaller constant. This is `dpmpp(kind="singlestep", tau=)`, in the noise view `dpm`, as published
    but unstable on large steps.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data.
        order: 1, 2 or 3, also the evaluations of each step.
        view: "data" or "noise"; the latter needs some data in the first point.
        tau: as for `sa`.
        lower_order_final: whether the last step is of order 1; None where the grid ends without noise.

    Returns:
        A stochastic table of `order` rows for each step, one for a last step of order 1.

    Raises:
        ValueError: the grid is not monotone, runs from data to noise, or starts without data in the noise view; order,
            view or tau is none of the above.

    Example:
        >>> from odekit.schedules import EDM
        >>> seeds(EDM(), [80.0, 1.0, 0.0], 3).nfe
        4

    Source: Gonzalez et al., SEEDS, NeurIPS 2023, algorithms 1-4 (arXiv 2305.14267).
    """
    require_one_of("view", view, ("data", "noise"))
    about = {"view": view, "name": f"seeds{order}", "source": "Gonzalez et al., SEEDS, NeurIPS 2023 (arXiv 2305.14267)"}
    return singlestep(order, schedule, ts, "midpoint", lower_order_final, tau, **about)
