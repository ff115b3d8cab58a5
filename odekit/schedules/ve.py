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
