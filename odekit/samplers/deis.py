"""DEIS: exponential methods on the noise prediction, by polynomials in time, in rho = sigma / alpha or in lam."""

import dataclasses
from typing import Any

import numpy as np

from odekit.errors import require_one_of
from odekit.loops.table import SamplerTable
from odekit.samplers.exponential import Exponential, exponential
from odekit.samplers.grids import on_grid
from odekit.samplers.multistep import multistep, step_orders, weights_by_age
from odekit.samplers.rk import RHO_RULES, runge_kutta
from odekit.schedules import Schedule

_SOURCE = "Zhang & Chen, DEIS, ICLR 2023 (arXiv 2204.13902)"
_VARIABLES = {"tab": "time", "rhoab": "rho", "lam": "lam"}


def deis(
    schedule: Schedule,
    ts: Any,
    order: int = 3,
    kind: str = "tab",
    *,
    lower_order_final: bool | str | None = None,
    compat: bool = False,
) -> SamplerTable:
    """DEIS: the noise prediction as a polynomial, integrated exactly; one evaluation per step.

    "tab" suits few steps on quadratic grids. "rhoab" is Adams in rho (iPNDM with variable steps). "lam" is `dpm` with
    exact weights, and what diffusers calls DEIS. As in the paper `order` counts past evaluations: 0 is DDIM, and the
    order of convergence is one more. "rhork" are Runge-Kutta rules in rho (Heun's, Kutta's, the classical one) with
    order + 1 evaluations per step.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the first has some data in it.
        order: 0 to 3, degree of the polynomial.
        kind: "tab", "rhoab" or "lam" for a polynomial in time, rho or lam; "rhork".
        lower_order_final: as for `dpmpp`; None never lowers "tab" and "rhoab", as published: it only costs accuracy
            there (errors of .042 for .022 in 20 uniform steps), because no step is large in their variable.
        compat: whether integrals are left rectangles of 10,000 points, as in the authors' code, which leaves errors
            of some 1e-3 in the samples.

    Returns:
        A table of N rows in the noise view.

    Raises:
        ValueError: the grid is not monotone, or starts without data; order or kind is none of the above.

    Example:
        >>> from odekit.schedules import VPLinear
        >>> deis(VPLinear(), [1.0, 0.6, 0.3, 0.001], order=2).evals.shape
        (3, 1, 3)

    Source: Zhang & Chen, DEIS, ICLR 2023, eqs. 14-15 (arXiv 2204.13902).
    """
    require_one_of("kind", kind, (*_VARIABLES, "rhork"))
    about = {"view": "noise", "name": f"deis{order}", "source": _SOURCE}
    require_one_of("order", order, (0, 1, 2, 3))
    if kind == "rhork":
        return dataclasses.replace(runge_kutta(schedule, ts, RHO_RULES[order], "rho"), **about)
    grid = on_grid(schedule, ts)
    ex = exponential(grid, schedule, view="noise", variable=_VARIABLES[kind])
    ex = _by_rectangles(ex, schedule, kind) if compat else ex
    if lower_order_final is None and kind != "lam":
        lower_order_final = False
    orders = step_orders(grid, order + 1, lower_order_final)
    return multistep(grid, ex.keep, weights_by_age(grid, orders, ex.predict, order + 1), **about)


def _by_rectangles(ex: Exponential, schedule: Schedule, kind: str) -> Exponential:
    """Return `ex` with the quadrature of the authors' code: equal steps in the variable, weighed at their starts."""
    grid, x = ex.grid, np.arange(10_000)[None, :] / 10_000

    def moments(rows: np.ndarray, count: int) -> list:
        start, step = ex.at[rows][:, None], (ex.at[rows + 1] - ex.at[rows])[:, None]
        here, ahead = start + step * x, step * x
        if kind == "tab":
            alpha, sigma = schedule.alpha(here), schedule.sigma(here)
            rate = (schedule.sigma_dot(here) - sigma / alpha * schedule.alpha_dot(here)) / alpha  # d rho / d time
        else:
            rate = -grid.xp.exp(-here) if kind == "lam" else grid.xp.ones_like(here)
        weight = grid.alpha[rows + 1][:, None] * rate * step / x.size
        return [grid.xp.sum(weight * ahead**k, axis=1) for k in range(count)]

    return ex._replace(moments=moments)
