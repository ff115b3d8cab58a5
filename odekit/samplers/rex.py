"""Runge-Kutta methods of the exponential kind, coupled with themselves so that every step can be undone."""

from typing import Any

import numpy as np

from odekit.loops.table import SamplerTable
from odekit.samplers.grids import on_grid
from odekit.samplers.steps import Steps, to_table
from odekit.schedules import Schedule
from odekit.solvers.runge_kutta import RungeKutta
from odekit.solvers.tableaus import Euler


def rex(
    schedule: Schedule,
    ts: Any,
    method: RungeKutta | None = None,
    *,
    coupling: float = 0.999,
    sde: bool = False,
) -> SamplerTable:
    """Rex: any explicit Runge-Kutta method made exactly invertible, of its own order, for the flow or the reverse SDE.

    In the variable in which the data prediction alone moves the state, `x / sigma` over `exp(lam)` for the flow, two
    states step by each other: `y <- coupling y + (1-coupling) z + step(z)`, `z <- z - step back(y)`. Costs two
    evaluations per stage and step; `bdia` costs one per step, this is the choice for higher order and for noise. The
    inverse multiplies rounding errors by `coupling**-N` and by how much a state is scaled down on the way, squared: 1e4
    for the flow of `VPLinear`, 1e12 for its SDE, which forgets where it started. The two states drift apart where
    coupling is near 1 and steps are too long: their distance is in `sample(..., state=True)`.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data, with noise left at the last; with `sde` the first has some data in it.
        method: the base; `Euler()` when None. Its own nodes are evaluated between grid points.
        coupling: over 0, up to 1; at 1 order 1 becomes order 2, and nothing ever draws the two states together.
        sde: whether to integrate the reverse SDE, with one draw of noise per step; on Gaussian data of order 2 in law.

    Returns:
        A table of 2 N stages rows in the data view with slots (z, y).

    Raises:
        ValueError: the grid is not monotone or has an end that is not allowed, or coupling is out of range.

    Example:
        >>> import odekit as ok
        >>> rex(ok.schedules.VPLinear(), [1.0, 0.5, 0.1], ok.Midpoint()).nfe
        8

    Source: Blasingame & Liu, Rex, 2025 (arXiv 2502.08834); McCallum & Foster, 2024 (arXiv 2410.11648), for the pair.
    """
    if isinstance(coupling, float | int) and not 0 < coupling <= 1:
        raise ValueError(f"`coupling` is {coupling}; it must be over 0 and at most 1.")
    grid = on_grid(schedule, ts)
    if not grid.traced and (grid.sigma[-1] == 0 or (sde and grid.starts_at_zero)):
        at, what = (grid.ts[-1], "noise") if grid.sigma[-1] == 0 else (grid.ts[0], "data")
        raise ValueError(f"`ts` holds {at:g}, where there is no {what} left to undo a step by; keep clear of it.")
    if sde:
        grid.need_descent("sde")
    base, xp = Euler() if method is None else method, grid.xp
    power = 2 if sde else 1
    with np.errstate(divide="ignore"):
        unit = grid.sigma**2 / grid.alpha if sde else grid.sigma
    clock = xp.exp(power * grid.lam)
    span = clock[1:] - clock[:-1]

    def half(start: slice, end_of_other: slice, sign: float, weight: Any) -> Steps:
        """The step of one state by another that stands at `start`, forth (sign 1) or back."""
        own, other, new = unit[start], unit[end_of_other], unit[1:]
        t, units = _stage_times(schedule, xp, grid.ts[start], own, clock[start], sign * span, base.c, power)
        zero, root = xp.zeros_like(span), xp.sqrt(abs(span)) if sde else xp.zeros_like(span)
        rows = [[units[i] * sign * span * a for a in row] for i, row in enumerate(((), *base.a))]
        points = [[*row, *[zero] * (len(base.b) - len(row))] for row in rows]
        states = [[(1 - weight) * new / own, weight * new / other], [xp.ones_like(span), zero]]
        evals = [[new * span * b for b in base.b], [zero] * len(base.b)]
        kicks = [units[i] * c * sign * root for i, c in enumerate(base.c)]
        stack = [xp.stack([xp.stack(row, axis=-1) for row in part], axis=-2) for part in (points, states, evals)]
        scale, kicks, t = (xp.stack(part, axis=1) for part in ([u / own for u in units], kicks, t))
        return Steps(t, t, scale, stack[0], kicks, stack[1], stack[2], xp.stack([new * root, zero], axis=-1))

    begin, end = slice(None, -1), slice(1, None)
    forth, back = half(begin, begin, 1.0, coupling), half(end, begin, -1.0, 1.0)
    # the second half steps z from the start of the step by the slope at y, which already stands at its end
    pairs = [xp.stack([a, b], axis=1) for a, b in zip(forth, back, strict=True)]
    steps = Steps(*(part.reshape(2 * grid.n, *part.shape[2:]) for part in pairs))
    draws = tuple(k for k in range(grid.n) for _ in range(2)) if sde else None
    about: dict[str, Any] = {"name": "rex", "source": "Blasingame & Liu, Rex, 2025 (arXiv 2502.08834)"}
    return to_table(xp, steps, grid.ts[-1], draws, lags=(0, 0), view="data", **about)


def _stage_times(
    schedule: Schedule, xp: Any, t: Any, unit: Any, clock: Any, span: Any, nodes: Any, power: int
) -> tuple[list, list]:
    """Return time and unit of the state at every node of steps `span` of the clock `exp(power lam)`."""
    times, units = [], []
    for c in nodes:
        if isinstance(c, float | int) and c == 0:  # also where the clock stands at 0
            times.append(t)
            units.append(unit)
            continue
        at = schedule.t_of_lam(xp.log(clock + c * span) / power)
        times.append(at)
        units.append(schedule.sigma(at) ** power / schedule.alpha(at) ** (power - 1))
    return times, units
