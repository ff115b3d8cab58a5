"""Exponential Adams: the weights of a polynomial through past predictions against the exact decay of a step.

With `q = 1 + tau**2`, a step of the diffusion (tau the amount of noise, 0 for the probability flow) is exactly

    data:   x1 = keep x0 + int alpha1 q exp(q (lam - lam1)) data dlam + noise z, keep = sigma1/sigma0 exp(-tau**2 dlam)
    noise:  x1 = keep x0 - int sigma1 q exp(lam1 - lam) noise dlam + noise z,    keep = alpha1/alpha0

Predictions are replaced by a polynomial in lam, in rho = exp(-lam) or in time. DPM-Solver, UniPC, SA-Solver and DEIS
are choices of view, variable, order and tau.

Source: Xue et al., SA-Solver, NeurIPS 2023, eqs. 6-8 (arXiv 2309.05019); Zhang & Chen, DEIS, ICLR 2023, eq. 11.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.core import Tracer

from odekit.samplers.grids import Grid, root
from odekit.samplers.multistep import step_orders
from odekit.samplers.weights import NODES, WEIGHTS, polynomial_weights
from odekit.schedules import Schedule

# Takes the place of an infinite lam: so far off that a polynomial does not feel it, with finite gradients.
FAR = 1e15


class Exponential(NamedTuple):
    """What an exponential method needs of a grid.

    Attributes:
        grid: N steps.
        dlam: (N,) steps in lam, 0 for an infinite one, which makes the step of order 1.
        keep: (N,) weight of the state.
        noise: (N,) standard deviation of the fresh noise, or None without any.
        at: (N+1,) the variable that polynomials are in, at every point of the grid.
        moments: `moments(rows, count)`, integrals of the step's weight times powers of (variable - its start).
    """

    grid: Grid
    dlam: Any
    keep: Any
    noise: Any
    at: Any
    moments: Callable[[np.ndarray, int], list]

    def predict(self, rows: np.ndarray, order: int) -> list:
        """Return the weights of the last `order` evaluations for the steps `rows`, newest first."""
        older = (self.at[rows - j] - self.at[rows] for j in range(1, order))
        return polynomial_weights([0.0, *older], self.moments(rows, order))

    def correct(self, rows: np.ndarray, nodes: int) -> list:
        """Return the weights for the steps that end at `rows`, whose evaluation is the newest of `nodes`."""
        start = rows - 1
        if nodes == 1:
            return [self.grid.xp.zeros_like(self.grid.lam[rows]), *self.predict(start, 1)]
        others = [rows, *(start - j for j in range(1, nodes - 1))]
        offsets = [0.0, *(self.at[i] - self.at[start] for i in others)]
        first, newest, *older = polynomial_weights(offsets, self.moments(start, nodes))
        return [newest, first, *older]

    def corrections(self, nodes: int, lower_order_final: bool | str | None) -> np.ndarray:
        """Return how many evaluations, at most `nodes`, correct the state at the start of each row."""
        return np.append(0, np.minimum(nodes, step_orders(self.grid, 4, lower_order_final)[:-1] + 1))


def amounts(grid: Grid, tau: Any) -> Any:
    """Return (N,) amounts of noise, traced where `tau` is a function and the grid is being trained."""
    tau = tau(grid.ts[1:]) if callable(tau) else tau
    xp = grid.xp if isinstance(tau, Tracer) else np
    tau = xp.asarray(tau, grid.ts.dtype)
    if tau.shape not in ((), (grid.n,)):
        raise ValueError(f"`tau` has shape {tau.shape}; it must be a number or one for each of the {grid.n} steps.")
    return xp.broadcast_to(tau, (grid.n,))


def exponential(
    grid: Grid, schedule: Schedule, tau: Any = 0.0, *, view: str = "data", variable: str = "lam"
) -> Exponential:
    """Return the exact step and its moments.

    Args:
        grid: N steps.
        schedule: the noise schedule, for polynomials in time.
        tau: () or (N,) concrete amount of noise of each step, or a function of the time at which it ends.
        view: "data" or "noise".
        variable: "lam", "rho" or "time".

    Raises:
        ValueError: tau is neither a number nor one for each step, or noise is added on the way from data to noise.
    """
    if view == "noise":
        grid.need_data()
    xp, tau = grid.xp, amounts(grid, tau)
    tau2 = xp.asarray(tau**2, grid.ts.dtype)
    lam = xp.clip(grid.lam, -FAR, FAR)
    steps = lam[1:] - lam[:-1]
    dlam = xp.where(abs(steps) < FAR / 2, steps, 0.0)
    # a power of zero has no derivative
    fades = (tau2 > 0) & (grid.decay > 0)
    q, fading = 1 + tau2, xp.where(fades, xp.where(fades, grid.decay, 1.0) ** tau2, xp.where(tau2 > 0, 0.0, 1.0))
    keep = grid.keep * fading if view == "data" else grid.alpha[1:] / grid.alpha[:-1]
    gain = grid.alpha[1:] - grid.alpha[:-1] * keep if view == "data" else q * (grid.sigma[1:] - grid.sigma[:-1] * keep)
    at = {"lam": lambda: lam, "rho": lambda: grid.sigma / grid.alpha, "time": lambda: grid.ts}[variable]()

    def moments(rows: np.ndarray, count: int) -> list:
        if count == 1:  # exact at both ends, where lam is infinite
            return [gain[rows]]
        x, w = (xp.asarray(a, grid.ts.dtype)[None, :] for a in (NODES, WEIGHTS))
        start, step = lam[rows][:, None], dlam[rows][:, None]
        if view == "data":
            weight = grid.alpha[rows + 1][:, None] * q[rows][:, None] * xp.exp(-q[rows][:, None] * step * (1 - x))
        else:
            weight = -(grid.sigma[rows] * keep[rows] * q[rows])[:, None] * xp.exp(-step * x)
        ahead = {
            "lam": lambda: step * x,
            "rho": lambda: xp.exp(-start) * xp.expm1(-step * x),
            "time": lambda: schedule.t_of_lam(start + step * x) - grid.ts[rows][:, None],
        }[variable]()
        return [gain[rows], *(xp.sum(w * step * weight * ahead**k, axis=1) for k in range(1, count))]

    noise = None
    if isinstance(tau, Tracer) or np.any(tau != 0):
        grid.need_descent("tau")
        noise = grid.sigma[1:] * root(xp, 1 - fading**2)
        if view == "noise":  # tau sigma1 sqrt(exp(2 dlam) - 1)
            noise = keep * grid.sigma[:-1] * root(xp, tau2 * (1 - grid.decay) * (1 + grid.decay))
    return Exponential(grid, dlam, keep, noise, at, moments)
