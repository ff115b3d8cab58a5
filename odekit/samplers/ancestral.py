"""Samplers that retrace the noising chain step by step: ancestral sampling, and Euler rules for the reverse SDE."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from odekit.errors import require_one_of
from odekit.loops.table import SamplerTable
from odekit.samplers.ddim import ddim
from odekit.samplers.exponential import amounts
from odekit.samplers.grids import Grid, on_grid
from odekit.samplers.multistep import multistep
from odekit.samplers.stages import Stage, single_ends, staged
from odekit.schedules import Schedule


def ddpm(schedule: Schedule, ts: Any, variance: str = "small", *, midpoint_noise: bool = False) -> SamplerTable:
    """Ancestral sampling: order 1 in law, or 2 with `midpoint_noise`, one evaluation per step.

    For hundreds of steps; the small variance is `ddim(eta=1)` and, in k-diffusion's words, Euler ancestral, the large
    one is called sigma-hat in the paper on DDIM. With s, t the ends of a step and `b = sigma_s**2 (1 - exp(-2 dlam))`,
    the variance that noising adds between t and s, the fresh noise has variance `b sigma_t**2 / sigma_s**2` or b.
    With `midpoint_noise` half of the noise is added before the evaluation, which costs nothing: the last half of a
    step and the first of the next are one draw.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data.
        variance: "small", the posterior's for data at one point, or "large", for unit normal data.
        midpoint_noise: whether the noise surrounds the evaluation; the variance is then b, and the first point must
            have some data in it.

    Returns:
        A stochastic table of N rows in the data view, with `midpoint_noise` in the noise view.

    Raises:
        ValueError: the grid is not monotone or runs from data to noise; variance is neither of the two; with
            `midpoint_noise` the grid starts without data.

    Example:
        >>> from odekit.schedules import VPLinear
        >>> ddpm(VPLinear(), [1.0, 0.5, 0.001]).stochastic
        True

    Source: Ho, Jain & Abbeel, NeurIPS 2020, eq. 11 and section 3.2 (arXiv 2006.11239); Li, Huang, Efimov, Wei, Chi &
    Chen, ICML 2024, for `midpoint_noise` (arXiv 2403.03852).
    """
    require_one_of("variance", variance, ("small", "large"))
    if midpoint_noise:
        return _midpoint_noise(on_grid(schedule, ts))
    source = "Ho, Jain & Abbeel, NeurIPS 2020 (arXiv 2006.11239)"
    table = dataclasses.replace(ddim(schedule, ts, 1.0), name="ddpm", source=source)
    if variance == "small":
        return table
    grid = on_grid(schedule, ts)
    # a last point without noise gets none: large variance describes a chain that ends with a little
    std = grid.xp.where(grid.sigma[1:] > 0, grid.xp.sqrt(_forward_variance(grid)), 0.0)
    return dataclasses.replace(table, noise=jnp.asarray(std)[:, None])


def _forward_variance(grid: Grid) -> Any:
    """(N,) variance of the state at the start of each step given the one at its end."""
    return grid.sigma[:-1] ** 2 * (1 - grid.decay) * (1 + grid.decay)


def _midpoint_noise(grid: Grid) -> SamplerTable:
    grid.need_descent("midpoint_noise")
    grid.need_data()
    xp, keep, b = grid.xp, grid.alpha[1:] / grid.alpha[:-1], _forward_variance(grid)
    before = xp.concatenate([b[1:] / 2, xp.zeros_like(b[:1])])
    noise = xp.sqrt(keep**2 * b / 2 + before)
    source = "Li, Huang, Efimov, Wei, Chi & Chen, ICML 2024 (arXiv 2403.03852)"
    table = multistep(
        grid, keep, (-keep * b / grid.sigma[:-1])[:, None], noise, view="noise", name="ddpm", source=source
    )
    return dataclasses.replace(table, start_noise=jnp.asarray(xp.sqrt(b[0] / 2)))


def ancestral(
    schedule: Schedule, ts: Any, view: str = "data", *, eta: float = 1.0, lower_order_final: bool | None = None
) -> SamplerTable:
    """Steps of the flow to less noise than the grid asks for, then noise: order 2 in law, two evaluations per step.

    For k-diffusion's samplers of this name: "data" is DPM++ 2S ancestral, "noise" DPM2 ancestral; Euler ancestral is
    `ddim(eta=1)`. Noise added to an exact flow gives the exact law, so the order is that of the flow's midpoint rule in
    lam. At equal evaluations `dpmpp(tau=1)` is closer to the law on grids uniform in lam.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data.
        view: "data" or "noise"; the latter needs some data in the first point.
        eta: amount of fresh noise, 0 to 1; with 0 these are `dpmpp` and `dpm` of order 2 in single steps.
        lower_order_final: whether the last step is Euler's, one evaluation; None where the grid ends without noise.

    Returns:
        A stochastic table of 2N rows, or 2N-1.

    Raises:
        ValueError: the grid is not monotone, runs from data to noise, or starts without data in the noise view; there
            is no such view.

    Example:
        >>> from odekit.schedules import EDM
        >>> ancestral(EDM(), [80.0, 1.0, 0.0]).nfe
        3

    Source: Karras et al., NeurIPS 2022, appendix B.4, for such steps (arXiv 2206.00364); Lu et al., DPM-Solver++, 2022,
    algorithm 1 (arXiv 2211.01095).
    """
    require_one_of("view", view, ("data", "noise"))
    grid = on_grid(schedule, ts)
    grid.need_descent("ancestral")
    if view == "noise":
        grid.need_data()
    xp, counts = grid.xp, single_ends(grid, np.full(grid.n, 2), lower_order_final)
    down, noise = (grid.sigma[1:] * share for share in grid.renewed(eta))

    def move(steps: np.ndarray, alpha: Any, sigma: Any) -> tuple:
        """The exact step to these scales for a constant prediction: what it keeps, and the weight of that."""
        if view == "data":
            return sigma / grid.sigma[steps], alpha - grid.alpha[steps] * sigma / grid.sigma[steps]
        return alpha / grid.alpha[steps], sigma - grid.sigma[steps] * alpha / grid.alpha[steps]

    def stages(steps: np.ndarray, count: int) -> list[Stage]:
        keep, gain = move(steps, grid.alpha[steps + 1], down[steps])
        if count == 1:
            return [Stage(grid.ts[steps], keep, [gain], noise[steps])]
        lam = (grid.lam[steps] + xp.log(grid.alpha[steps + 1] / down[steps])) / 2
        middle = schedule.t_of_lam(lam)
        kept, weight = move(steps, schedule.alpha(middle), schedule.sigma(middle))
        return [Stage(grid.ts[steps], kept, [weight]), Stage(middle, keep, [xp.zeros_like(gain), gain], noise[steps])]

    source = "Karras et al., NeurIPS 2022 (arXiv 2206.00364)"
    return staged(grid, counts, stages, view=view, name="ancestral", source=source)


def reverse_diffusion(schedule: Schedule, ts: Any) -> SamplerTable:
    """Each step of the noising chain undone to first order: order 1 in law, one evaluation per step.

    The predictor of Song et al., to go with Langevin steps, `predictor_corrector`, in very many steps. With a step of
    the chain `x_s = c x_t + sqrt(b) z`, it is `x_t = (2 - c) x_s + b score + sqrt(b) z`.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data.

    Returns:
        A stochastic table of N rows in the noise view.

    Raises:
        ValueError: the grid is not monotone or runs from data to noise.

    Example:
        >>> from odekit.schedules import EDM
        >>> reverse_diffusion(EDM(), [5.0, 4.0, 3.0]).noise.ravel().round(3).tolist()
        [3.0, 2.646]

    Source: Song et al., ICLR 2021, eq. 46 (arXiv 2011.13456).
    """
    grid = on_grid(schedule, ts)
    grid.need_descent("reverse_diffusion")
    b = _forward_variance(grid)
    about = {
        "view": "noise",
        "name": "reverse_diffusion",
        "source": "Song et al., ICLR 2021, eq. 46 (arXiv 2011.13456)",
    }
    chain = grid.alpha[:-1] / grid.alpha[1:]
    return multistep(grid, 2 - chain, (-b / grid.sigma[:-1])[:, None], grid.xp.sqrt(b), **about)


def euler_maruyama(schedule: Schedule, ts: Any, tau: Any = 1.0) -> SamplerTable:
    """Euler-Maruyama in time on the reverse SDE: order 1 in law, one evaluation per step.

    The baseline: `ddpm` costs the same and is far better on large steps, since it solves the linear part exactly. With
    g the size of the noise per unit of time, the SDE is `dx = (f x - (1 + tau**2) / 2 g**2 score) dt + tau g dw`.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the first has some data in it.
        tau: () or (N,) amount of noise of each step, or a function of the time at which it ends.

    Returns:
        A stochastic table of N rows in the noise view.

    Raises:
        ValueError: the grid is not monotone, runs from data to noise, or starts without data; tau does not fit.

    Example:
        >>> from odekit.schedules import EDM
        >>> euler_maruyama(EDM(), [5.0, 4.0, 3.0]).evals.ravel().tolist()
        [-2.0, -2.0]

    Source: Kloeden & Platen, Numerical Solution of Stochastic Differential Equations (1992), 10.2; Song et al., ICLR
    2021, eq. 6, for the SDE (arXiv 2011.13456).
    """
    grid = on_grid(schedule, ts)
    grid.need_descent("euler_maruyama")
    grid.need_data()
    t, tau = grid.ts[:-1], grid.xp.asarray(amounts(grid, tau), grid.ts.dtype)
    dt = grid.ts[1:] - grid.ts[:-1]
    drift, rate = schedule.alpha_dot(t) / grid.alpha[:-1], schedule.squared_diffusion(t)
    about = {"view": "noise", "name": "euler_maruyama", "source": "Song et al., ICLR 2021 (arXiv 2011.13456)"}
    gain = dt * (1 + tau**2) / 2 * rate / grid.sigma[:-1]
    return multistep(grid, 1 + dt * drift, gain[:, None], tau * grid.xp.sqrt(-rate * dt), **about)
