"""Samplers of diffusion bridges: from a state at the pinned end, which stays in a slot of its own, to data.

A model of a bridge predicts the data from `(x, t, cond)`; what it needs of the pinned end is in `cond` or closed over.
"""

from typing import Any

import jax.numpy as jnp

from odekit.errors import require_one_of
from odekit.loops.table import SamplerTable
from odekit.samplers.ddim import ddim
from odekit.samplers.grids import on_grid
from odekit.samplers.stochastic import sa
from odekit.schedules import Bridge, namespace


def dbim(
    bridge: Bridge, ts: Any, order: int = 1, eta: float = 0.0, *, lower_order_final: bool | None = None
) -> SamplerTable:
    """DBIM: order 1 to 3 in lam on the data prediction of a bridge, one evaluation per step and one at the pinned end.

    The few-step choice for bridges. Around the pinned end's share of the path a bridge is a diffusion of its own, and
    this is `ddim` there, or `sa` without noise for orders 2 and 3; its first row, from the pinned end itself, must add
    noise, the only noise of eta=0.

    Args:
        bridge: the schedule of the path.
        ts: (N+1,) times from after the pinned end to data, as `time_grid(bridge, N)`.
        order: 1, 2 or 3; the first step is of order 1.
        eta: amount of fresh noise, 0 to 1, for order 1.
        lower_order_final: as for `dpmpp`.

    Returns:
        A table of N+1 rows in the data view, to be sampled from the pinned end; slots (state, pinned end).

    Raises:
        ValueError: the grid is not monotone, order is not 1, 2 or 3, or a high order is to add noise.

    Example:
        >>> from odekit.schedules import EDM, Bridge
        >>> dbim(Bridge(EDM()), [79.0, 10.0, 0.002]).t.tolist()
        [80.0, 79.0, 10.0]

    Source: Zheng et al., DBIM, ICLR 2025, eqs. 10 and 16 (arXiv 2405.15885).
    """
    require_one_of("order", order, (1, 2, 3))
    if order > 1 and not (isinstance(eta, float | int) and eta == 0):
        raise ValueError(f"`eta` is {eta} with order {order}; only order 1 adds noise.")
    high = {"tau": 0.0, "lower_order_final": lower_order_final}
    inner = ddim(bridge, ts, eta) if order == 1 else sa(bridge, ts, order, **high)
    source = "Zheng et al., DBIM, ICLR 2025 (arXiv 2405.15885)"
    return _pinned(bridge, on_grid(bridge, ts), inner, name=f"dbim{order}", source=source)


def _pinned(bridge: Bridge, grid: Any, inner: SamplerTable, **about: Any) -> SamplerTable:
    """Return the table that runs `inner`, of one slot, around the mean `a x_T`, after a row from the pinned end."""
    xp, depth = grid.xp, inner.evals.shape[2]
    keep, evals = (xp.asarray(rows, grid.ts.dtype)[:, 0] for rows in (inner.states, inner.evals))
    keep, pin = keep[:, 0], xp.asarray(bridge.t_pin, grid.ts.dtype)
    noise = xp.zeros_like(keep) if inner.noise is None else xp.asarray(inner.noise, grid.ts.dtype)[:, 0]
    mean, zero = bridge.a(grid.ts), xp.zeros_like(grid.ts)
    joined = xp.concatenate
    keep, shift = joined([zero[:1], keep]), joined([mean[:1], mean[1:] - keep * mean[:-1]])
    # the evaluation at the pinned end takes ring position 0 and is not used again: the others move up by one
    first = xp.stack([grid.alpha[0], *[zero[0]] * (depth - 1)])
    evals = joined([first[None], xp.roll(evals, 1, axis=1)])
    noise = joined([grid.sigma[:1], noise])
    t = joined([pin[None], grid.ts])
    return SamplerTable(
        t=jnp.asarray(t[:-1]),
        states=jnp.asarray(xp.stack([xp.stack([keep, shift], axis=-1), xp.stack([zero, zero + 1], axis=-1)], axis=1)),
        evals=jnp.asarray(xp.stack([evals, xp.zeros_like(evals)], axis=1)),
        noise=jnp.asarray(xp.stack([noise, xp.zeros_like(noise)], axis=1)),
        t_state=jnp.asarray(t),
        view="data",
        **about,
    )


