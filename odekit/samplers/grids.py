"""Time grids, and what every table builder reads off one."""

from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
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

    def renewed(self, eta: Any) -> tuple[Any, Any]:
        """Return (N,) shares of the noise at the end of each step, kept and fresh, whose squares add up to 1.

        Of `eta` times the noise of the reversed process, as DDIM counts it.
        """
        left = (1 - eta**2) + (eta * self.decay) ** 2
        return root(self.xp, left), root(self.xp, eta**2 * (1 - self.decay) * (1 + self.decay))

    def need_descent(self, name: str) -> None:
        """Raise unless the grid runs from noise to data, for builders that add noise because of argument `name`."""
        if not self.traced and self.lam[1] < self.lam[0]:
            raise ValueError(f"`ts` runs from data to noise, where `{name}` cannot add any; reverse it.")

    def need_data(self) -> None:
        """Raise if the first point has no data in it, for builders in the noise view."""
        if self.starts_at_zero:
            raise ValueError(
                f"`ts` starts at {self.ts[0]:g}, where there is no data and the noise prediction tells nothing; start "
                "a little later, or take a table in the data or velocity view."
            )


def root(xp: ModuleType, variance: Any) -> Any:
    """Return the square root, with the derivative 0 where there is no variance."""
    some = variance > 0
    return xp.where(some, xp.sqrt(xp.where(some, variance, 1.0)), 0.0)


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
    alpha, sigma = schedule.alpha(ts), schedule.sigma(ts)
    lam = _lam(schedule, ts, alpha, sigma)
    if isinstance(ts, np.ndarray):
        _check_order(ts, lam)
        if sigma[0] == 0 and not from_data:
            raise ValueError(f"`ts` starts at {ts[0]:g}, where there is no noise; start at a later time.")
    with np.errstate(divide="ignore", invalid="ignore"):
        return evaluated(ts, alpha, sigma, lam)


def _lam(schedule: Schedule, ts: Any, alpha: Any, sigma: Any) -> Any:
    """Return lam; where it is infinite without its slope, through which every gradient would be lost."""
    if isinstance(ts, np.ndarray):
        return schedule.lam(ts)
    finite = (alpha > 0) & (sigma > 0)
    lam = schedule.lam(jnp.where(finite, ts, (ts[0] + ts[-1]) / 2))
    return jnp.where(finite, lam, jnp.where(sigma > 0, -jnp.inf, jnp.inf))


def evaluated(ts: Any, alpha: Any, sigma: Any, lam: Any) -> Grid:
    """Return the grid with these values of its schedule, whatever the order of its points."""
    keep = sigma[1:] / sigma[:-1]
    decay = keep * alpha[:-1] / alpha[1:]
    return Grid(namespace(ts), ts, alpha, sigma, lam, keep, alpha[1:] - alpha[:-1] * keep, decay)


SHAPES = {"quadratic": 2.0, "power": 2.0, "karras": 7.0, "sigmoid": 6.0}
"""Spacings that have a shape, and its usual value."""


def time_grid(
    schedule: Schedule,
    n: int,
    spacing: str = "time",
    *,
    start: float | None = None,
    end: float | str = "min",
    rho: float | None = None,
    shift: float = 1.0,
) -> np.ndarray:
    """Return n+1 times from noise to data.

    "logsnr" suits high-order solvers in few steps ("exponential", "lu" elsewhere), "time" flows and large images,
    "quadratic" small images, "karras" variance-exploding models, "sigmoid" flows whose ends matter. Where lam is
    infinite at an end, "logsnr" and "karras" space the points between times a thousandth of the range further in, and
    then move the end points out.

    Args:
        schedule: the noise schedule.
        n: number of steps.
        spacing: uniform in "time", in "logsnr" (lam), in the square root of the time from the data ("quadratic"), in
            its root of order rho ("power"), in `(sigma/alpha)**(1/rho)` ("karras"), or in the logit of the position
            between the ends, as far out as -rho and rho ("sigmoid").
        start: first time; None for the schedule's own.
        end: last time; "min" for the schedule's own; "zero" for n times down to the schedule's own and then the one
            without noise (the same where the schedule's own is that).
        rho: the shape of "power" (None: 2), "karras" (7) or "sigmoid" (6).
        shift: what sigma/alpha is multiplied by at all times but the ends, for large images; `flow_shift` knows.

    Returns:
        (n+1,) float64.

    Raises:
        ValueError: n is not positive, spacing or end is none of the above, rho is given for a spacing without a shape
            or is not positive, shift is not positive or moves times beyond the ends, or no time of the schedule is
            without noise.

    Example:
        >>> from odekit.schedules import EDM
        >>> time_grid(EDM(), 2, "karras", end="zero").round(3).tolist()
        [80.0, 0.002, 0.0]

    Source: Lu et al., NeurIPS 2022 (logsnr); Song et al., ICLR 2021 (quadratic); Karras et al., NeurIPS 2022, eq. 5;
    Esser et al., ICML 2024, eq. 23 (shift).
    """
    if n < 1:
        raise ValueError(f"`n` is {n}; a grid needs at least one step.")
    if isinstance(end, str) and end not in ("min", "zero"):
        raise ValueError(f"`end` is {end!r}; it must be a time, 'min' or 'zero'.")
    first = schedule.t_start if start is None else start
    last = schedule.t_end if isinstance(end, str) else end
    clean = float(schedule.t_of_lam(np.array(np.inf)))
    if end == "zero" and not np.isfinite(clean):
        raise ValueError("`end` is 'zero', but the schedule never runs out of noise; use `under(model, EDM())`.")
    to_zero = end == "zero" and last != clean
    u = np.linspace(0.0, 1.0, n + (not to_zero))
    ts = _spaced(schedule, u, first, last, spacing, _shape(spacing, rho), clean if np.isfinite(clean) else 0.0)
    ts = _shifted(schedule, ts, first, last, shift)
    ts[-1] = last  # both ends exactly, without the rounding of an inverse
    ts[0] = first
    return np.append(ts, clean) if to_zero else ts


