"""Schedules that preserve or bound the variance of the state."""
# ruff: noqa: D102 - the methods are documented once, on Schedule

import abc
from typing import Any

import numpy as np

from odekit.schedules.base import Schedule, namespace


class VariancePreserving(Schedule):
    """`alpha**2 + sigma**2 = 1`, given by the logarithm of alpha."""

    @abc.abstractmethod
    def log_alpha(self, t: Any) -> Any:
        """Return `log(alpha(t))`."""

    @abc.abstractmethod
    def t_of_log_alpha(self, log_alpha: Any) -> Any:
        """Return the time at which `log_alpha(t)` equals `log_alpha`."""

    def alpha(self, t: Any) -> Any:
        return namespace(t).exp(self.log_alpha(t))

    def sigma(self, t: Any) -> Any:
        xp = namespace(t)
        return xp.sqrt(-xp.expm1(2 * self.log_alpha(t)))

    def sigma_dot(self, t: Any) -> Any:
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t)

    def lam(self, t: Any) -> Any:
        with np.errstate(divide="ignore"):
            return self.log_alpha(t) - namespace(t).log(self.sigma(t))

    def t_of_lam(self, lam: Any) -> Any:
        xp = namespace(lam)
        return self.t_of_log_alpha(-0.5 * xp.logaddexp(-2 * lam, xp.zeros_like(lam)))


class VPLinear(VariancePreserving):
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

    def alpha_dot(self, t: Any) -> Any:
        return -self.alpha(t) * (self.beta_min + t * (self.beta_max - self.beta_min)) / 2

    def t_of_log_alpha(self, log_alpha: Any) -> Any:
        growth = self.beta_max - self.beta_min
        return -4 * log_alpha / (namespace(log_alpha).sqrt(self.beta_min**2 - 4 * growth * log_alpha) + self.beta_min)


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
        zero = xp.zeros_like(lam)
        alpha2, sigma2 = xp.exp(-xp.logaddexp(-2 * lam, zero)), xp.exp(-xp.logaddexp(2 * lam, zero))
        cos_u, sin_u = xp.sqrt(alpha2) * cos0, xp.sqrt(sin0**2 + sigma2 * cos0**2)
        sin_d = sigma2 * cos0**2 / (sin_u * cos0 + cos_u * sin0)  # of d = u - u0, without a difference
        return xp.arctan2(sin_d, cos_u * cos0 + sin_u * sin0) / self._rate


class SubVP(Schedule):
    """The schedule of `VPLinear` with less noise, `sigma = 1 - alpha**2`, for likelihoods.

    Args:
        beta_min: rate at t=0, per unit of t.
        beta_max: rate at t=1, per unit of t.
        t_start: default start of a grid, nearly pure noise at 1.
        t_end: default end of a grid.

    Example:
        >>> round(float(SubVP().sigma(0.1)), 4)
        0.1037

    Source: Song et al., ICLR 2021, eq. 12 (arXiv 2011.13456).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_start: float = 1.0
    t_end: float = 1e-3

    @property
    def _vp(self) -> VPLinear:
        return VPLinear(self.beta_min, self.beta_max)

    def alpha(self, t: Any) -> Any:
        return self._vp.alpha(t)

    def sigma(self, t: Any) -> Any:
        return -namespace(t).expm1(2 * self._vp.log_alpha(t))

    def alpha_dot(self, t: Any) -> Any:
        return self._vp.alpha_dot(t)

    def sigma_dot(self, t: Any) -> Any:
        return -2 * self.alpha(t) * self.alpha_dot(t)

    def lam(self, t: Any) -> Any:
        with np.errstate(divide="ignore"):
            return self._vp.log_alpha(t) - namespace(t).log(self.sigma(t))

    def t_of_lam(self, lam: Any) -> Any:
        xp = namespace(lam)  # sigma / alpha = 2 sinh(-log alpha)
        return self._vp.t_of_log_alpha(-xp.arcsinh(0.5 * xp.exp(-lam)))
