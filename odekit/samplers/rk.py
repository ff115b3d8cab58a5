"""Runge-Kutta and Adams rules on the velocity, in time itself: the samplers of flows."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from odekit.loops.table import SamplerTable
from odekit.samplers.grids import on_grid
from odekit.samplers.multistep import multistep, ramp, weights_by_age
from odekit.samplers.weights import polynomial_weights
from odekit.schedules import Schedule


def euler(schedule: Schedule, ts: Any) -> SamplerTable:
    """Euler's rule on the velocity: order 1 in time, one evaluation per step.

    The baseline for flows, where it is DDIM; for `EDM` it is DDIM too.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the other way encodes.

    Returns:
        A table of N rows in the velocity view.

    Raises:
        ValueError: the grid is not monotone.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> euler(FlowMatching(), [1.0, 0.5, 0.0]).evals.ravel().tolist()
        [-0.5, -0.5]

    Source: Euler, Institutionum calculi integralis (1768).
    """
    return adams(schedule, ts, order=1)


def adams(schedule: Schedule, ts: Any, order: int = 2) -> SamplerTable:
    """Adams-Bashforth on the velocity with variable steps: order 1 to 4 in time, one evaluation per step.

    The default for flows in few steps. The first steps ramp up from order 1, which leaves an error of order 2.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the other way encodes.
        order: 1 to 4; 1 is Euler's rule.

    Returns:
        A table of N rows in the velocity view.

    Raises:
        ValueError: the grid is not monotone, or order is not 1 to 4.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> adams(FlowMatching(), [1.0, 0.5, 0.0]).evals[1, 0].tolist()
        [0.25, -0.75]

    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), III.5.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"`order` is {order!r}; it must be 1, 2, 3 or 4.")
    grid = on_grid(schedule, ts)

    def weights(rows: np.ndarray, order: int) -> list:
        dt = grid.ts[rows + 1] - grid.ts[rows]
        offsets = [grid.ts[rows - j] - grid.ts[rows] for j in range(order)]
        return polynomial_weights(offsets, [dt ** (k + 1) / (k + 1) for k in range(order)])

    ages = weights_by_age(grid, ramp(grid.n, order), weights, order)
    name, source = f"adams{order}" if order > 1 else "euler", "Hairer, Norsett & Wanner, ODEs I (1993), III.5"
    return multistep(grid, grid.xp.ones_like(grid.keep), ages, view="velocity", name=name, source=source)


def heun(schedule: Schedule, ts: Any, *, euler_at_final: bool | None = None) -> SamplerTable:
    """Heun's rule (explicit trapezoid) on the velocity: order 2 in time, two evaluations per step.

    For `EDM` this is the deterministic sampler of Karras et al. Prefer a multistep table under about 20 evaluations.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the other way encodes.
        euler_at_final: whether the last step is Euler's, one evaluation less; None where the grid ends without noise,
            because only a network that predicts the velocity has one there.

    Returns:
        A table of 2N rows, or 2N-1, in the velocity view: slot 0 is the stage, slot 1 the state it started from.

    Raises:
        ValueError: the grid is not monotone.

    Example:
        >>> from odekit.schedules import EDM
        >>> heun(EDM(), [80.0, 1.0, 0.0]).nfe
        3

    Source: Karras et al., NeurIPS 2022, algorithm 1 (arXiv 2206.00364).
    """
    grid = on_grid(schedule, ts)
    xp, zero, one = grid.xp, grid.xp.zeros_like(grid.keep), grid.xp.ones_like(grid.keep)
    dt = grid.ts[1:] - grid.ts[:-1]
    # probe: (x + dt u0, x); close: both slots become x + dt (u0 + u1) / 2
    probe, close = [[dt, zero], [zero, zero]], [[dt / 2, dt / 2], [dt / 2, dt / 2]]
    evals = xp.stack([_matrix(xp, probe), _matrix(xp, close)], axis=1).reshape(-1, 2, 2)
    states = xp.stack([_matrix(xp, [[zero, one]] * 2)] * 2, axis=1).reshape(-1, 2, 2)
    t = xp.stack([grid.ts[:-1], grid.ts[1:]], axis=1).reshape(-1)
    end = grid.ts[-1:]
    if grid.ends_at_zero if euler_at_final is None else euler_at_final:
        evals, states, t = evals[:-1], states[:-1], t[:-1]
    return SamplerTable(
        t=jnp.asarray(t),
        states=jnp.asarray(states),
        evals=jnp.asarray(evals),
        noise=None,
        t_state=jnp.asarray(xp.concatenate([t, end])),
        view="velocity",
        name="heun",
        source="Karras et al., NeurIPS 2022, algorithm 1 (arXiv 2206.00364)",
    )


def fireflow(schedule: Schedule, ts: Any) -> SamplerTable:
    """Midpoint rule on the velocity that probes with the last midpoint's velocity: order 2, one evaluation per step.

    For flows; as accurate as `adams` of order 2, which needs no evaluation to begin with. Run on the reversed grid it
    inverts real images for editing, to the order of its error.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the other way encodes.

    Returns:
        A table of N+1 rows in the velocity view: slot 0 is the probe, slot 1 the state at the start of the step.

    Raises:
        ValueError: the grid is not monotone.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> fireflow(FlowMatching(), [1.0, 0.5, 0.0]).t.tolist()
        [1.0, 0.75, 0.25]

    Source: Deng et al., FireFlow, 2024, eq. 12 (arXiv 2412.07517).
    """
    grid = on_grid(schedule, ts)
    xp, dt = grid.xp, grid.ts[1:] - grid.ts[:-1]
    zero, one = xp.zeros(grid.n + 1, dt.dtype), xp.ones(grid.n + 1, dt.dtype)
    step, half = xp.concatenate([zero[:1], dt]), xp.concatenate([dt / 2, zero[:1]])  # to the state, and to its probe
    states = _matrix(xp, [[zero, one]] * 2)
    t_state = xp.concatenate([grid.ts[:1], grid.ts[:-1] + dt / 2, grid.ts[-1:]])
    return SamplerTable(
        t=jnp.asarray(t_state[:-1]),
        states=jnp.asarray(states),
        evals=jnp.asarray(_matrix(xp, [[step + half], [step]])),
        noise=None,
        t_state=jnp.asarray(t_state),
        view="velocity",
        name="fireflow",
        source="Deng et al., FireFlow, 2024 (arXiv 2412.07517)",
    )


def _matrix(xp: Any, entries: list) -> Any:
    return xp.stack([xp.stack(row, axis=-1) for row in entries], axis=-2)
