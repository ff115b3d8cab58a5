"""Schedules that leave the data alone and let the noise grow."""
# ruff: noqa: D102 - the methods are documented once, on Schedule

import math
from typing import Any

import numpy as np

from odekit.schedules.base import Schedule, namespace


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


class VE(Schedule):
    """Variance-exploding schedule with geometric noise levels: `alpha = 1`, `sigma = smin (smax / smin)**t`.

    Some noise is left at t=0. To go on to none, sample the network under `EDM`: `under(model, EDM(smax, smin))`.

    Args:
        smin: noise level at t=0.
        smax: noise level at t=1.
        t_start: default start of a grid.
        t_end: default end of a grid.

    Example:
        >>> round(float(VE().sigma(0.5)), 4)
        0.7071

    Source: Song et al., ICLR 2021, appendix C (arXiv 2011.13456).
    """

    smin: float = 0.01
    smax: float = 50.0
    t_start: float = 1.0
    t_end: float = 1e-5

    @property
    def _rate(self) -> float:
        return math.log(self.smax / self.smin)

    def alpha(self, t: Any) -> Any:
        return namespace(t).ones_like(t)

    def sigma(self, t: Any) -> Any:
        return self.smin * namespace(t).exp(self._rate * t)

    def alpha_dot(self, t: Any) -> Any:
        return namespace(t).zeros_like(t)

    def sigma_dot(self, t: Any) -> Any:
        return self._rate * self.sigma(t)

    def lam(self, t: Any) -> Any:
        return -(math.log(self.smin) + self._rate * t)

    def t_of_lam(self, lam: Any) -> Any:
        return -(lam + math.log(self.smin)) / self._rate
