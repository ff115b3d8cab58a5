"""Time grids, and what every table builder reads off one."""

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jax.core import Tracer

from odekit.schedules import Schedule, namespace


class Grid(NamedTuple):
    """A grid with its schedule: `xp` is NumPy in float64 for a concrete grid, `jax.numpy` for one being trained.

    `keep` and `gain` are the exact step for a constant data prediction, `x1 = keep x0 + gain data`, finite also where
    alpha starts at 0 or sigma ends at 0. `decay = exp(-dlam)`.
    """

    xp: ModuleType
    ts: Any
    alpha: Any
    sigma: Any
    lam: Any
    keep: Any
    gain: Any
    decay: Any

    @property
    def n(self) -> int:
        """The number of steps."""
        return len(self.ts) - 1

    @property
    def traced(self) -> bool:
        """Whether the grid's values are unknown while the table is built."""
        return isinstance(self.ts, Tracer)

    @property
    def ends_at_zero(self) -> bool:
        """Whether the last point has no noise left; taken for granted of a grid being trained."""
        return self.traced or bool(self.sigma[-1] == 0)

    @property
    def starts_at_zero(self) -> bool:
        """Whether the first point has no data in it; taken not to be so of a grid being trained."""
        return not self.traced and bool(self.alpha[0] == 0)

    @property
    def jumps_at_end(self) -> bool:
        """Whether the last step in lam is over twice the one before."""
        steps = abs(self.lam[-3:][1:] - self.lam[-3:][:-1])
        return bool(steps[-1] > 2 * steps[0])

    def need_descent(self, name: str) -> None:
        """Raise unless the grid runs from noise to data, for builders that add noise because of argument `name`."""
        if not self.traced and self.lam[1] < self.lam[0]:
            raise ValueError(f"`{name}` adds noise, which needs `ts` from noise to data: reverse it, or set {name}=0.")

    def need_data(self) -> None:
        """Raise if the first point has no data in it, for builders in the noise view."""
        if self.starts_at_zero:
            raise ValueError(
                f"`ts` starts at {self.ts[0]:g}, where there is no data and the noise prediction tells nothing; start "
                "a little later, or take a table in the data or velocity view."
            )


def _check_order(ts: np.ndarray, lam: np.ndarray) -> None:
    up, down = np.diff(lam) > 0, np.diff(lam) < 0
    if not (np.all(up) or np.all(down)):
        k = 1 + int(np.argmin(up if up.sum() >= down.sum() else down))
        raise ValueError(f"`ts` must be monotone: ts[{k}]={ts[k]:g} follows ts[{k - 1}]={ts[k - 1]:g}; sort it.")


def on_grid(schedule: Schedule, ts: Any, *, from_data: bool = False) -> Grid:
    """Evaluate a schedule on a grid, in float64 on the host unless the grid is being traced.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times, usually from noise to data.
        from_data: whether the first point may be without noise, for builders that use neither `keep` nor `gain`.

    Returns:
        The grid.

    Raises:
        ValueError: ts is not one row of at least two times, not strictly monotone, or starts without noise.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> on_grid(FlowMatching(), [1.0, 0.5, 0.0]).gain.tolist()
        [0.5, 1.0]
    """
    ts = ts if isinstance(ts, Tracer) else np.asarray(ts, np.float64)
    if ts.ndim != 1 or len(ts) < 2:
        raise ValueError(f"`ts` must be one row of at least two times: its shape is {ts.shape}.")
    alpha, sigma, lam = schedule.alpha(ts), schedule.sigma(ts), schedule.lam(ts)
    if isinstance(ts, np.ndarray):
        _check_order(ts, lam)
        if sigma[0] == 0 and not from_data:
            raise ValueError(f"`ts` starts at {ts[0]:g}, where there is no noise; start at a later time.")
    with np.errstate(divide="ignore", invalid="ignore"):
        return evaluated(ts, alpha, sigma, lam)


def evaluated(ts: Any, alpha: Any, sigma: Any, lam: Any) -> Grid:
    """Return the grid with these values of its schedule, whatever the order of its points."""
    keep = sigma[1:] / sigma[:-1]
    decay = keep * alpha[:-1] / alpha[1:]
    return Grid(namespace(ts), ts, alpha, sigma, lam, keep, alpha[1:] - alpha[:-1] * keep, decay)


def time_grid(
    schedule: Schedule,
    n: int,
    spacing: str = "time",
    *,
    start: float | None = None,
    end: float | str = "min",
    rho: float = 7.0,
) -> np.ndarray:
    """Return n+1 times from noise to data.

    "logsnr" suits high-order solvers in few steps, "time" flows and large images, "quadratic" small images, "karras"
    variance-exploding models. Where lam is infinite at an end, "logsnr" and "karras" space the points between times a
    thousandth of the range further in, and then move the end points out.

    Args:
        schedule: the noise schedule.
        n: number of steps.
        spacing: uniform in "time", in "logsnr" (lam), in the square root of time ("quadratic"), or in
            `(sigma/alpha)**(1/rho)` ("karras").
        start: first time; None for the schedule's own.
        end: last time; "min" for the schedule's own; "zero" for n times down to the schedule's own and then 0
            (the same where the schedule's own is 0).
        rho: the exponent of "karras".

    Returns:
        (n+1,) float64.

    Raises:
        ValueError: n is not positive, or spacing or end is none of the above.

    Example:
        >>> from odekit.schedules import EDM
        >>> time_grid(EDM(), 2, "karras", end="zero").round(3).tolist()
        [80.0, 0.002, 0.0]

    Source: Lu et al., NeurIPS 2022 (logsnr); Song et al., ICLR 2021 (quadratic); Karras et al., NeurIPS 2022, eq. 5.
    """
    if n < 1:
        raise ValueError(f"`n` is {n}; a grid needs at least one step.")
    if isinstance(end, str) and end not in ("min", "zero"):
        raise ValueError(f"`end` is {end!r}; it must be a time, 'min' or 'zero'.")
    first = schedule.t_start if start is None else start
    last = schedule.t_end if isinstance(end, str) else end
    to_zero = end == "zero" and last != 0
    ts = _spaced(schedule, np.linspace(0.0, 1.0, n + (not to_zero)), first, last, spacing, rho)
    ts[-1] = last  # both ends exactly, without the rounding of an inverse
    ts[0] = first
    return np.append(ts, 0.0) if to_zero else ts


def _spaced(schedule: Schedule, u: np.ndarray, first: float, last: float, spacing: str, rho: float) -> np.ndarray:
    if spacing == "time":
        return first + u * (last - first)
    if spacing == "quadratic":
        return (np.sqrt(first) + u * (np.sqrt(last) - np.sqrt(first))) ** 2
    if spacing not in ("logsnr", "karras"):
        raise ValueError(f"`spacing` is {spacing!r}; it must be 'time', 'logsnr', 'quadratic' or 'karras'.")
    inset = 1e-3 * (last - first)
    ends = np.array([t if np.isfinite(schedule.lam(t)) else t + by for t, by in ((first, inset), (last, -inset))])
    lam = schedule.lam(ends)
    if spacing == "karras":
        level = np.exp(-lam / rho)
        lam = -rho * np.log(level[0] + u * (level[1] - level[0]))
    else:
        lam = lam[0] + u * (lam[1] - lam[0])
    return np.asarray(schedule.t_of_lam(lam))
