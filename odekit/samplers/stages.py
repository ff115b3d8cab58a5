"""Steps of several evaluations: every row leads to the next stage, the last row of a step to the next step.

Two slots: slot 0 is the stage that the model sees, slot 1 the anchor, the state that the step started from.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from odekit.loops.table import SamplerTable
from odekit.samplers.grids import Grid
from odekit.samplers.multistep import by_ring


class Stage(NamedTuple):
    """One evaluation in each of R steps, and the state that it leads to: the next stage, or the end of the step.

    Attributes:
        t: (R,) time of the evaluation.
        keep: (R,) weight of the anchor in that state.
        weights: (R,) for each evaluation of the step so far, oldest first.
        noise: (R,) fresh noise in that state, of which later stages keep as much as of the anchor; None for none.
    """

    t: Any
    keep: Any
    weights: list
    noise: Any = None


def single_ends(grid: Grid, counts: np.ndarray, lower_order_final: Any) -> np.ndarray:
    """Return the counts of evaluations with one in the steps that have no middle in lam.

    Args:
        grid: N steps, or the ends of more.
        counts: concrete number of evaluations of each step.
        lower_order_final: whether the last step has one; None where the grid ends without noise.
    """
    counts = counts.copy()
    if lower_order_final or (grid.ends_at_zero and (lower_order_final is None or not grid.traced)):
        counts[-1] = 1
    if grid.starts_at_zero:
        counts[0] = 1
    return counts


def staged(
    grid: Grid, counts: np.ndarray, stages: Callable[[np.ndarray, int], list[Stage]], **about: Any
) -> SamplerTable:
    """Return the table of a method whose steps need nothing but their own evaluations.

    Args:
        grid: N steps.
        counts: (N,) concrete number of evaluations of each step.
        stages: `stages(steps, count)` returns the `count` stages of these steps.
        about: view, name and source of the table.
    """
    xp, depth, first = grid.xp, int(max(counts)), np.cumsum(counts) - counts
    pieces, rows, noisy = [], [], False
    for count in sorted(set(counts.tolist())):
        steps = np.flatnonzero(counts == count)
        for i, stage in enumerate(stages(steps, count)):
            zero, noisy = xp.zeros_like(stage.t), noisy or stage.noise is not None
            weights = [*stage.weights[::-1], *[zero] * (depth - len(stage.weights))]
            noise = zero if stage.noise is None else stage.noise
            pieces.append(xp.stack([stage.t, stage.keep, noise, *weights], axis=-1))
            rows.append(first[steps] + i)
    numbers = xp.concatenate(pieces)[np.argsort(np.concatenate(rows))]
    t_state = xp.concatenate([numbers[:, 0], grid.ts[-1:]])
    closes = np.isin(np.arange(len(numbers)), first + counts - 1)
    keep, noise = numbers[:, 1], numbers[:, 2] if noisy else None
    return stage_rows(grid, t_state, closes, keep, numbers[:, 3:], noise, **about)


def stage_rows(
    grid: Grid, t_state: Any, closes: np.ndarray, keep: Any, ages: Any, noise: Any = None, **about: Any
) -> SamplerTable:
    """Return the table that moves from the anchor in every row, and renews it in the rows that close a step.

    Args:
        grid: its `xp` is what the numbers are made with.
        t_state: (N+1,) times of the N rows and of the end.
        closes: (N,) booleans, concrete.
        keep: (N,) weight of the anchor.
        ages: (N, H) weights of the last evaluations, newest first.
        noise: (N,) fresh noise in slot 0, or None. The anchor takes its share where a row closes no step, so that what
            moves from there keeps it.
        about: view, name and source of the table.
    """
    evals, closing = by_ring(grid, ages), grid.xp.asarray(closes, grid.ts.dtype)
    anchor = (closing * keep + (1 - closing), closing[:, None] * evals)
    table = anchored(grid, t_state, (keep, evals), anchor, **about)
    if noise is None:
        return table
    share = noise / grid.xp.where(closes, 1.0, keep)
    return dataclasses.replace(table, noise=jnp.asarray(grid.xp.stack([noise, share], axis=1)))


def anchored(grid: Grid, t_state: Any, stage: tuple, anchor: tuple, **about: Any) -> SamplerTable:
    """Return the table whose slots both become a multiple of the anchor and a sum of evaluations.

    Args:
        grid: its `xp` is what the numbers are made with.
        t_state: (N+1,) times of the N rows and of the end.
        stage: (N,) weight of the anchor and (N, H) weights of evaluations by ring position, for slot 0.
        anchor: likewise for slot 1.
        about: view, name and source of the table.
    """
    xp = grid.xp
    keep, evals = (xp.stack(pair, axis=1) for pair in zip(stage, anchor, strict=True))
    return SamplerTable(
        t=jnp.asarray(t_state[:-1]),
        states=jnp.asarray(xp.stack([xp.zeros_like(keep), keep], axis=-1)),
        evals=jnp.asarray(evals),
        noise=None,
        t_state=jnp.asarray(t_state),
        **about,
    )