def ddbm(bridge: Bridge, ts: Any, churn: float = 0.33) -> SamplerTable:
    """DDBM: every step begins with an Euler step of the bridge's SDE and goes on with Heun's rule on its flow.

    Order 2 in time without churn, three evaluations per step with it. Made for hundreds of evaluations; `dbim` needs a
    tenth.

    Args:
        bridge: the schedule of the path.
        ts: (N+1,) times from just after the pinned end to data, with noise left at the last.
        churn: 0 to 1, which part of each step follows the SDE.

    Returns:
        A table of 3N rows in the data view, 2N with churn=0, to be sampled from the pinned end; slots (state, start of
        the step, pinned end).

    Raises:
        ValueError: the grid is not monotone or ends without noise, or churn is out of range.

    Example:
        >>> from odekit.schedules import EDM, Bridge
        >>> ddbm(Bridge(EDM()), [79.9, 10.0, 0.002]).nfe
        6

    Source: Zhou et al., DDBM, ICLR 2024, algorithm 1 (arXiv 2309.16948).
    """
    if not 0 <= churn < 1:
        raise ValueError(f"`churn` is {churn}; it must be at least 0 and less than 1.")
    grid = on_grid(bridge, ts)
    if not grid.traced and grid.sigma[-1] == 0:
        raise ValueError(f"`ts` ends at {grid.ts[-1]:g}, where there is no noise; end a little earlier.")
    xp, begin, end = grid.xp, grid.ts[:-1], grid.ts[1:]
    middle = begin + churn * (end - begin)
    dt, zero, one = end - middle, xp.zeros_like(begin), xp.ones_like(begin)
    # d = x_rate x + data_rate data + pin_rate x_T; slots (state, start, pinned end)
    rates, ahead = _rates(bridge, middle), _rates(bridge, end)
    probe = _row(xp, [[1 + dt * rates[0], zero, dt * rates[2]], [1 + dt / 2 * rates[0], zero, dt / 2 * rates[2]]])
    close = _row(xp, [[dt / 2 * ahead[0], one, dt / 2 * ahead[2]]] * 2)
    rows = [(middle, probe, [dt * rates[1], dt / 2 * rates[1]], zero), (end, close, [dt / 2 * ahead[1]] * 2, zero)]
    if churn:
        step = middle - begin
        *start, spread = _rates(bridge, begin, sde=True)
        noisy = _row(xp, [[1 + step * start[0], zero, step * start[2]]] * 2)
        rows.insert(0, (begin, noisy, [step * start[1]] * 2, spread * xp.sqrt(abs(step))))
    t, states, evals, noise = zip(*rows, strict=True)
    evals = [xp.stack([*pair, zero], axis=1)[:, :, None] for pair in evals]
    noise = [xp.stack([amount, amount, zero], axis=1) for amount in noise]

    def joined(parts: Any) -> Any:
        both = xp.stack(parts, axis=1)
        return jnp.asarray(both.reshape(len(parts) * grid.n, *both.shape[2:]))

    return SamplerTable(
        t=joined(t),
        states=joined(states),
        evals=joined(evals),
        noise=joined(noise) if churn else None,
        t_state=jnp.append(joined(t), jnp.asarray(grid.ts[-1])),
        view="data",
        name="ddbm",
        source="Zhou et al., DDBM, ICLR 2024, algorithm 1 (arXiv 2309.16948)",
    )


def _row(xp: Any, entries: list) -> Any:
    """(N, 3, 3) new slots from old, the pinned end staying."""
    zero, one = xp.zeros_like(entries[0][0]), xp.ones_like(entries[0][0])
    return xp.stack([xp.stack(row, axis=-1) for row in (*entries, [zero, zero, one])], axis=1)


def _rates(bridge: Bridge, t: Any, *, sde: bool = False) -> tuple:
    """Return what multiplies state, data prediction and pinned end in the flow's velocity; of the SDE also the noise.

    The flow moves the mean by its derivative and the noise by that of its scale; the SDE, run towards data, takes half
    of `g**2` times the score more off, with the `g` of the base diffusion.
    """
    a, b, c = bridge.a(t), bridge.alpha(t), bridge.sigma(t)
    pull = bridge.sigma_dot(t) / c
    rates = (pull, bridge.alpha_dot(t) - pull * b, bridge.a_dot(t) - pull * a)
    if not sde:
        return rates
    squared = bridge.schedule.squared_diffusion(t)
    half = squared / (2 * c**2)
    return (rates[0] + half, rates[1] - half * b, rates[2] - half * a, namespace(t).sqrt(squared))
