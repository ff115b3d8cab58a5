"""Heun's rule in rho = sigma / alpha with fresh noise on the way: a little in every step, or a lot at times."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from odekit.errors import require_one_of
from odekit.loops.table import SamplerTable
from odekit.samplers.grids import Grid, on_grid, root
from odekit.samplers.stages import Stage, single_ends, staged
from odekit.schedules import Schedule


class _Path(NamedTuple):
    """Steps in rho, each from `start` down to `end`; noise takes the end of one to the start of the next."""

    start: Any  # (N,) levels
    end: Any
    t_start: Any  # (N,) their times
    t_end: Any


def edm(
    schedule: Schedule,
    ts: Any,
    order: int = 2,
    *,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = np.inf,
    noise_scale: float = 1.0,
    probe: float = 1.0,
    lower_order_final: bool | None = None,
) -> SamplerTable:
    """Sampler of Karras et al.: order 2 in rho = sigma/alpha, two evaluations per step, noise churned on the way.

    For many steps: churn contracts earlier errors, and needs its four numbers tuned to the network. Before its step a
    level in [churn_min, churn_max] is raised by `min(churn / N, sqrt(2) - 1)` of itself. The first step is churned
    only where alpha is constant, as it is on the authors' path. Order 2 in law with noise_scale=1; any other leaves an
    error of order 0.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the first has some data in it.
        order: 2, or 1 for Euler's rule, one evaluation per step.
        churn: amount of noise renewed over all steps; 0 is deterministic (Heun's rule on `x / alpha`).
        churn_min: lowest level sigma/alpha that is churned.
        churn_max: highest level that is churned.
        noise_scale: factor of the fresh noise, in use slightly above 1 against networks that remove too much.
        probe: where in the step the second evaluation is: 1 for Heun's rule, 1/2 for the midpoint.
        lower_order_final: whether the last step is Euler's, one evaluation; None where the grid ends without noise.

    Returns:
        A table in the noise view, stochastic unless churn is 0.

    Raises:
        ValueError: the grid is not monotone, starts without data, or adds noise on the way from data to noise; order is
            not 1 or 2; probe is not positive.

    Example:
        >>> from odekit.schedules import EDM
        >>> edm(EDM(), [80.0, 10.0, 1.0, 0.0], churn=40).nfe
        5

    Source: Karras et al., NeurIPS 2022, algorithm 2, algorithm 3 for other probes (arXiv 2206.00364).
    """
    require_one_of("order", order, (1, 2))
    if probe <= 0:
        raise ValueError(f"`probe` is {probe}; it must be positive, 1 for Heun's rule.")
    grid, path = _steps(schedule, ts)
    about = {"name": "edm", "source": "Karras et al., NeurIPS 2022 (arXiv 2206.00364)"}
    if churn == 0:
        return _heun(schedule, grid, path, order, probe, None, lower_order_final, **about)
    grid.need_descent("churn")
    xp, rho = grid.xp, path.start
    churned = (rho >= churn_min) & (rho <= churn_max)
    # before row 0 the state cannot be rescaled to another alpha
    churned = churned & ((np.arange(grid.n) > 0) | (schedule.alpha_dot(grid.ts[:-1]) == 0))
    raised = rho * (1 + xp.where(churned, min(churn / grid.n, 2**0.5 - 1), 0.0))
    t_raised = xp.where(churned, schedule.t_of_lam(-xp.log(raised)), path.t_start)
    path = path._replace(start=raised, t_start=t_raised)
    table = _heun(schedule, grid, path, order, probe, noise_scale, lower_order_final, **about)
    return dataclasses.replace(
        table, start_noise=jnp.asarray(noise_scale * grid.alpha[0] * _spread(xp, rho, raised)[0])
    )


def restart(
    schedule: Schedule,
    ts: Any,
    intervals: Sequence[tuple[int, int, float, float]] = (),
    *,
    noise_scale: float = 1.0,
    lower_order_final: bool | None = None,
) -> SamplerTable:
    """Heun's rule in rho = sigma/alpha that goes back up in one jump of noise, several times: order 2 in law.

    The jump contracts the errors made so far, more than as much noise in small portions. Every repetition of an
    interval costs `2 (n - 1)` evaluations.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the first has some data in it.
        intervals: rows (n, k, t_min, t_max): when the point of `ts` nearest in rho to time t_min is reached, noise is
            added up to time t_max and n - 1 steps (of Karras' spacing) lead back, k times; none is `edm`.
        noise_scale: as for `edm`.
        lower_order_final: as for `edm`.

    Returns:
        A table in the noise view, stochastic if any interval is repeated.

    Raises:
        ValueError: the grid is not monotone, starts without data or runs from data to noise; an interval has fewer than
            two points, does not go up, or starts where there is no noise.

    Example:
        >>> from odekit.schedules import EDM
        >>> restart(EDM(), [80.0, 1.0, 0.1, 0.0], [(3, 2, 0.1, 1.0)]).nfe
        13

    Source: Xu et al., Restart sampling, NeurIPS 2023, algorithm 2 (arXiv 2306.14878).
    """
    grid, main = _steps(schedule, ts)
    grid.need_descent("restart")
    xp = grid.xp
    pieces, turns = [main], [xp.arange(grid.n, dtype=grid.ts.dtype)]
    for n, k, t_min, t_max in intervals:
        low, high = (xp.exp(-schedule.lam(xp.asarray(t, grid.ts.dtype))) for t in (t_min, t_max))
        last = xp.argmin(abs(main.end - low))
        if n < 2 or (not grid.traced and not 0 < main.end[last] < high):
            raise ValueError(
                f"`intervals` holds ({n}, {k}, {t_min:g}, {t_max:g}); it must have two points or more and go up from "
                "where there is some noise."
            )
        levels, times = _back(schedule, grid, n, high, main.end[last], main.t_end[last])
        pieces += [_Path(levels[:-1], levels[1:], times[:-1], times[1:])] * k
        turns += [xp.full(n - 1, 0.5, grid.ts.dtype) + xp.asarray(last, grid.ts.dtype)] * k
    turn = xp.argsort(xp.concatenate(turns), stable=True)
    path = _Path(*(xp.concatenate(part)[turn] for part in zip(*pieces, strict=True)))
    source = "Xu et al., Restart sampling, NeurIPS 2023 (arXiv 2306.14878)"
    scale = noise_scale if len(pieces) > 1 else None
    return _heun(schedule, grid, path, 2, 1.0, scale, lower_order_final, name="restart", source=source)


def _steps(schedule: Schedule, ts: Any) -> tuple[Grid, _Path]:
    grid = on_grid(schedule, ts)
    grid.need_data()
    rho = grid.xp.exp(-grid.lam)
    return grid, _Path(rho[:-1], rho[1:], grid.ts[:-1], grid.ts[1:])


def _back(schedule: Schedule, grid: Grid, n: int, high: Any, low: Any, t_low: Any) -> tuple:
    """Return n levels from `high` to `low` and their times, the last of which are given."""
    u = grid.xp.linspace(0.0, 1.0, n, dtype=grid.ts.dtype)[:-1]
    levels = (high ** (1 / 7) + u * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    times = schedule.t_of_lam(-grid.xp.log(levels))
    return tuple(grid.xp.append(a, b) for a, b in ((levels, low), (times, t_low)))


def _spread(xp: Any, low: Any, high: Any) -> Any:
    """Return the noise that leads from levels `low` to levels `high`."""
    return root(xp, high**2 - low**2)


def _heun(
    schedule: Schedule, grid: Grid, path: _Path, order: int, probe: float, scale: float | None, lower: Any, **about: str
) -> SamplerTable:
    """Return the table of `y = x / alpha`, `dy/drho = noise`, along a path; `scale` is None for one without jumps."""
    xp, n = grid.xp, len(path.start)
    counts = single_ends(grid, np.full(n, order), lower)
    alpha, after = schedule.alpha(path.t_start), schedule.alpha(xp.append(path.t_start[1:], path.t_end[-1]))
    jump = _spread(xp, path.end, xp.append(path.start[1:], path.end[-1]))

    def stages(steps: np.ndarray, count: int) -> list[Stage]:
        a, b, drho = alpha[steps], after[steps], (path.end - path.start)[steps]
        noise = None if scale is None else scale * b * jump[steps]
        if count == 1:
            return [Stage(path.t_start[steps], b / a, [b * drho], noise)]
        t = path.t_end[steps] if probe == 1 else schedule.t_of_lam(-xp.log(path.start[steps] + probe * drho))
        at = schedule.alpha(t)
        weights = [b * drho * (1 - 1 / (2 * probe)), b * drho / (2 * probe)]
        return [Stage(path.t_start[steps], at / a, [at * probe * drho]), Stage(t, b / a, weights, noise)]

    return staged(grid, counts, stages, view="noise", **about)