def _shape(spacing: str, rho: float | None) -> float:
    if rho is None:
        return SHAPES.get(spacing, 1.0)
    if spacing not in ("power", "karras", "sigmoid"):
        raise ValueError(f"`rho` is {rho}, but the spacing {spacing!r} has no shape to set; drop it.")
    if rho <= 0:
        raise ValueError(f"`rho` is {rho}; it must be positive.")
    return rho


def _spaced(
    schedule: Schedule, u: np.ndarray, first: float, last: float, spacing: str, rho: float, clean: float
) -> np.ndarray:
    if spacing == "time":
        return first + u * (last - first)
    if spacing == "sigmoid":
        out = 1 / (1 + np.exp(-rho * (2 * u - 1)))
        return first + (out - out[0]) / (out[-1] - out[0]) * (last - first)
    if spacing in ("quadratic", "power"):
        a, b = (abs(t - clean) ** (1 / rho) for t in (first, last))
        return clean + np.sign(first - last) * (a + u * (b - a)) ** rho
    if spacing not in ("logsnr", "karras"):
        raise ValueError(f"`spacing` is {spacing!r}; it must be 'time', 'logsnr', 'sigmoid' or one of {[*SHAPES]}.")
    inset = 1e-3 * (last - first)
    ends = np.array([t if np.isfinite(schedule.lam(t)) else t + by for t, by in ((first, inset), (last, -inset))])
    lam = schedule.lam(ends)
    if spacing == "karras":
        level = np.exp(-lam / rho)
        lam = -rho * np.log(level[0] + u * (level[1] - level[0]))
    else:
        lam = lam[0] + u * (lam[1] - lam[0])
    return np.asarray(schedule.t_of_lam(lam))


def _shifted(schedule: Schedule, ts: np.ndarray, first: float, last: float, shift: float) -> np.ndarray:
    if shift == 1:
        return ts
    if shift <= 0:
        raise ValueError(f"`shift` is {shift}; it must be positive.")
    moved = np.asarray(schedule.t_of_lam(schedule.lam(ts) - np.log(shift)))
    inner, (low, high) = moved[1:-1], sorted((first, last))
    if not np.all((inner > low) & (inner < high)):
        raise ValueError(f"`shift` of {shift:g} moves times beyond the ends; it is for paths that start as pure noise.")
    return moved


def flow_shift(height: int, width: int, rule: str = "sd3") -> float:
    """Return the shift of a time grid for images of this size: the more pixels, the more noise it takes to hide them.

    Args:
        height: in pixels.
        width: in pixels.
        rule: "sd3": the square root of the number of pixels over that of a 256 x 256 image. "flux": the exponential of
            a straight line through 0.5 at 256 x 256 and 1.15 at 1024 x 1024 in the number of 16 x 16 patches.

    Returns:
        The `shift` of `time_grid`.

    Raises:
        ValueError: rule is neither.

    Example:
        >>> flow_shift(1024, 1024), round(flow_shift(1024, 1024, "flux"), 4)
        (4.0, 3.1582)

    Source: Esser et al., ICML 2024, eq. 23 (arXiv 2403.03206); Black Forest Labs, FLUX.1 (2024), released settings.
    """
    if rule == "sd3":
        return float(np.sqrt(height * width) / 256)
    if rule != "flux":
        raise ValueError(f"`rule` is {rule!r}; it must be 'sd3' or 'flux'.")
    patches = height * width / 256
    return float(np.exp(0.5 + (1.15 - 0.5) * (patches - 256) / (4096 - 256)))
