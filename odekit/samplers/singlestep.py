"""Single-step DPM-Solver and DPM-Solver++: exponential Runge-Kutta stages inside each step, no history."""

from typing import Any

import numpy as np

from odekit.errors import require_one_of
from odekit.loops.table import SamplerTable
from odekit.samplers.exponential import Exponential, amounts, exponential
from odekit.samplers.grids import evaluated, on_grid, root
from odekit.samplers.stages import Stage, single_ends, staged
from odekit.samplers.weights import polynomial_weights
from odekit.schedules import Schedule

# (order, variant): for each evaluation, the position in lam of the state that follows it, and the evaluations whose
# interpolant is integrated up to there. No other positions: order 3 needs 2/3, from the line as from the parabola.
_STEPS = {
    (1, "midpoint"): ((1, (0,)),),
    (1, "heun"): ((1, (0,)),),
    (2, "midpoint"): ((1 / 2, (0,)), (1, (1,))),
    (2, "heun"): ((1 / 2, (0,)), (1, (0, 1))),
    (3, "midpoint"): ((1 / 3, (0,)), (2 / 3, (0, 1)), (1, (0, 2))),
    (3, "heun"): ((1 / 3, (0,)), (2 / 3, (0, 1)), (1, (0, 1, 2))),
}


def budget_orders(nfe: int, order: int = 3) -> tuple[int, ...]:
    """Return the orders of single steps that use a budget of evaluations up: as many of `order` as leave a rest.

    Use them with a grid of as many steps, `dpm(schedule, time_grid(schedule, len(orders), "logsnr"), orders,
    kind="singlestep")`. The last step is of low order, where lam changes fast.

    Args:
        nfe: the number of network evaluations.
        order: 2 or 3, the highest order.

    Returns:
        The order of every step; they add up to nfe.

    Raises:
        ValueError: nfe is not positive, or order is not 2 or 3.

    Example:
        >>> budget_orders(10), budget_orders(9), budget_orders(5, 2)
        ((3, 3, 3, 1), (3, 3, 2, 1), (2, 2, 1))

    Source: Lu et al., DPM-Solver, NeurIPS 2022, section 3.4 (arXiv 2206.00927).
    """
    require_one_of("order", order, (2, 3))
    if nfe < 1:
        raise ValueError(f"`nfe` is {nfe}; there must be at least one evaluation.")
    full, rest = divmod(nfe, order)
    if order == 3 and rest == 0:
        return (3,) * (full - 1) + (2, 1)
    return (order,) * full + (rest,) * (rest > 0)


def singlestep(
    orders: Any, schedule: Schedule, ts: Any, variant: str, lower_order_final: Any, tau: Any, **about: Any
) -> SamplerTable:
    """Return the single-step table of `dpm` or `dpmpp`.

    With noise these are the SEEDS methods: all stages of a step lie on one path of it.

    Args:
        orders: 1, 2 or 3, or a tuple of one for each step; also the evaluations that it costs.
        schedule: the noise schedule.
        ts: (N+1,) times.
        variant: "midpoint" or "heun", the interpolants as published or of all evaluations.
        lower_order_final: whether the last step is of order 1; None where the grid ends without noise. There, and at a
            start without data, lam is infinite and no other order exists.
        tau: amount of noise, as for `dpmpp`.
        about: view, name and source of the table.

    Raises:
        ValueError: there is not one order of 1, 2 or 3 for each step.
    """
    grid = on_grid(schedule, ts)
    if np.shape(orders) not in ((), (grid.n,)):
        raise ValueError(f"`order` holds {len(orders)} numbers for {grid.n} steps; give one number, or one a step.")
    for order in np.broadcast_to(orders, grid.n):
        require_one_of("order", order.item(), (1, 2, 3))
    counts = single_ends(grid, np.broadcast_to(orders, grid.n), lower_order_final)
    tau = amounts(grid, tau)
    ex = exponential(grid, schedule, tau, view=about["view"])

    def stages(steps: np.ndarray, count: int) -> list[Stage]:
        rows, table = steps, _STEPS[count, variant]
        start, dlam = grid.lam[steps], grid.lam[steps + 1] - grid.lam[steps]
        out, t, spread = [], grid.ts[steps], 0.0  # variance of the noise so far, as the anchor would have it
        for position, nodes in table:
            part = ex if position == 1 else _part(schedule, ex, steps, start + position * dlam, tau, about["view"])
            rows = steps if position == 1 else 2 * np.arange(len(steps))
            offsets = [0 if j == 0 else table[j - 1][0] * dlam for j in nodes]
            found = dict(zip(nodes, polynomial_weights(offsets, part.moments(rows, len(nodes))), strict=True))
            weights = [found.get(j, grid.xp.zeros_like(t)) for j in range(len(out) + 1)]
            keep, noise = part.keep[rows], None if ex.noise is None else _increment(grid.xp, part, rows, spread)
            out.append(Stage(t, keep, weights, noise))
            t = part.grid.ts[rows + 1]
            spread = 0.0 if noise is None or position == 1 else spread + (noise / keep) ** 2
        return out

    return staged(grid, counts, stages, **about)


def _increment(xp: Any, part: Exponential, rows: np.ndarray, spread: Any) -> Any:
    """Return the noise that a stage adds to what is kept of the noise before it."""
    if part.noise is None:
        return xp.zeros_like(part.keep[rows])
    return root(xp, part.noise[rows] ** 2 - part.keep[rows] ** 2 * spread)


def _part(schedule: Schedule, ex: Exponential, steps: np.ndarray, lam: Any, tau: Any, view: str) -> Exponential:
    """Return the steps from the starts of `steps` to `lam`, every other one of a grid that goes to and fro."""
    grid, t = ex.grid, schedule.t_of_lam(lam)
    ends = (t, schedule.alpha(t), schedule.sigma(t), lam)
    starts = (values[steps] for values in (grid.ts, grid.alpha, grid.sigma, grid.lam))
    pairs = (grid.xp.stack(pair, axis=1).reshape(-1) for pair in zip(starts, ends, strict=True))
    there = grid.xp.stack([tau[steps], grid.xp.zeros_like(lam)], axis=1).reshape(-1)[:-1]  # and back without noise
    return exponential(evaluated(*pairs), schedule, there, view=view)
