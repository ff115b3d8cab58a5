"""DPM-Solver and DPM-Solver++: exponential methods in lam, on the noise and on the data prediction."""

from typing import Any

import numpy as np
from jax.core import Tracer

from odekit.errors import require_one_of
from odekit.loops.table import SamplerTable
from odekit.samplers.exponential import exponential
from odekit.samplers.grids import on_grid
from odekit.samplers.multistep import multistep, step_orders, weights_by_age
from odekit.samplers.singlestep import budget_orders, singlestep
from odekit.schedules import Schedule


def dpm(
    schedule: Schedule,
    ts: Any,
    order: int | tuple[int, ...] = 2,
    kind: str = "multistep",
    *,
    variant: str = "midpoint",
    tau: Any = 0.0,
    lower_order_final: bool | str | None = None,
    compat: bool = False,
) -> SamplerTable:
    """DPM-Solver: order 1 to 3 in lam on the noise prediction.

    For diffusion without guidance; with strong guidance, and on paths that start as pure noise, take `dpmpp`. Order 1
    is DDIM. The multistep kind costs one evaluation per step, the single-step kind `order` evaluations.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the first has some data in it.
        order: 1, 2 or 3; for single steps also one for each step, such as `budget_orders(nfe)`.
        kind: as for `dpmpp`.
        variant: as for `dpmpp`.
        tau: as for `dpmpp`; with noise this view is unstable on large steps.
        lower_order_final: as for `dpmpp`.
        compat: as for `dpmpp`.

    Returns:
        A table in the noise view.

    Raises:
        ValueError: the grid is not monotone, or starts without data; order, kind or variant is none of the above.

    Example:
        >>> from odekit.schedules import VPLinear
        >>> dpm(VPLinear(), [1.0, 0.6, 0.3, 0.001]).evals.shape
        (3, 1, 2)

    Source: Lu et al., DPM-Solver, NeurIPS 2022, section 3 (arXiv 2206.00927).
    """
    about = {"view": "noise", "name": "dpm", "source": "Lu et al., DPM-Solver, NeurIPS 2022 (arXiv 2206.00927)"}
    return _dpm(schedule, ts, order, kind, variant, tau, lower_order_final, compat, **about)


def dpmpp(
    schedule: Schedule,
    ts: Any,
    order: int | tuple[int, ...] = 2,
    kind: str = "multistep",
    *,
    variant: str = "midpoint",
    tau: Any = 0.0,
    lower_order_final: bool | str | None = None,
    compat: bool = False,
) -> SamplerTable:
    """DPM-Solver++: order 1 to 3 in lam on the data prediction.

    The usual choice for few steps with a diffusion model, order 2 with strong guidance, order 3 without; for flows
    `adams` is better. Order 1 is DDIM. The multistep kind costs one evaluation per step, the single-step kind `order`
    evaluations. Multistep order 3 is the exact integral of the interpolating parabola; as published, its
    second-difference term is half of that, which makes the method second order.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data.
        order: 1, 2 or 3; for single steps also one for each step, such as `budget_orders(nfe)`.
        kind: "multistep", "singlestep" or "fast": single steps that join the steps of `ts` by two or three, so that
            all cost N evaluations.
        variant: how a multistep step of order 2 weighs its difference: "midpoint" by half the step, as published, or
            "heun" by the exact integral, which is `sa`. In a single step "heun" integrates the
            polynomial through all evaluations, "midpoint" leaves one of them out.
        tau: () or (N,) amount of noise of each multistep step, or a function of the time at which it ends; 1 is the
            reverse SDE (SDE-DPM-Solver++, order 2 in law). Elsewhere the square of it is called eta.
        lower_order_final: whether the last steps go down to order 1 again; "last" for the last step alone; None where
            that pays, under 15 steps or where the last step in lam is over twice the one before. Of single steps the
            last alone is lowered, by None where the grid ends without noise.
        compat: whether multistep order 3 is as published (and as in most other code).

    Returns:
        A table in the data view.

    Raises:
        ValueError: the grid is not monotone; order, kind or variant is none of the above.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> dpmpp(FlowMatching(), [1.0, 0.6, 0.3, 0.0]).evals.shape
        (3, 1, 2)

    Source: Lu et al., DPM-Solver++, 2022, algorithm 2 (arXiv 2211.01095).
    """
    about = {"view": "data", "name": "dpmpp", "source": "Lu et al., DPM-Solver++, 2022 (arXiv 2211.01095)"}
    return _dpm(schedule, ts, order, kind, variant, tau, lower_order_final, compat, **about)


def _dpm(
    schedule: Schedule, ts: Any, order: Any, kind: str, variant: str, tau: Any, lower: Any, compat: bool, **about: Any
) -> SamplerTable:
    about["name"] += str(order) if isinstance(order, int) else ""
    require_one_of("kind", kind, ("multistep", "singlestep", "fast"))
    require_one_of("variant", variant, ("midpoint", "heun"))
    if kind == "fast":
        order = budget_orders(len(ts) - 1, order)
        ts = (ts if isinstance(ts, Tracer) else np.asarray(ts))[np.cumsum([0, *order])]
    if kind != "multistep":
        return singlestep(order, schedule, ts, variant, lower, tau, **about)
    require_one_of("order", order, (1, 2, 3))
    grid = on_grid(schedule, ts, from_data=about["view"] == "noise")
    ex = exponential(grid, schedule, tau, view=about["view"])

    def moments(rows: np.ndarray, count: int) -> list:
        exact = ex.moments(rows, count)
        if count == 2 and variant == "midpoint":  # the mean of a linear function, not its exponentially weighted mean
            return [exact[0], 0.5 * ex.dlam[rows] * exact[0]]
        return [*exact[:2], 0.5 * exact[2]] if count == 3 and compat else exact

    published = ex._replace(moments=moments)
    ages = weights_by_age(grid, step_orders(grid, order, lower), published.predict, order)
    return multistep(grid, ex.keep, ages, ex.noise, **about)
