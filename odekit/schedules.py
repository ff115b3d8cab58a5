"""Noise schedules: `x_t = alpha(t) data + sigma(t) noise`, with `lam = log(alpha / sigma)` increasing towards data.

Every function takes NumPy values (float64 results on the host, where sampler tables are built) or JAX arrays (traced,
in their dtype, where models are evaluated and grids are trained). Differences of nearly equal numbers are avoided, so
that both ends are as accurate as the middle.
"""
# ruff: noqa: D102 - the methods are documented once, on Schedule

import abc
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["EDM", "DiscreteVP", "FlowMatching", "Schedule", "VPCosine", "VPLinear", "from_betas", "namespace"]


def namespace(x: Any) -> ModuleType:
    """Return `jax.numpy` for a JAX array, concrete or traced, and `numpy` for everything else."""
    return jnp if isinstance(x, jax.Array) else np


class Schedule(eqx.Module):
    """What every schedule offers; times may have any shape and run from `t_start` (noise) to `t_end` (data).

    Attributes:
        t_start: the time at which sampling starts unless a grid says otherwise.
        t_end: the time at which it ends.
    """

    t_start: eqx.AbstractVar[float]
    t_end: eqx.AbstractVar[float]

    @abc.abstractmethod
    def alpha(self, t: Any) -> Any:
        """Return the scale of the data at time `t`."""

    @abc.abstractmethod
    def sigma(self, t: Any) -> Any:
        """Return the scale of the noise at time `t`."""

    @abc.abstractmethod
    def alpha_dot(self, t: Any) -> Any:
        """Return the time derivative of `alpha`."""

    @abc.abstractmethod
    def sigma_dot(self, t: Any) -> Any:
        """Return the time derivative of `sigma`."""

    @abc.abstractmethod
    def lam(self, t: Any) -> Any:
        """Return `log(alpha / sigma)`, half the log signal-to-noise ratio; infinite where either vanishes."""

    @abc.abstractmethod
    def t_of_lam(self, lam: Any) -> Any:
        """Return the time at which `lam(t)` equals `lam`."""


class _VariancePreserving(Schedule):
    """`alpha**2 + sigma**2 = 1`, given by the logarithm of alpha."""

    @abc.abstractmethod
    def log_alpha(self, t: Any) -> Any:
        """Return `log(alpha(t))`."""

    @abc.abstractmethod
    def log_alpha_dot(self, t: Any) -> Any:
        """Return the time derivative of `log_alpha`."""

    @abc.abstractmethod
    def t_of_log_alpha(self, log_alpha: Any) -> Any:
        """Return the time at which `log_alpha(t)` equals `log_alpha`."""

    def alpha(self, t: Any) -> Any:
        return namespace(t).exp(self.log_alpha(t))

    def sigma(self, t: Any) -> Any:
        xp = namespace(t)
        return xp.sqrt(-xp.expm1(2 * self.log_alpha(t)))

    def alpha_dot(self, t: Any) -> Any:
        return self.alpha(t) * self.log_alpha_dot(t)

    def sigma_dot(self, t: Any) -> Any:
        return -(self.alpha(t) ** 2) * self.log_alpha_dot(t) / self.sigma(t)

    def lam(self, t: Any) -> Any:
        with np.errstate(divide="ignore"):
            return self.log_alpha(t) - namespace(t).log(self.sigma(t))

    def t_of_lam(self, lam: Any) -> Any:
        return self.t_of_log_alpha(-0.5 * namespace(lam).logaddexp(-2 * lam, 0 * lam))


