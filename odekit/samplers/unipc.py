"""UniPC: exponential Adams in lam, predictor and corrector of one evaluation."""

from typing import Any

import numpy as np

from odekit.errors import require_one_of
from odekit.loops.table import SamplerTable
from odekit.samplers.exponential import Exponential, exponential
from odekit.samplers.grids import on_grid
from odekit.samplers.multistep import as_predicted, corrected_multistep, multistep, step_orders, weights_by_age
from odekit.schedules import Schedule

_SOURCE = "Zhao et al., UniPC, NeurIPS 2023 (arXiv 2302.04867)"


def unipc(
    schedule: Schedule,
    ts: Any,
    order: int = 3,
    *,
    variant: str = "bh2",
    view: str = "data",
    corrector: Any = True,
    lower_order_final: bool | str | None = None,
    compat: bool = False,
) -> SamplerTable:
    """UniPC: a predictor of order 1 to 4 in lam, raised by one by its corrector, one evaluation per step.

    Among the best for few steps with a diffusion model: order 3 without guidance, order 2 with. The corrector of a step
    uses the evaluation that the next step needs anyway; the last step has none. Solved in full, the method is `sa`
    without noise, and its function B(h) cancels. As published, B(h) takes the place of the exact integral wherever two
    evaluations meet: in predictors of order 2 and in correctors of order 1.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data.
        order: 1 to 4, evaluations used by the predictor.
        variant: B(h) where compat uses it: "bh1" is h, "bh2" is exp(h) - 1, in the data view 1 - exp(-h).
        view: "data", or "noise", whose first time has some data in it.
        corrector: () or (N,), whether each step is corrected.
        lower_order_final: as for `dpmpp`.
        compat: whether two evaluations are weighed as published (and as in most other code).

    Returns:
        A table of N rows in that view.

    Raises:
        ValueError: the grid is not monotone, or starts without data in the noise view; another argument is none of the
            above.

    Example:
        >>> from odekit.schedules import VPLinear
        >>> unipc(VPLinear(), [1.0, 0.6, 0.3, 0.001], order=2).evals.shape
        (3, 2, 3)

    Source: Zhao et al., UniPC, NeurIPS 2023, algorithms 5-8 (arXiv 2302.04867).
    """
    require_one_of("variant", variant, ("bh1", "bh2"))
    require_one_of("view", view, ("data", "noise"))
    grid, corrected = on_grid(schedule, ts), np.asarray(corrector, bool)
    if corrected.shape not in ((), (grid.n,)):
        raise ValueError(f"`corrector` has shape {corrected.shape}; it must be one or {grid.n} truth values.")
    about = {"view": view, "name": f"unipc{order}", "source": _SOURCE}
    orders, ex = step_orders(grid, order, lower_order_final), exponential(grid, schedule, view=view)
    ex = _as_published(ex, view, variant) if compat else ex
    if not np.any(corrected):
        return multistep(grid, ex.keep, weights_by_age(grid, orders, ex.predict, order), **about)
    ages = weights_by_age(grid, orders, ex.predict, order + 1)
    fix = weights_by_age(grid, ex.corrections(order + 1, lower_order_final), ex.correct, order + 1)
    starts = np.append(False, np.broadcast_to(corrected, (grid.n,))[:-1])  # rows that start from a corrected state
    fix = grid.xp.where(starts[:, None], fix, as_predicted(grid, ages))
    return corrected_multistep(grid, ex.keep, ages, fix, **about)


def _as_published(ex: Exponential, view: str, variant: str) -> Exponential:
    grid = ex.grid

    def moments(rows: np.ndarray, count: int) -> list:
        exact = ex.moments(rows, count)
        if count != 2:
            return exact
        h = ex.dlam[rows]
        scale = grid.alpha[rows + 1] if view == "data" else -grid.sigma[rows + 1]
        return [exact[0], 0.5 * h * (exact[0] if variant == "bh2" else scale * h)]

    return ex._replace(moments=moments)
