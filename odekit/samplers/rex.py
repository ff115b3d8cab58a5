"""Runge-Kutta methods of the exponential kind, coupled with themselves so that every step can be undone."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from odekit.loops.table import SamplerTable
from odekit.samplers.grids import on_grid
from odekit.samplers.steps import Steps, matrices, to_table
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
    base, xp, power = Euler() if method is None else method, grid.xp, 2 if sde else 1
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(base)):
        xp = jnp
    with np.errstate(divide="ignore"):
        unit = grid.sigma**power / grid.alpha ** (power - 1)
    points = _Points(grid.ts, unit, xp.exp(power * grid.lam))
    begin, end = (_Points(*(row[part] for row in points)) for part in (slice(None, -1), slice(1, None)))
    halves = [_half(schedule, xp, base, sde, begin, end, back) for back in (False, True)]
    halves[0] = halves[0]._replace(states=_coupled(xp, begin.unit, begin.unit, end.unit, coupling))
    pairs = [xp.stack(pair, axis=1) for pair in zip(*halves, strict=True)]
    steps = Steps(*(part.reshape(2 * grid.n, *part.shape[2:]) for part in pairs))
    draws = tuple(k for k in range(grid.n) for _ in range(2)) if sde else None
    about: dict[str, Any] = {"name": "rex", "source": "Blasingame & Liu, Rex, 2025 (arXiv 2502.08834)"}
    return to_table(xp, steps, grid.ts[-1], draws, lags=(0, 0), view="data", **about)


class _Points(NamedTuple):
    """Times, the unit that states are counted in there, and the clock by which the data prediction moves them."""

    t: Any
    unit: Any
    clock: Any


def _coupled(xp: Any, own: Any, other: Any, new: Any, weight: Any) -> Any:
    """(N, 2, 2) slots (own, other) -> ((1 - weight) own + weight other, own), each counted in its own unit."""
    one, zero = xp.ones_like(new), xp.zeros_like(new)
    return matrices(xp, [[(1 - weight) * new / own, weight * new / other], [one, zero]])


def _half(schedule: Schedule, xp: Any, base: RungeKutta, sde: bool, begin: _Points, end: _Points, back: bool) -> Steps:
    """Return the steps of one state from `begin` to `end` by the slopes that the base meets on its way from the other.

    The other stands at `begin` and the base goes forth; or at `end`, and it goes back.
    """
    own, sign, power = end if back else begin, -1.0 if back else 1.0, 2 if sde else 1
    span, count = end.clock - begin.clock, len(base.b)
    zero, root = xp.zeros_like(span), xp.sqrt(abs(span)) if sde else xp.zeros_like(span)
    t, units = _stage_times(schedule, xp, own, sign * span, base.c, power)
    points = [[units[i] * sign * span * a for a in row] for i, row in enumerate(((), *base.a))]
    points = xp.stack([xp.stack([*row, *[zero] * (count - len(row))], axis=-1) for row in points], axis=1)
    gains = xp.stack([end.unit * span * b for b in base.b], axis=-1)
    return Steps(
        t=xp.stack(t, axis=1),
        t_state=xp.stack(t, axis=1),
        scale=xp.stack([unit / own.unit for unit in units], axis=1),
        points=points,
        kicks=xp.stack([unit * c * sign * root for unit, c in zip(units, base.c, strict=True)], axis=1),
        states=_coupled(xp, own.unit, begin.unit, end.unit, 1.0),
        evals=xp.stack([gains, xp.zeros_like(gains)], axis=1),
        noise=xp.stack([end.unit * root, zero], axis=-1),
    )


def _stage_times(schedule: Schedule, xp: Any, start: _Points, span: Any, nodes: Any, power: int) -> tuple[list, list]:
    """Return time and unit of the state at every node of steps `span` of the clock `exp(power lam)`."""
    times, units = [], []
    for c in nodes:
        if isinstance(c, float | int) and c == 0:  # also where the clock stands at 0
            times.append(start.t)
            units.append(start.unit)
            continue
        at = schedule.t_of_lam(xp.log(start.clock + c * span) / power)
        times.append(at)
        units.append(schedule.sigma(at) ** power / schedule.alpha(at) ** (power - 1))
    return times, units
