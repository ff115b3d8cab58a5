"""Extended reverse-time SDEs: any noise that keeps the marginals, given as a function of sigma / alpha."""

from collections.abc import Callable
from typing import Any

import numpy as np

from odekit.errors import require_one_of
from odekit.loops.table import SamplerTable
from odekit.samplers.exponential import Exponential
from odekit.samplers.grids import Grid, on_grid
from odekit.samplers.multistep import multistep, step_orders, weights_by_age
from odekit.samplers.weights import NODES, WEIGHTS
from odekit.schedules import Schedule, namespace

NOISE_SCALES: dict[str, Callable[[Any], Any]] = {
    "ode": lambda rho: rho,
    "sde": lambda rho: rho**2,
    "sde1": lambda rho: rho * (namespace(rho).exp(-1 / rho) + 10),
    "sde2": lambda rho: rho**1.5,
    "sde3": lambda rho: rho**2.5,
    "sde4": lambda rho: rho**0.9 * namespace(rho).log1p(100 * rho**1.5) / np.log(10),
    "sde5": lambda rho: rho * (namespace(rho).exp(rho**0.3) + 10),
}


def er_sde(
    schedule: Schedule,
    ts: Any,
    order: int = 3,
    *,
    noise_scale: str | Callable[[Any], Any] = "sde5",
    lower_order_final: bool | str | None = False,
    compat: bool = False,
) -> SamplerTable:
    """ER-SDE-Solver: order 1 to 3 in rho = sigma/alpha on the data prediction, one evaluation per step.

    For stochastic sampling in few steps. The noise scale phi sets how much noise a step replaces: with
    `r = phi(rho_t) / phi(rho_s)` a step keeps r of `x / alpha` and adds noise of variance `rho_t**2 - r**2 rho_s**2`.
    "ode" (rho) adds none, "sde" (its square) is the reverse SDE, any power `1 + tau**2` that of `sa(tau=)`. The weights
    are exact integrals of the polynomial through past predictions; as published, the first derivative is a backward
    difference and integrals are sums of 100 rectangles, which makes order 3 second order.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data.
        order: 1, 2 or 3.
        noise_scale: "ode", "sde", "sde1" to "sde5" as in the paper, or a function of rho, array to array (NumPy for a
            concrete grid, JAX for one being trained), positive, with phi(rho) / rho not decreasing.
        lower_order_final: as for `dpmpp`.
        compat: whether the weights are as published.

    Returns:
        A table of N rows in the data view, stochastic unless the noise scale is "ode".

    Raises:
        ValueError: the grid is not monotone or runs from data to noise; order is not 1, 2 or 3; there is no such noise
            scale, or it does not keep the marginals.

    Example:
        >>> from odekit.schedules import EDM
        >>> er_sde(EDM(), [80.0, 10.0, 1.0, 0.0]).evals.shape
        (3, 1, 3)

    Source: Cui et al., 2023, propositions 3-5 and appendix A.8 (arXiv 2309.06169).
    """
    require_one_of("order", order, (1, 2, 3))
    if not callable(noise_scale):
        require_one_of("noise_scale", noise_scale, tuple(NOISE_SCALES))
    phi = noise_scale if callable(noise_scale) else NOISE_SCALES[noise_scale]
    grid = on_grid(schedule, ts)
    if noise_scale != "ode":
        grid.need_descent("noise_scale")
    ex = _extended(grid, phi, compat)
    ages = weights_by_age(grid, step_orders(grid, order, lower_order_final), ex.predict, order)
    source = "Cui et al., ER-SDE-Solver, 2023 (arXiv 2309.06169)"
    noise = None if noise_scale == "ode" else ex.noise
    return multistep(grid, ex.keep, ages, noise, view="data", name=f"er_sde{order}", source=source)


def _extended(grid: Grid, phi: Callable[[Any], Any], compat: bool) -> Exponential:
    """The exact step under a noise scale; constant tau is the scale `rho**(1 + tau**2)`."""
    xp, rho = grid.xp, grid.xp.exp(-grid.lam)
    # paths from pure noise to none have rho infinite and 0 at their ends; float32 still holds the square of 1e15
    near = xp.clip(rho, 1e-15, 1e15)
    with np.errstate(over="ignore"):
        ratio = phi(near) / near
    if not grid.traced and not np.all((ratio[1:] > 0) & (ratio[1:] <= ratio[:-1] * (1 + 1e-12))):
        raise ValueError("`noise_scale` must be positive with noise_scale(rho) / rho not decreasing, such as 'sde'.")
    fading = ratio[1:] / ratio[:-1]
    keep = grid.keep * fading
    gain = grid.alpha[1:] - grid.alpha[:-1] * keep

    def moments(rows: np.ndarray, count: int) -> list:
        """By parts: `int k (l - start)**(k-1) (phi(end) / phi(l) - 1) dl`, in which no derivative of phi is left."""
        if count == 1:
            return [gain[rows]]
        start, end = near[rows][:, None], near[rows + 1][:, None]
        x, w = (xp.asarray(a, grid.ts.dtype)[None, :] for a in (NODES, WEIGHTS))
        at, w = start * (end / start) ** x, w * xp.log(start / end)
        pull, ahead, w = phi(end) / phi(at), at - start, w * at
        exact = [k * xp.sum(w * ahead ** (k - 1) * (pull - 1), axis=1) for k in range(1, count)]
        return [gain[rows], *(grid.alpha[rows + 1] * moment for moment in exact)]

    def published(rows: np.ndarray, count: int) -> list:
        """By the rectangle rule, with a backward difference where the polynomial's derivative belongs."""
        if count == 1:
            return [gain[rows]]
        start, end = rho[rows][:, None], rho[rows + 1][:, None]
        at, w = end + xp.asarray(np.arange(100) / 100, grid.ts.dtype)[None, :] * (start - end), (start - end) / 100
        pull, ahead = phi(end) / phi(at), at - start
        sums = [(end - start)[:, 0] ** k + k * xp.sum(w * ahead ** (k - 1) * pull, axis=1) for k in range(1, count)]
        if count == 3:
            sums[1] = sums[1] + (rho[rows - 1] - rho[rows]) * sums[0]
        return [gain[rows], *(grid.alpha[rows + 1] * moment for moment in sums)]

    noise = grid.sigma[1:] * xp.sqrt((1 - fading) * (1 + fading))
    return Exponential(grid, grid.lam[1:] - grid.lam[:-1], keep, noise, rho, published if compat else moments)
