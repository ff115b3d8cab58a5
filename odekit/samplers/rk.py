"""Runge-Kutta and Adams rules: on the velocity in time, the samplers of flows, and on the noise in sigma / alpha."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odekit.errors import require_one_of
from odekit.loops.table import SamplerTable
from odekit.samplers.grids import Grid, on_grid
from odekit.samplers.multistep import by_ring, multistep, ramp, weights_by_age
from odekit.samplers.stages import Stage, anchored, staged
from odekit.samplers.weights import polynomial_weights
from odekit.schedules import Schedule
from odekit.solvers.runge_kutta import RungeKutta
from odekit.solvers.tableaus import RK4, Euler, Heun, Midpoint

_KUTTA3 = RungeKutta(
    order=3,
    name="Kutta3",
    source="Kutta, Z. Math. Phys. 46 (1901), 435-453",
    c=(0.0, 1 / 2, 1.0),
    a=((1 / 2,), (-1.0, 2.0)),
    b=(1 / 6, 2 / 3, 1 / 6),
)
RHO_RULES = (Euler(), Heun(), _KUTTA3, RK4())
"""Those that were published for rho, by order of convergence less one."""


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

    The default for flows in few steps, at order 2: on a mixture of Gaussians it errs by .080, .035 and .016 in 5, 10
    and 20 uniform steps from pure noise, `dpmpp` by .131, .075 and .047; only in 20 steps `unipc` of order 2 is ahead,
    with .005. With equal steps it is iPNDM on the velocity; for `EDM` it is `deis` of kind
    "rhoab" (iPNDM_v). The first steps ramp up from order 1, which leaves an error of order 2.

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
    require_one_of("order", order, (1, 2, 3, 4))
    grid = on_grid(schedule, ts, from_data=True)

    def weights(rows: np.ndarray, order: int) -> list:
        dt = grid.ts[rows + 1] - grid.ts[rows]
        offsets = [grid.ts[rows - j] - grid.ts[rows] for j in range(order)]
        return polynomial_weights(offsets, [dt ** (k + 1) / (k + 1) for k in range(order)])

    ages = weights_by_age(grid, ramp(grid.n, order), weights, order)
    name, source = f"adams{order}" if order > 1 else "euler", "Hairer, Norsett & Wanner, ODEs I (1993), III.5"
    return multistep(grid, grid.xp.ones_like(grid.keep), ages, view="velocity", name=name, source=source)


def runge_kutta(
    schedule: Schedule,
    ts: Any,
    method: RungeKutta | None = None,
    variable: str = "time",
    *,
    euler_at_final: bool | None = None,
) -> SamplerTable:
    """Any explicit Runge-Kutta method as a sampler: its own order, as many evaluations per step as it has weights.

    For many steps, references, and methods of your own; coefficients that are arrays can be trained through it. On
    large steps methods with a stage at the far end (Heun, RK4) extrapolate wildly; take the midpoint rule there.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the other way encodes.
        method: such as `odekit.RK4()`; None for the midpoint rule.
        variable: "time" for `dx/dt = velocity`; "rho" for `d(x/alpha)/drho = noise`, rho = sigma/alpha, which does
            not depend on the schedule and needs some data in the first point.
        euler_at_final: whether the last step is Euler's, one evaluation; None where the grid ends without noise and
            the method has a stage there, because only a network that predicts the velocity has one.

    Returns:
        A table in the velocity view, or in the noise view.

    Raises:
        ValueError: the grid is not monotone, or starts without data; there is no such variable.

    Example:
        >>> from odekit import RK4
        >>> from odekit.schedules import EDM
        >>> runge_kutta(EDM(), [80.0, 1.0, 0.1], RK4(), "rho").nfe
        8

    Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I (1993), II.1; Zhang & Chen, DEIS, ICLR
    2023, proposition 3, for rho (arXiv 2204.13902).
    """
    require_one_of("variable", variable, ("time", "rho"))
    method, grid = Midpoint() if method is None else method, on_grid(schedule, ts, from_data=True)
    if variable == "rho":
        grid.need_data()
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(method)):
        grid = grid._replace(xp=jnp)
    counts = np.full(grid.n, method.stages)
    probes_end = any(isinstance(c, float) and c == 1 for c in method.c)
    if (grid.ends_at_zero and probes_end) if euler_at_final is None else euler_at_final:
        counts[-1] = 1

    def stages(steps: np.ndarray, count: int) -> list[Stage]:
        rule = method if count == method.stages else Euler()
        points = [_point(schedule, grid, steps, c, variable) for c in (*rule.c, 1.0)]
        (_, scale0, at0), (_, _, at1) = points[0], points[-1]
        return [
            Stage(t, scale / scale0, [scale * (at1 - at0) * a for a in row])
            for (t, _, _), (_, scale, _), row in zip(points[:-1], points[1:], (*rule.a, rule.b), strict=True)
        ]

    name, source = f"runge_kutta {method.name}", method.source
    return staged(grid, counts, stages, view={"time": "velocity", "rho": "noise"}[variable], name=name, source=source)


def _point(schedule: Schedule, grid: Grid, steps: np.ndarray, c: Any, variable: str) -> tuple:
    """Return the time, the scale of the state and the variable at the fraction `c` of these steps."""
    whole = isinstance(c, float) and c in (0.0, 1.0)  # of the grid, to the bit
    if variable == "time":
        t = grid.ts[steps + int(c)] if whole else grid.ts[steps] + c * (grid.ts[steps + 1] - grid.ts[steps])
        return t, grid.xp.ones_like(t), t
    rho = grid.sigma / grid.alpha
    if whole:
        return grid.ts[steps + int(c)], grid.alpha[steps + int(c)], rho[steps + int(c)]
    between = rho[steps] + c * (rho[steps + 1] - rho[steps])
    t = schedule.t_of_lam(-grid.xp.log(between))
    return t, schedule.alpha(t), between


def heun(schedule: Schedule, ts: Any, *, euler_at_final: bool | None = None) -> SamplerTable:
    """Heun's rule (explicit trapezoid) on the velocity: order 2 in time, two evaluations per step.

    For `EDM` this is the deterministic sampler of Karras et al. Prefer a multistep table under about 20 evaluations.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the other way encodes.
        euler_at_final: as for `runge_kutta`.

    Returns:
        A table of 2N rows, or 2N-1, in the velocity view.

    Raises:
        ValueError: the grid is not monotone.

    Example:
        >>> from odekit.schedules import EDM
        >>> heun(EDM(), [80.0, 1.0, 0.0]).nfe
        3

    Source: Karras et al., NeurIPS 2022, algorithm 1 (arXiv 2206.00364).
    """
    table = runge_kutta(schedule, ts, Heun(), euler_at_final=euler_at_final)
    source = "Karras et al., NeurIPS 2022, algorithm 1 (arXiv 2206.00364)"
    return dataclasses.replace(table, name="heun", source=source)


def rf(schedule: Schedule, ts: Any, *, reuse: bool = False) -> SamplerTable:
    """RF-Solver: order 2 in time on the velocity, two evaluations per step; with reuse one, as FireFlow.

    For flows, and for inverting them: there and back a step errs by one order less than in one direction. RF-Solver is
    the midpoint rule. With reuse the slope at the middle of a step also leads to the middle of the next.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data; the other way encodes.
        reuse: whether to spend one evaluation per step, and one more in the first.

    Returns:
        A table of 2N rows, or N+1, in the velocity view.

    Raises:
        ValueError: the grid is not monotone.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> rf(FlowMatching(), [1.0, 0.5, 0.0]).nfe, rf(FlowMatching(), [1.0, 0.5, 0.0], reuse=True).nfe
        (4, 3)

    Source: Wang et al., RF-Solver, 2024, eq. 8 (arXiv 2411.04746); Deng et al., FireFlow, 2024 (arXiv 2412.07517).
    """
    if not reuse:
        table = runge_kutta(schedule, ts, Midpoint())
        return dataclasses.replace(table, name="rf", source="Wang et al., RF-Solver, 2024 (arXiv 2411.04746)")
    grid = on_grid(schedule, ts, from_data=True)
    xp, dt = grid.xp, grid.ts[1:] - grid.ts[:-1]
    zero = xp.zeros_like(dt[:1])
    full, half = xp.concatenate([zero, dt]), xp.concatenate([dt / 2, zero])
    t_state = xp.concatenate([grid.ts[:1], grid.ts[:-1] + dt / 2, grid.ts[-1:]])
    stage, anchor = ((xp.ones_like(full), by_ring(grid, ages[:, None])) for ages in (full + half, full))
    source = "Deng et al., FireFlow, 2024 (arXiv 2412.07517)"
    return anchored(grid, t_state, stage, anchor, view="velocity", name="rf", source=source)
