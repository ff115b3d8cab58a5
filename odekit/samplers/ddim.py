"""Denoising diffusion implicit models."""

from typing import Any

from odekit.loops.table import SamplerTable
from odekit.samplers.grids import on_grid
from odekit.samplers.multistep import multistep
from odekit.schedules import Schedule


def ddim(schedule: Schedule, ts: Any, eta: float = 0.0) -> SamplerTable:
    """DDIM: order 1, one evaluation per step; eta=1 is ancestral sampling with the posterior variance (DDPM).

    The robust first choice, and with eta=0 the same as Euler on a flow. With s, t the ends of a step,
    `x_t = alpha_t data + sqrt(sigma_t**2 - std**2) noise + std z`, `std = eta sigma_t sqrt(1 - exp(-2 dlam))`.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the other way, with eta=0, encodes.
        eta: amount of fresh noise, 0 to 1.

    Returns:
        A table of N rows in the data view, stochastic if eta is not 0.

    Raises:
        ValueError: the grid is not monotone, or adds noise on the way from data to noise.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> ddim(FlowMatching(), [1.0, 0.5, 0.0]).nfe
        2

    Source: Song, Meng, Ermon, ICLR 2021, eq. 12 (arXiv 2010.02502).
    """
    grid = on_grid(schedule, ts)
    about = {"view": "data", "name": "ddim", "source": "Song, Meng & Ermon, ICLR 2021, eq. 12 (arXiv 2010.02502)"}
    if isinstance(eta, float | int) and eta == 0:
        return multistep(grid, grid.keep, grid.gain[:, None], **about)
    grid.need_descent("eta")
    kept, fresh = grid.renewed(eta)
    keep = grid.keep * kept
    gain = grid.alpha[1:] - grid.alpha[:-1] * keep
    return multistep(grid, keep, gain[:, None], noise=grid.sigma[1:] * fresh, **about)
