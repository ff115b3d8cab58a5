"""DPM-Solver-v3: exponential multistep methods whose linear part is measured on the model itself."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from odekit.errors import require_one_of
from odekit.loops.table import SamplerTable
from odekit.samplers.grids import Grid, on_grid
from odekit.samplers.multistep import step_orders
from odekit.samplers.v3_statistics import Curves, Point, V3Statistics
from odekit.samplers.weights import NODES, WEIGHTS, polynomial_weights
from odekit.schedules import Schedule


def dpm_v3(
    schedule: Schedule,
    ts: Any,
    statistics: V3Statistics,
    order: int = 3,
    *,
    corrector: str | None = "full",
    pseudo: bool = False,
    lower_order_final: bool | str | None = None,
) -> SamplerTable:
    """DPM-Solver-v3: order 1 to 3 in lam with statistics of the model, one evaluation per step.

    For the fewest evaluations with a network that is sampled often. With `y = x/alpha`, a step is exact where
    `f = (1 - linear) y - data` obeys `df/dlam = slope f + constant`, as for Gaussian data, whatever its size. Every
    pixel has numbers of its own.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data. All but an end without data and one without noise must lie in the range
            of the statistics; of a grid being trained all.
        statistics: from `v3_statistics(model, x_init)`.
        order: 1, 2 or 3; 2 with strong guidance.
        corrector: how every state is corrected by the evaluation that the next step needs anyway: "full" with one
            evaluation more than its predictor, "pseudo" likewise but by pseudo-differences, "same" with as many as its
            predictor, these two as published; None not at all.
        pseudo: whether the predictor uses pseudo-differences, which keep low derivatives at low order; published for
            5 steps.
        lower_order_final: as for `dpmpp`.

    Returns:
        A table of N rows in the data view for samples of the statistics' shape: slot 0 is predicted, the others are
        the last corrected state, if any, and past values of f.

    Raises:
        ValueError: the grid is not monotone or leaves the range of the statistics; order or corrector is none of the
            above.

    Example:
        >>> from odekit.schedules import VPLinear
        >>> plain = V3Statistics(np.linspace(-6.0, 6.0, 9), np.ones(9), np.zeros(9), np.zeros(9))
        >>> dpm_v3(VPLinear(), [1.0, 0.6, 0.3, 0.001], plain, 2).states.shape
        (3, 4, 4)

    Source: Zheng et al., DPM-Solver-v3, NeurIPS 2023, algorithms 1-2 (arXiv 2310.13268).
    """
    require_one_of("order", order, (1, 2, 3))
    require_one_of("corrector", corrector, ("full", "pseudo", "same", None))
    grid = on_grid(schedule, ts)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(statistics)):
        grid = grid._replace(xp=jnp)
    plain = _infinite(grid)
    _check_range(grid, statistics)
    # without data at the first point there is no f, and history begins one later
    orders = np.minimum(step_orders(grid, order, lower_order_final), np.arange(grid.n) + 1 - grid.starts_at_zero)
    fixes = orders + (corrector != "same")
    fixes = np.where(plain | (fixes < 2) | (np.arange(grid.n) == grid.n - 1) | (corrector is None), 0, fixes)
    flow = _flow(grid, statistics, int(max(1, *orders, *fixes)))
    predict = flow.steps(np.where(plain, 0, orders), pseudo)
    correct = flow.steps(fixes, corrector == "pseudo", ends=True)
    about = {"name": f"dpm_v3-{order}", "source": "Zheng et al., DPM-Solver-v3, NeurIPS 2023 (arXiv 2310.13268)"}
    return _table(flow, plain, predict, correct, fixes > 0, **about)


def _infinite(grid: Grid) -> np.ndarray:
    """Return which steps have an infinite length in lam: there the data prediction is all that counts."""
    finite = np.ones(grid.n + 1, bool) if grid.traced else np.isfinite(grid.lam)
    return ~(finite[1:] & finite[:-1])


def _check_range(grid: Grid, statistics: V3Statistics) -> None:
    if grid.traced or isinstance(statistics.lam, Tracer):
        return
    lam, known = grid.lam[np.isfinite(grid.lam)], np.asarray(statistics.lam, np.float64)
    slack = 1e-3 * (known[1] - known[0])
    if lam.min() < known[0] - slack or lam.max() > known[-1] + slack:
        raise ValueError(
            f"`ts` runs from lam {lam.min():.4g} to {lam.max():.4g}, but `statistics` from {known[0]:.4g} to "
            f"{known[-1]:.4g}; measure them on a wider range."
        )


class _Flow(NamedTuple):
    """The exact flow of a model with these statistics.

    What is constant where they are exact, up to a polynomial in lam, is f carried to the start of a step along
    `df/dlam = slope f + constant`: `g = fade f - shift`.

    Attributes:
        grid: N steps.
        at: the statistics at the N+1 points.
        moments: for k=0, 1 ...: (N, ...) integrals over each step of (lam - its start)**k in the weight of g.
        known: (N, ...) integral of shift in that weight.
        scale: (N, ...) factor of these integrals in the state at the end of the step.
    """

    grid: Grid
    at: Point
    moments: list
    known: Any
    scale: Any

    def wide(self, values: Any) -> Any:
        """Return values with axes for the pixels behind their own."""
        return values.reshape(values.shape + (1,) * (self.known.ndim - 1))

    def steps(self, counts: np.ndarray, pseudo: bool, *, ends: bool = False) -> Any:
        """Return (N, H + 1, ...): the weights of the last H values of f, newest first, and a constant.

        Args:
            counts: (N,) how many values each step interpolates; 0 leaves it empty.
            pseudo: whether by pseudo-differences.
            ends: whether the newest value is that at the end of the step.
        """
        xp, pieces, where, depth = self.grid.xp, [], [], len(self.moments)
        for count in sorted(set(counts.tolist())):
            steps = np.flatnonzero(counts == count)
            blank = xp.zeros_like(self.known[steps])
            constant, *weights = self._step(steps, count, pseudo, ends) if count else [blank]
            pieces.append(xp.stack([*weights, *[blank] * (depth - len(weights)), constant], axis=1))
            where.append(steps)
        return xp.concatenate(pieces)[np.argsort(np.concatenate(where))]

    def _step(self, steps: np.ndarray, count: int, pseudo: bool, ends: bool) -> list:
        """Return the constant and `count` weights, newest first."""
        xp, lam = self.grid.xp, self.grid.lam
        older = [steps - j for j in range(count - ends)]
        nodes = [older[0], steps + 1, *older[1:]] if ends else older  # differences begin at the start of the step
        offsets = [0.0, *(self.wide(lam[i] - lam[steps]) for i in nodes[1:])]
        found = polynomial_weights(offsets, [moment[steps] for moment in self.moments[:count]], pseudo=pseudo)
        s, shift = self.at.slope_sum, self.at.shift_sum
        fades = [xp.exp(s[steps] - s[i]) for i in nodes]
        shifts = [xp.exp(s[steps]) * (shift[i] - shift[steps]) for i in nodes]
        constant = self.known[steps] - sum(c * shift for c, shift in zip(found, shifts, strict=True))
        weights = [c * fade for c, fade in zip(found, fades, strict=True)]
        newest = [weights[1], weights[0], *weights[2:]] if ends else weights
        return [self.scale[steps] * value for value in (constant, *newest)]


def _flow(grid: Grid, statistics: V3Statistics, depth: int) -> _Flow:
    """Return the flow with `depth` moments; those of infinite steps mean nothing."""
    xp = grid.xp
    curves = Curves.of(statistics, xp, grid.ts.dtype)
    lam = grid.lam if grid.traced else xp.where(np.isfinite(grid.lam), grid.lam, curves.lam[0])
    at, dlam = curves.at(lam), (lam[1:] - lam[:-1])[:, None]
    x, w = (xp.asarray(values, dlam.dtype)[None, :] for values in (NODES, WEIGHTS))
    inside, begin = curves.at(lam[:-1, None] + dlam * x), Point(*(values[:-1, None] for values in at))

    def wide(values: Any) -> Any:
        return values.reshape(values.shape + (1,) * (curves.values.ndim - 2))

    growth = xp.exp(inside.linear_sum - begin.linear_sum + inside.slope_sum - begin.slope_sum)
    weight, ahead = wide(dlam * w) * growth, wide(dlam * x)
    shift = xp.exp(begin.slope_sum) * (inside.shift_sum - begin.shift_sum)
    moments = [xp.sum(weight * ahead**k, axis=1) for k in range(depth)]
    scale = -wide(grid.alpha[1:]) * xp.exp(at.linear_sum[:-1] - at.linear_sum[1:])
    return _Flow(grid, at, moments, xp.sum(weight * shift, axis=1), scale)


def _table(
    flow: _Flow, plain: np.ndarray, predict: Any, correct: Any, corrected: np.ndarray, **about: Any
) -> SamplerTable:
    """Return the rows, written as combinations of (slots, evaluation, 1).

    Args:
        flow: the flow.
        plain: (N,) steps that keep to the data prediction.
        predict: (N, H + 1, ...) weights of f, newest first, and constants, of every step.
        correct: likewise of the corrector of every step.
        corrected: (N,) whether a step is corrected.
        about: name and source of the table.
    """
    grid, xp, wide = flow.grid, flow.grid.xp, flow.wide
    depth, base = predict.shape[1] - 1, 1 if corrected.any() else 0
    slots = base + depth
    unit = [wide(row[None]) for row in xp.eye(slots + 2, dtype=predict.dtype)]
    with np.errstate(divide="ignore"):
        inverse = xp.where(np.append(grid.starts_at_zero, np.zeros(grid.n - 1, bool)), 0.0, 1 / grid.alpha[:-1])
    newest = ((1 - flow.at.linear[:-1]) * wide(inverse))[:, None] * unit[0] - unit[slots]
    values = [newest, *unit[base + 1 : slots]]

    def moved(start: Any, keep: Any, numbers: Any) -> Any:
        parts = [*values, unit[slots + 1]]
        return keep[:, None] * start + sum(numbers[:, i, None] * part for i, part in enumerate(parts))

    keep = -flow.scale * wide(inverse)
    keep = xp.where(wide(plain), wide(grid.keep), keep)

    def before(values: Any) -> Any:
        return xp.concatenate([values[:1], values[:-1]])

    fixed = wide(np.append(False, corrected[:-1])[:, None])
    state = xp.where(fixed, moved(unit[base], before(keep), before(correct)), unit[0])
    direct = wide(xp.where(plain, grid.gain, 0.0))[:, None]
    rows = [moved(state, keep, predict) + direct * unit[slots], *[state] * base, *values[: depth - 1]]
    rows = xp.stack([row + xp.zeros_like(predict[:, :1]) for row in rows], axis=1)
    return SamplerTable(
        t=jnp.asarray(grid.ts[:-1]),
        states=jnp.asarray(rows[:, :, :slots]),
        evals=jnp.asarray(rows[:, :, slots : slots + 1]),
        noise=None,
        t_state=jnp.asarray(grid.ts),
        offset=jnp.asarray(rows[:, :, slots + 1]),
        **about,
    )
