"""Schedules given by numbers, one for each training step of a published network."""
# ruff: noqa: D102 - the methods are documented once, on Schedule

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odekit.schedules.base import namespace
from odekit.schedules.vp import VariancePreserving


class DiscreteVP(VariancePreserving):
    """Variance-preserving schedule given at times n/N, n=0..N, with `log(alpha)` linear in between.

    Args:
        log_alphas: N+1 values of `log(alpha)`, the first 0, decreasing; `from_betas` makes them.
        t_start: default start of a grid.
        t_end: default end of a grid.

    Source: Lu et al., NeurIPS 2022, appendix D.1 (arXiv 2206.00927), for the interpolation.
    """

    log_alphas: tuple[float, ...] = eqx.field(static=True)
    t_start: float = 1.0
    t_end: float = 1e-3

    def _knots(self, like):
        """The values and their differences in the precision of `like`, differences taken in float64."""
        values = np.asarray(self.log_alphas)
        steps = np.diff(values)
        if isinstance(like, jax.Array):
            return jnp.asarray(values, like.dtype), jnp.asarray(steps, like.dtype)
        return values, steps

    def _interval(self, t):
        n = len(self.log_alphas) - 1
        xp = namespace(t)
        return xp.clip(xp.ceil(xp.asarray(t * n)).astype("int32") - 1, 0, n - 1)

    def log_alpha(self, t: Any) -> Any:
        values, steps = self._knots(t)
        i = self._interval(t)
        return values[i] + (t * len(steps) - i.astype(values.dtype)) * steps[i]

    def log_alpha_dot(self, t: Any) -> Any:
        _, steps = self._knots(t)
        return len(steps) * steps[self._interval(t)]

    def t_of_log_alpha(self, log_alpha: Any) -> Any:
        values, steps = self._knots(log_alpha)
        xp = namespace(log_alpha)
        i = xp.clip(xp.searchsorted(-values, -log_alpha) - 1, 0, len(steps) - 1)
        return (i.astype(values.dtype) + (log_alpha - values[i]) / steps[i]) / len(steps)


def from_betas(betas: Any) -> DiscreteVP:
    """Return the continuous schedule through a discrete one, `alpha_n**2 = prod(1 - betas[:n+1])` at t=(n+1)/N.

    Use it for networks trained with N discrete steps (DDPM, latent diffusion).

    Args:
        betas: (N,), each in (0, 1), from data to noise.

    Returns:
        The schedule; its default grid ends at t=1/N.

    Raises:
        ValueError: betas is not one row of numbers between 0 and 1.

    Example:
        >>> round(float(from_betas(np.linspace(1e-4, 0.02, 1000)).alpha(1.0)), 6)
        0.006353

    Source: Ho et al., NeurIPS 2020 (arXiv 2006.11239).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not betas.size or not np.all((betas > 0) & (betas < 1)):
        raise ValueError(f"`betas` must be one row of numbers between 0 and 1: got shape {betas.shape}.")
    log_alphas = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))])
    return DiscreteVP(log_alphas=tuple(log_alphas.tolist()), t_end=1 / betas.size)
