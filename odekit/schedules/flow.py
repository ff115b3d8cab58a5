"""Paths from noise to data in unit time: flows."""
# ruff: noqa: D102 - the methods are documented once, on Schedule

from typing import Any

import numpy as np

from odekit.schedules.base import Schedule, namespace


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
