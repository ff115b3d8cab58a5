"""Paths from noise to data in unit time, in either direction: flows."""
# ruff: noqa: D102 - the methods are documented once, on Schedule

import math
from typing import Any

import equinox as eqx
import numpy as np

from odekit.schedules.base import Schedule, namespace


def _ends(data_at: float, t_start: float | None, t_end: float | None) -> tuple[float, float]:
    """Start and end of a grid where the data are at time `data_at`, or raise."""
    if data_at not in (0, 1):
        raise ValueError(f"`data_at` is {data_at!r}; the data are at time 0 or 1.")
    return 1.0 - data_at if t_start is None else t_start, 1.0 * data_at if t_end is None else t_end


class FlowMatching(Schedule):
    """Straight paths between data and noise, `x = (1 - u) data + u noise` with `u` the time from the data.

    Args:
        t_start: start of a grid; None for pure noise.
        t_end: end of a grid; None for the data.
        data_at: the time of the data. 0: alpha = 1 - t, sigma = t, velocity noise - data, as most image models have it.
            1: alpha = t, sigma = 1 - t, velocity data - noise, as in the first paper; grids then increase.

    Raises:
        ValueError: data_at is neither 0 nor 1.

    Example:
        >>> float(FlowMatching().alpha(0.25)), float(FlowMatching(data_at=1).alpha(0.25))
        (0.75, 0.25)

    Source: Lipman et al., ICLR 2023 (arXiv 2210.02747) and Liu et al., ICLR 2023 (arXiv 2209.03003).
    """

    t_start: float
    t_end: float
    data_at: int = eqx.field(static=True)

    def __init__(self, t_start: float | None = None, t_end: float | None = None, *, data_at: int = 0):
        self.t_start, self.t_end = _ends(data_at, t_start, t_end)
        self.data_at = data_at

    def alpha(self, t: Any) -> Any:
        return t if self.data_at else 1 - t

    def sigma(self, t: Any) -> Any:
        return 1 - t if self.data_at else t

    def alpha_dot(self, t: Any) -> Any:
        ones = namespace(t).ones_like(t)
        return ones if self.data_at else -ones

    def sigma_dot(self, t: Any) -> Any:
        return -self.alpha_dot(t)

    def lam(self, t: Any) -> Any:
        xp = namespace(t)
        with np.errstate(divide="ignore"):
            lam = xp.log1p(-t) - xp.log(t)
        return -lam if self.data_at else lam

    def t_of_lam(self, lam: Any) -> Any:
        xp = namespace(lam)
        lam = -lam if self.data_at else lam
        return xp.exp(-xp.logaddexp(lam, xp.zeros_like(lam)))


class KineticOptimal(Schedule):
    """Gaussian paths of least kinetic energy for data of constant separation, from straight to circular.

    The energy of the marginal velocity depends on the data through one function of the signal-to-noise ratio, the
    data separation: `r'**2 + separation (r theta')**2` for `(alpha, sigma) = r (sin, cos)(theta)`. For a constant one
    the best path is a straight line in polar coordinates whose angle is `sqrt(separation) theta`. 1, well-separated
    data, is `FlowMatching`; 0, Gaussian data of unit variance, the trigonometric path `alpha = cos(pi u / 2)`.

    Args:
        separation: from 0 to 1.
        t_start: start of a grid; None for pure noise.
        t_end: end of a grid; None for the data.
        data_at: the time of the data, 0 or 1, as for `FlowMatching`.

    Raises:
        ValueError: separation is not between 0 and 1, or data_at is neither 0 nor 1.

    Example:
        >>> [round(float(KineticOptimal(s).alpha(0.5)), 4) for s in (0.0, 0.5, 1.0)]
        [0.7071, 0.6008, 0.5]

    Source: Shaul et al., ICML 2023 (arXiv 2306.06626).
    """

    separation: float
    t_start: float
    t_end: float
    data_at: int = eqx.field(static=True)

    def __init__(
        self, separation: float = 1.0, t_start: float | None = None, t_end: float | None = None, *, data_at: int = 0
    ):
        if not 0 <= separation <= 1:
            raise ValueError(f"`separation` is {separation:g}; it must be between 0 and 1.")
        self.separation = separation
        self.t_start, self.t_end = _ends(data_at, t_start, t_end)
        self.data_at = data_at

    @property
    def _bend(self) -> float:
        return max(math.sqrt(self.separation), 1e-9)  # differs from the limit of 0 by 1e-18

    def _polar(self, u: Any, v: Any) -> tuple[Any, Any]:
        """Radius, and the angle from the end where `u` is 0 scaled to a quarter turn; `u + v = 1`."""
        xp, turn = namespace(u), self._bend * math.pi / 2
        along, across = v + u * math.cos(turn), u * math.sin(turn)
        return xp.hypot(along, across), xp.arctan2(across, along) / self._bend

    def _split(self, t: Any) -> tuple[Any, Any]:
        """Times from the data and from the noise, neither by a difference where it is small."""
        return (1 - t, t) if self.data_at else (t, 1 - t)

    def _part(self, u: Any, v: Any) -> Any:
        radius, angle = self._polar(u, v)
        return radius * namespace(u).sin(angle)

    def _part_dot(self, u: Any, v: Any) -> Any:
        """The derivative of `_part` with respect to `u`."""
        xp, turn = namespace(u), self._bend * math.pi / 2
        radius, angle = self._polar(u, v)
        radius_dot = 2 * (u - v) * math.sin(turn / 2) ** 2 / radius
        return radius_dot * xp.sin(angle) + math.sin(turn) / self._bend * xp.cos(angle) / radius

    def alpha(self, t: Any) -> Any:
        return self._part(*self._split(t)[::-1])

    def sigma(self, t: Any) -> Any:
        return self._part(*self._split(t))

    def alpha_dot(self, t: Any) -> Any:
        rate = self._part_dot(*self._split(t)[::-1])
        return rate if self.data_at else -rate

    def sigma_dot(self, t: Any) -> Any:
        rate = self._part_dot(*self._split(t))
        return -rate if self.data_at else rate

    def lam(self, t: Any) -> Any:
        xp = namespace(t)
        with np.errstate(divide="ignore"):
            return xp.log(self.alpha(t)) - xp.log(self.sigma(t))

    def t_of_lam(self, lam: Any) -> Any:
        xp = namespace(lam)
        from_data, from_noise = (xp.sin(self._bend * xp.arctan(xp.exp(sign * lam))) for sign in (-1, 1))
        return (from_noise if self.data_at else from_data) / (from_data + from_noise)
