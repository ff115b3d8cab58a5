"""What every schedule offers."""

import abc
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


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

    def lam_dot(self, t: Any) -> Any:
        """Return the time derivative of `lam`, infinite where lam is."""
        return self.alpha_dot(t) / self.alpha(t) - self.sigma_dot(t) / self.sigma(t)

    def squared_diffusion(self, t: Any) -> Any:
        """Return `2 sigma (sigma_dot - sigma alpha_dot / alpha)` of the noising process; negative where t=1 is data."""
        sigma = self.sigma(t)
        return 2 * sigma * (self.sigma_dot(t) - sigma * self.alpha_dot(t) / self.alpha(t))
