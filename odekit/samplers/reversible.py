"""Samplers whose every step can be undone exactly: the state of two registers keeps what a step started from."""

from typing import Any

import numpy as np

from odekit.loops.table import SamplerTable
from odekit.samplers.grids import Grid, on_grid
from odekit.samplers.steps import Steps, to_table
from odekit.schedules import Schedule


def bdia(schedule: Schedule, ts: Any, gamma: float = 1.0, *, base: str = "ddim") -> SamplerTable:
    """BDIA: order 2 and exactly invertible by looking one step back; gamma below 1 is of order 1, and damps.

    With `step` the base's map between two times, `x[k+1] = step(x[k] -> k+1) + gamma (x[k-1] - step(x[k] -> k-1))`,
    the first step being the base's. The inverse multiplies rounding errors by `gamma**-(N-1)`: keep gamma=1 where
    samples are to be inverted (at N=50 in float64, gamma=0.5 loses them). Base "ddim" costs one evaluation per step,
    "heun" three and keeps order 2 for every gamma.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the other way encodes.
        gamma: over 0, up to 1: how much of the last step is taken back and made again from its end.
        base: "ddim", or "heun" on the velocity, for which noise must be left at the last time.

    Returns:
        A table of N rows in the data view, or 3N in the velocity view, with slots (newest state, the one before).

    Raises:
        ValueError: the grid is not monotone, gamma or base is none of the above.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> bdia(FlowMatching(), [1.0, 0.5, 0.0]).lags
        (0, 1)

    Source: Zhang, Lewis & Kleijn, BDIA, ECCV 2024, eqs. 14-16 (arXiv 2307.10829).
    """
    if isinstance(gamma, float | int) and not 0 < gamma <= 1:
        raise ValueError(f"`gamma` is {gamma}; it must be over 0 and at most 1.")
    if base not in ("ddim", "heun"):
        raise ValueError(f"`base` is {base!r}; it must be 'ddim' or 'heun'.")
    grid = on_grid(schedule, ts)
    xp = grid.xp
    # In the first step both slots are the start and there is nothing to take back; a weight of the second slot
    # keeps the step one that can be undone.
    lag = xp.concatenate([xp.ones_like(grid.ts[:1]), gamma * xp.ones_like(grid.ts[2:])])
    about = {"name": "bdia", "source": "Zhang, Lewis & Kleijn, BDIA, ECCV 2024, eqs. 14-16 (arXiv 2307.10829)"}
    if base == "heun":
        return to_table(xp, _heun_there_and_back(grid, lag), grid.ts[-1], lags=(0, 1), view="velocity", **about)
    alpha, sigma = (xp.concatenate([path[:1], path[:-2]]) for path in (grid.alpha, grid.sigma))
    keep = sigma / grid.sigma[:-1]
    gain = alpha - grid.alpha[:-1] * keep
    steps = _pairs(grid, grid.keep - lag * keep, lag, grid.gain - lag * gain)
    return to_table(xp, steps, grid.ts[-1], lags=(0, 1), view="data", **about)


def _pairs(grid: Grid, keep: Any, lag: Any, gain: Any) -> Steps:
    """The steps `(x, older) <- (keep x + lag older + gain F(x), x)` of a grid."""
    xp, zero, one = grid.xp, grid.xp.zeros_like(keep), grid.xp.ones_like(keep)
    t = grid.ts[:-1, None]
    return Steps(
        t=t,
        t_state=t,
        scale=one[:, None],
        points=zero[:, None, None],
        kicks=zero[:, None],
        states=xp.stack([xp.stack([keep, lag], axis=-1), xp.stack([one, zero], axis=-1)], axis=1),
        evals=xp.stack([gain, zero], axis=1)[:, :, None],
        noise=xp.stack([zero, zero], axis=1),
    )


def _heun_there_and_back(grid: Grid, lag: Any) -> Steps:
    """The steps of BDIA over Heun's rule: the velocity at a state, ahead of it and behind it."""
    if not grid.traced and grid.sigma[-1] == 0:
        raise ValueError("`base` is 'heun', which needs noise at the last time of `ts`; end at a later time, or 'ddim'.")
    xp = grid.xp
    before = xp.concatenate([grid.ts[:1], grid.ts[:-2]])
    ahead, behind = grid.ts[1:] - grid.ts[:-1], before - grid.ts[:-1]
    zero, one = xp.zeros_like(ahead), xp.ones_like(ahead)
    t = xp.stack([grid.ts[:-1], grid.ts[1:], before], axis=1)
    points = [[zero] * 3, [ahead, zero, zero], [behind, zero, zero]]
    weights = [(ahead - lag * behind) / 2, ahead / 2, -lag * behind / 2]
    return Steps(
        t=t,
        t_state=t,
        scale=xp.stack([one] * 3, axis=1),
        points=xp.stack([xp.stack(row, axis=-1) for row in points], axis=1),
        kicks=xp.stack([zero] * 3, axis=1),
        states=xp.stack([xp.stack([1 - lag, lag], axis=-1), xp.stack([one, zero], axis=-1)], axis=1),
        evals=xp.stack([xp.stack(weights, axis=-1), xp.stack([zero] * 3, axis=-1)], axis=1),
        noise=xp.stack([zero, zero], axis=1),
    )