class VPLinear(_VariancePreserving):
    """Variance-preserving schedule whose rate grows linearly, `beta(t) = beta_min + t (beta_max - beta_min)`.

    Args:
        beta_min: rate at t=0, per unit of t.
        beta_max: rate at t=1, per unit of t.
        t_start: default start of a grid, pure noise at 1.
        t_end: default end of a grid; the noise prediction is singular at 0.

    Example:
        >>> round(float(VPLinear().lam(1.0)), 4)
        -5.025

    Source: Song et al., ICLR 2021, eq. 33 (arXiv 2011.13456).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_start: float = 1.0
    t_end: float = 1e-3

    def log_alpha(self, t: Any) -> Any:
        return -t * (self.beta_min / 2 + t * ((self.beta_max - self.beta_min) / 4))

    def log_alpha_dot(self, t: Any) -> Any:
        return -(self.beta_min + t * (self.beta_max - self.beta_min)) / 2

    def t_of_log_alpha(self, log_alpha: Any) -> Any:
        growth = self.beta_max - self.beta_min
        return -4 * log_alpha / (namespace(log_alpha).sqrt(self.beta_min**2 - 4 * growth * log_alpha) + self.beta_min)


class DiscreteVP(_VariancePreserving):
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


class VPCosine(Schedule):
    """Variance-preserving schedule with `alpha = cos(u) / cos(u_0)`, `u = pi/2 (t + offset) / (1 + offset)`.

    Args:
        offset: keeps the rate finite at t=0.
        t_start: default start of a grid; alpha vanishes at 1.
        t_end: default end of a grid.

    Example:
        >>> round(float(VPCosine().alpha(0.5)), 4)
        0.7027

    Source: Nichol & Dhariwal, ICML 2021, eq. 17 (arXiv 2102.09672).
    """

    offset: float = 0.008
    t_start: float = 0.9946
    t_end: float = 1e-3

    @property
    def _rate(self) -> float:
        return np.pi / 2 / (1 + self.offset)

    @property
    def _u0(self) -> float:
        return self._rate * self.offset

    def alpha(self, t: Any) -> Any:
        return namespace(t).sin(self._rate * (1 - t)) / float(np.cos(self._u0))

    def sigma(self, t: Any) -> Any:
        xp, u = namespace(t), self._rate * t  # cos(u0)**2 - cos(u0 + u)**2 = sin(u) sin(2 u0 + u)
        return xp.sqrt(xp.sin(u) * xp.sin(2 * self._u0 + u)) / float(np.cos(self._u0))

    def alpha_dot(self, t: Any) -> Any:
        return -self._rate * namespace(t).cos(self._rate * (1 - t)) / float(np.cos(self._u0))

    def sigma_dot(self, t: Any) -> Any:
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t)

    def lam(self, t: Any) -> Any:
        with np.errstate(divide="ignore"):
            return namespace(t).log(self.alpha(t) / self.sigma(t))

    def t_of_lam(self, lam: Any) -> Any:
        xp = namespace(lam)
        cos0, sin0 = float(np.cos(self._u0)), float(np.sin(self._u0))
        alpha2, sigma2 = xp.exp(-xp.logaddexp(-2 * lam, 0 * lam)), xp.exp(-xp.logaddexp(2 * lam, 0 * lam))
        cos_u, sin_u = xp.sqrt(alpha2) * cos0, xp.sqrt(sin0**2 + sigma2 * cos0**2)
        sin_d = sigma2 * cos0**2 / (sin_u * cos0 + cos_u * sin0)  # of d = u - u0, without a difference
        return xp.arctan2(sin_d, cos_u * cos0 + sin_u * sin0) / self._rate


class EDM(Schedule):
    """Variance-exploding schedule in its own noise level: `alpha = 1`, `sigma = t`.

    Args:
        t_start: largest noise level.
        t_end: smallest noise level.

    Example:
        >>> float(EDM().sigma(2.0))
        2.0

    Source: Karras et al., NeurIPS 2022 (arXiv 2206.00364).
    """

    t_start: float = 80.0
    t_end: float = 0.002

    def alpha(self, t: Any) -> Any:
        return namespace(t).ones_like(t)

    def sigma(self, t: Any) -> Any:
        return t

    def alpha_dot(self, t: Any) -> Any:
        return namespace(t).zeros_like(t)

    def sigma_dot(self, t: Any) -> Any:
        return namespace(t).ones_like(t)

    def lam(self, t: Any) -> Any:
        with np.errstate(divide="ignore"):
            return -namespace(t).log(t)

    def t_of_lam(self, lam: Any) -> Any:
        return namespace(lam).exp(-lam)


class FlowMatching(Schedule):
    """Straight paths between data at t=0 and noise at t=1: `alpha = 1 - t`, `sigma = t`, velocity `noise - data`.

    Args:
        t_start: start of a grid, pure noise at 1.
        t_end: end of a grid, data at 0.

    Example:
        >>> float(FlowMatching().lam(0.5))
        0.0

    Source: Lipman et al., ICLR 2023 (arXiv 2210.02747) and Liu et al., ICLR 2023 (arXiv 2209.03003), time reversed.
    """

    t_start: float = 1.0
    t_end: float = 0.0

    def alpha(self, t: Any) -> Any:
        return 1 - t

    def sigma(self, t: Any) -> Any:
        return t

    def alpha_dot(self, t: Any) -> Any:
        return -namespace(t).ones_like(t)

    def sigma_dot(self, t: Any) -> Any:
        return namespace(t).ones_like(t)

    def lam(self, t: Any) -> Any:
        xp = namespace(t)
        with np.errstate(divide="ignore"):
            return xp.log1p(-t) - xp.log(t)

    def t_of_lam(self, lam: Any) -> Any:
        return namespace(lam).exp(-namespace(lam).logaddexp(lam, 0 * lam))
