"""Samplers whose every step can be undone exactly: the state of two registers keeps what a step started from."""

from typing import Any

from odekit.loops.table import SamplerTable
from odekit.samplers.grids import Grid, on_grid
from odekit.samplers.steps import Steps, matrices, to_table
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

    Source: Zhang, Lewis & Kleijn, BDIA, ECCV 2024 (arXiv 2307.10829).
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
    about: dict[str, Any] = {"name": "bdia", "source": "Zhang, Lewis & Kleijn, BDIA, ECCV 2024 (arXiv 2307.10829)"}
    if base == "heun":
        return to_table(xp, _heun_there_and_back(grid, lag), grid.ts[-1], lags=(0, 1), view="velocity", **about)
    alpha, sigma = (xp.concatenate([path[:1], path[:-2]]) for path in (grid.alpha, grid.sigma))
    keep = sigma / grid.sigma[:-1]
    gain = alpha - grid.alpha[:-1] * keep
    steps = _two_step(grid, grid.keep - lag * keep, lag, grid.gain - lag * gain)
    return to_table(xp, steps, grid.ts[-1], lags=(0, 1), view="data", **about)


def belm(schedule: Schedule, ts: Any) -> SamplerTable:
    """O-BELM: order 2 in rho = sigma/alpha and exactly invertible, the two-step rule of least local error.

    One evaluation per step. The rule multiplies its parasitic error by `(drho[k] / drho[k-1])**2`, so where steps in
    rho shrink towards the data it damps errors, and its inverse amplifies them. The first step is DDIM's.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the first has some data in it.

    Returns:
        A table of N rows in the noise view with slots (newest state, the one before).

    Raises:
        ValueError: the grid is not monotone, or starts without data.

    Example:
        >>> from odekit.schedules import EDM
        >>> belm(EDM(), [2.0, 1.0, 0.0]).states[1, 0].tolist()
        [0.0, 1.0]

    Source: Wang et al., BELM, NeurIPS 2024 (arXiv 2410.07273).
    """
    grid = on_grid(schedule, ts)
    grid.need_data()
    xp, alpha = grid.xp, grid.alpha
    drho = grid.sigma[1:] / alpha[1:] - grid.sigma[:-1] / alpha[:-1]
    ratio = drho[1:] / drho[:-1]
    first = alpha[1:2] / alpha[:1]
    # the first step is DDIM's, weighing both slots so that it can be undone
    lag = xp.concatenate([xp.ones_like(first), alpha[2:] / alpha[:-2] * ratio**2])
    keep = xp.concatenate([first - 1, alpha[2:] / alpha[1:-1] * (1 - ratio) * (1 + ratio)])
    gain = alpha[1:] * xp.concatenate([drho[:1], drho[1:] * (1 + ratio)])
    about: dict[str, Any] = {"name": "belm", "source": "Wang et al., BELM, NeurIPS 2024 (arXiv 2410.07273)"}
    return to_table(xp, _two_step(grid, keep, lag, gain), grid.ts[-1], lags=(0, 1), view="noise", **about)


def edict(schedule: Schedule, ts: Any, p: float = 0.93) -> SamplerTable:
    """EDICT: two states that take DDIM steps by each other's noise, then mix; order 1, two evaluations per step.

    The first exactly invertible sampler, kept for comparison: it needs 50 steps or more, where `bdia` and `belm` cost
    half and are of order 2. The result is the state that moves first.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the first has some data in it.
        p: over 0, up to 1: how much of itself a state keeps when they mix.

    Returns:
        A table of 2N rows in the noise view; slots end as (first state, second).

    Raises:
        ValueError: the grid is not monotone or starts without data, or p is out of range.

    Example:
        >>> from odekit.schedules import VPLinear
        >>> edict(VPLinear(), [1.0, 0.5, 0.1]).nfe
        4

    Source: Wallace, Gokul & Naik, EDICT, CVPR 2023, eqs. 13-14 (arXiv 2211.12446).
    """
    if isinstance(p, float | int) and not 0 < p <= 1:
        raise ValueError(f"`p` is {p}; it must be over 0 and at most 1.")
    grid = on_grid(schedule, ts)
    grid.need_data()
    xp, rest = grid.xp, 1 - p
    keep = grid.alpha[1:] / grid.alpha[:-1]
    gain, zero, one = grid.sigma[1:] - grid.sigma[:-1] * keep, xp.zeros_like(keep), xp.ones_like(keep)
    move = matrices(xp, [[zero, keep], [one, zero]])  # (second, first) -> (first moved, second)
    both = p + rest**2
    mix = matrices(xp, [[p * rest * one, both * keep], [p * one, rest * keep]])  # -> (second, first), both moved
    added = xp.stack([both * gain, rest * gain], axis=-1)
    flip = [1, 0]  # at the end the first state comes first
    mix, added = (xp.concatenate([rows[:-1], rows[-1:][:, flip]]) for rows in (mix, added))

    def halves(first: Any, second: Any) -> Any:
        joined = xp.stack([first, second], axis=1)
        return joined.reshape(2 * grid.n, *joined.shape[2:])

    evals = halves(xp.stack([gain, zero], axis=-1), added)
    t, t_state = halves(grid.ts[:-1], grid.ts[:-1]), halves(grid.ts[:-1], grid.ts[1:])
    about: dict[str, Any] = {"name": "edict", "source": "Wallace, Gokul & Naik, EDICT, CVPR 2023 (arXiv 2211.12446)"}
    steps = _single(xp, t, t_state, halves(move, mix), evals)
    return to_table(xp, steps, grid.ts[-1], lags=(0, 0), view="noise", **about)


def _single(xp: Any, t: Any, t_state: Any, states: Any, evals: Any) -> Steps:
    """Steps of one evaluation each, `u <- states u + evals F`."""
    zero = xp.zeros_like(evals)
    scale = xp.ones_like(zero[:, :1])
    return Steps(t[:, None], t_state[:, None], scale, zero[:, :1, None], zero[:, :1], states, evals[:, :, None], zero)


def _two_step(grid: Grid, keep: Any, lag: Any, gain: Any) -> Steps:
    """The steps `(x, older) <- (keep x + lag older + gain F(x), x)` of a grid."""
    xp, zero, one = grid.xp, grid.xp.zeros_like(keep), grid.xp.ones_like(keep)
    states = matrices(xp, [[keep, lag], [one, zero]])
    return _single(xp, grid.ts[:-1], grid.ts[:-1], states, xp.stack([gain, zero], axis=-1))


def _heun_there_and_back(grid: Grid, lag: Any) -> Steps:
    """The steps of BDIA over Heun's rule: the velocity at a state, ahead of it and behind it."""
    if not grid.traced and grid.sigma[-1] == 0:
        raise ValueError(
            "`base` is 'heun', which needs noise at the last time of `ts`; end at a later time, or 'ddim'."
        )
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
        points=matrices(xp, points),
        kicks=xp.stack([zero] * 3, axis=1),
        states=matrices(xp, [[1 - lag, lag], [one, zero]]),
        evals=matrices(xp, [weights, [zero] * 3]),
        noise=xp.stack([zero, zero], axis=1),
    )
