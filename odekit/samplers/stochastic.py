"""Samplers that add noise on the way."""

from typing import Any

from odekit.loops.table import SamplerTable
from odekit.samplers.exponential import exponential
from odekit.samplers.grids import on_grid
from odekit.samplers.multistep import corrected_multistep, multistep, step_orders, weights_by_age
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
    ex, orders = exponential(grid, schedule, tau), step_orders(grid, order, lower_order_final)
    about = {"view": "data", "name": f"sa{order}", "source": _SOURCE}
    depth = max(order, corrector or 0)
    ages = weights_by_age(grid, orders, ex.predict, depth)
    if corrector is None:
        return multistep(grid, ex.keep, ages, ex.noise, **about)
    fix = weights_by_age(grid, ex.corrections(corrector, lower_order_final), ex.correct, depth)
    return corrected_multistep(grid, ex.keep, ages, fix, ex.noise, **about)
