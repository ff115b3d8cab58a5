"""The samplers of k-diffusion under their own names and calls: `sample_heun(model, x, sigmas)`.

`model(x, sigma, **extra_args)` returns the denoised `x`, sigma has the shape (batch,), and `sigmas` usually ends at 0.
Every function is the line `sample(Denoiser(network, EDM(), "data"), table(EDM(), sigmas), x, key=key)`, which new code
should write itself, with a builder from `TABLES`. In place of `noise_sampler` there is `key`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from odekit.loops.table import SamplerTable
from odekit.samplers import Denoiser, adams, ancestral, ddim, dpm, dpmpp, edm, sample, seeds
from odekit.schedules import EDM

__all__ = [
    "TABLES",
    "sample_dpm_2",
    "sample_dpm_2_ancestral",
    "sample_dpmpp_2m",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_3m_sde",
    "sample_dpmpp_sde",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_heun",
    "sample_lms",
    "sampler",
]


class _Denoised(eqx.Module):
    """A model of sigma for each sample, as a network of one time."""

    model: Callable
    extra_args: dict

    def __call__(self, x: Array, t: Array, cond: Any) -> Array:
        return self.model(x, jnp.broadcast_to(t, x.shape[:1]).astype(x.dtype), **self.extra_args)


def sampler(table: Callable) -> Callable:
    """Return `sample(model, x, sigmas, extra_args=None, *, key=None, **options)` over the table of a builder.

    Args:
        table: `table(EDM(), sigmas, **options)`.

    Returns:
        The function; it returns the samples, like `x`.

    Example:
        >>> down = sampler(ddim)
        >>> float(down(lambda x, sigma: 0 * x, jnp.ones((1, 1)), [2.0, 1.0])[0, 0])
        0.5

    Source: Karras et al., NeurIPS 2022 (arXiv 2206.00364), for models of sigma.
    """

    def run(
        model: Callable, x: Array, sigmas: Any, extra_args: Any = None, *, key: Any = None, **options: Any
    ) -> Array:
        network = Denoiser(_Denoised(model, extra_args or {}), EDM(), "data")
        return sample(network, table(EDM(), np.asarray(sigmas), **options), x, key=key)

    return run


def _churned(
    schedule: EDM,
    sigmas: np.ndarray,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = np.inf,
    s_noise: float = 1.0,
    *,
    order: int,
) -> SamplerTable:
    return edm(schedule, sigmas, order, churn=s_churn, churn_min=s_tmin, churn_max=s_tmax, noise_scale=s_noise)


_published = partial(dpmpp, lower_order_final=False, compat=True)

TABLES = {
    "euler": partial(_churned, order=1),
    "euler_ancestral": lambda schedule, sigmas, eta=1.0: ddim(schedule, sigmas, eta),
    "heun": partial(_churned, order=2),
    "lms": lambda schedule, sigmas, order=4: adams(schedule, sigmas, order),
    "dpm_2": partial(dpm, kind="singlestep"),
    "dpm_2_ancestral": partial(ancestral, view="noise"),
    "dpmpp_2s_ancestral": ancestral,
    "dpmpp_sde": lambda schedule, sigmas, eta=1.0: seeds(schedule, sigmas, tau=np.sqrt(eta)),
    "dpmpp_2m": _published,
    "dpmpp_2m_sde": lambda schedule, sigmas, eta=1.0, solver_type="midpoint": _published(
        schedule, sigmas, 2, tau=np.sqrt(eta), variant=solver_type
    ),
    "dpmpp_3m_sde": lambda schedule, sigmas, eta=1.0: _published(schedule, sigmas, 3, tau=np.sqrt(eta), variant="heun"),
}
"""The table of each sampler, with its options; `eta` is the amount of variance where odekit's `tau` is its root."""

sample_euler = sampler(TABLES["euler"])
sample_euler_ancestral = sampler(TABLES["euler_ancestral"])
sample_heun = sampler(TABLES["heun"])
sample_lms = sampler(TABLES["lms"])
sample_dpm_2 = sampler(TABLES["dpm_2"])
sample_dpm_2_ancestral = sampler(TABLES["dpm_2_ancestral"])
sample_dpmpp_2s_ancestral = sampler(TABLES["dpmpp_2s_ancestral"])
sample_dpmpp_sde = sampler(TABLES["dpmpp_sde"])
sample_dpmpp_2m = sampler(TABLES["dpmpp_2m"])
sample_dpmpp_2m_sde = sampler(TABLES["dpmpp_2m_sde"])
sample_dpmpp_3m_sde = sampler(TABLES["dpmpp_3m_sde"])
