"""Diffusion bridges: paths pinned at both ends are diffusions around a moving mean."""
# ruff: noqa: D102 - the methods are documented once, on Schedule

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odekit.schedules.base import Schedule, namespace


class Bridge(Schedule):
    """The bridge of a diffusion pinned at a noisy end `x_T`: `x_t = a x_T + alpha data + sigma noise`.

    With the base schedule's rho = sigma / alpha and r = rho / rho_T, `a = r sigma / sigma_T`, `alpha = alpha_base
    (1 - r**2)` and `sigma = sigma_base sqrt(1 - r**2)`. So `x_t - a(t) x_T` is a diffusion under this schedule, and
    every table may run it; in signal-to-noise ratios, the bridge's is the base's less the base's at the pinned end.

    Args:
        schedule: the base diffusion, with some data left at its pinned end.
        t_pin: time of the pinned end, where alpha and sigma vanish; None for the schedule's start.
        t_start: default start of a grid; None for a thousandth of the range after the pinned end.
        t_end: default end of a grid; None for the schedule's own.

    Raises:
        ValueError: no data is left at the pinned end.

    Example:
        >>> from odekit.schedules import EDM
        >>> bridge = Bridge(EDM())
        >>> [round(float(f(40.0)), 2) for f in (bridge.a, bridge.alpha, bridge.sigma)]
        [0.25, 0.75, 34.64]

    Source: Zhou et al., DDBM, ICLR 2024 (arXiv 2309.16948); Zheng et al., DBIM, ICLR 2025 (arXiv 2405.15885).
    """

    schedule: Schedule
    t_pin: float
    t_start: float
    t_end: float

    def __init__(
        self, schedule: Schedule, t_pin: float | None = None, t_start: float | None = None, t_end: float | None = None
    ):
        self.schedule = schedule
        self.t_pin = schedule.t_start if t_pin is None else t_pin
        self.t_end = schedule.t_end if t_end is None else t_end
        self.t_start = self.t_pin + 1e-3 * (self.t_end - self.t_pin) if t_start is None else t_start
        if np.any(np.asarray(schedule.alpha(np.asarray(self.t_pin, np.float64))) == 0):
            raise ValueError(f"`t_pin` is {self.t_pin:g}, where no data is left to be tied to; pin at a later time.")

    def _pin(self, t: Any) -> tuple[Any, Any]:
        """Alpha and sigma of the base at the pinned end, in the precision of `t`."""
        at = jnp.asarray(self.t_pin, t.dtype) if isinstance(t, jax.Array) else np.asarray(self.t_pin, np.float64)
        return self.schedule.alpha(at), self.schedule.sigma(at)

    def _ratio(self, t: Any) -> tuple[Any, Any]:
        """`r**2` and `1 - r**2`, the latter without cancellation near the pinned end and never below 0."""
        alpha_pin, sigma_pin = self._pin(t)
        rho, rho_pin = self.schedule.sigma(t) / self.schedule.alpha(t), sigma_pin / alpha_pin
        rest = namespace(t).maximum(rho_pin - rho, 0 * rho)  # rounding may put the pinned end before itself
        return (rho / rho_pin) ** 2, rest * (rho_pin + rho) / rho_pin**2

    def a(self, t: Any) -> Any:
        """Return the weight of the pinned end at time `t`, 1 there and 0 at the data."""
        alpha_pin, sigma_pin = self._pin(t)
        return self.schedule.sigma(t) ** 2 / self.schedule.alpha(t) * (alpha_pin / sigma_pin**2)

    def a_dot(self, t: Any) -> Any:
        """Return the time derivative of `a`."""
        base, (alpha_pin, sigma_pin) = self.schedule, self._pin(t)
        ratio = base.sigma(t) / base.alpha(t)
        return ratio * (2 * base.sigma_dot(t) - ratio * base.alpha_dot(t)) * (alpha_pin / sigma_pin**2)

    def alpha(self, t: Any) -> Any:
        return self.schedule.alpha(t) * self._ratio(t)[1]

    def sigma(self, t: Any) -> Any:
        return self.schedule.sigma(t) * namespace(t).sqrt(self._ratio(t)[1])

    def _growth(self, t: Any) -> Any:
        """`r**2` times the rate of the base's lam, half the time derivative of `1 - r**2`; finite at the data."""
        base, (alpha_pin, sigma_pin) = self.schedule, self._pin(t)
        alpha, sigma = base.alpha(t), base.sigma(t)
        return sigma * (base.alpha_dot(t) * sigma - base.sigma_dot(t) * alpha) / alpha**3 * (alpha_pin / sigma_pin) ** 2

    def alpha_dot(self, t: Any) -> Any:
        return self.schedule.alpha_dot(t) * self._ratio(t)[1] + 2 * self.schedule.alpha(t) * self._growth(t)

    def sigma_dot(self, t: Any) -> Any:
        root = namespace(t).sqrt(self._ratio(t)[1])
        return self.schedule.sigma_dot(t) * root + self.schedule.sigma(t) * self._growth(t) / root

    def lam(self, t: Any) -> Any:
        with np.errstate(divide="ignore"):
            return self.schedule.lam(t) + 0.5 * namespace(t).log(self._ratio(t)[1])

    def t_of_lam(self, lam: Any) -> Any:
        xp, (alpha_pin, sigma_pin) = namespace(lam), self._pin(lam)
        return self.schedule.t_of_lam(
            0.5 * xp.logaddexp(2 * lam, 2 * xp.log(alpha_pin / sigma_pin) + xp.zeros_like(lam))
        )
