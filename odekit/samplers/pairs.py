"""Exponential pairs in lam: DPM-Solver with an error estimate, as methods for `solve`."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.schedules import Schedule
from odekit.solvers.base import Method, Step
from odekit.solvers.exponential import ExponentialRK
from odekit.trees import lincomb, real_dtype, scale
from odekit.typing import PyTree

_SOURCE = "Lu et al., DPM-Solver, NeurIPS 2022, appendix C (arXiv 2206.00927)"


class Grown(NamedTuple):
    """A field as the semilinear one of `z = x / sigma` in lam: `z' = z + nonlinear(lam, z)`, minus the noise."""

    problem: Any
    schedule: Schedule
    linear: PyTree

    def nonlinear(self, lam: Array, z: PyTree) -> PyTree:
        """Return `(x' - sigma' x) / sigma - z`."""
        t = self.schedule.t_of_lam(lam)
        sigma = self.schedule.sigma(t)
        growth = self.schedule.sigma_dot(t) / sigma / self.schedule.lam_dot(t)
        return lincomb((1 / sigma, -(1 + growth)), [self.problem(lam, scale(sigma, z)), z])


class ExponentialInLam(Method):
    """An exponential Runge-Kutta pair on `x / sigma`, for the probability flow in lam: exact for constant noise.

    Args:
        pair: the coefficients, for a linear part of 1.
        schedule: the noise schedule.
        order: that of the pair.
        name: its name.
        source: where it comes from.
    """

    pair: ExponentialRK
    schedule: Schedule
    order: int = eqx.field(static=True)
    name: str = eqx.field(static=True)
    source: str = eqx.field(static=True, default=_SOURCE)

    @property
    def adaptive(self) -> bool:
        """Whether the pair has an error estimate."""
        return self.pair.adaptive

    @property
    def stages(self) -> int:
        """Evaluations a step."""
        return self.pair.stages

    def init(self, problem: Any, t: Array, y: PyTree) -> PyTree:
        """Return nothing: the first stage belongs to the step."""
        return None

    def step(self, problem: Any, t: Array, dt: Array, y: PyTree, carry: PyTree) -> Step:
        """Take one step, `t` being lam."""
        first, last = (self.schedule.sigma(self.schedule.t_of_lam(lam)) for lam in (t, t + dt))
        one = jax.tree.map(lambda x: jnp.ones((), real_dtype(x.dtype)), y)
        new = self.pair.step(Grown(problem, self.schedule, one), t, dt, scale(1 / first, y), None)
        return Step(scale(last, new.y), None if new.err is None else scale(last, new.err), carry)

    def dense(self, problem: Any, t: Array, dt: Array, y: PyTree, theta: Array) -> PyTree:
        """Take a step of length `theta * dt`: as accurate inside a step as at its end."""
        return self.step(problem, t, theta * dt, y, None).y


def DPM12(schedule: Schedule) -> ExponentialInLam:
    """DPM-Solver-2 with DPM-Solver-1 inside it: order 2 in lam, two evaluations a step.

    For `probability_flow(model, "lam")`, as `adaptive_sample` runs it.

    Args:
        schedule: the noise schedule of the model.

    Returns:
        The method.

    Example:
        >>> from odekit.schedules import EDM
        >>> DPM12(EDM()).stages
        2

    Source: Lu et al., DPM-Solver, NeurIPS 2022, algorithm 1 and appendix C (arXiv 2206.00927).
    """
    pair = ExponentialRK(
        order=2,
        basis=((1, 1 / 2), (1, 1.0)),
        c=(0.0, 1 / 2),
        a=(((1 / 2, 0.0),),),
        b=((0.0, 0.0), (0.0, 1.0)),
        b_err=((0.0, -1.0), (0.0, 1.0)),
    )
    return ExponentialInLam(pair=pair, schedule=schedule, order=2, name="DPM12")


def DPM23(schedule: Schedule) -> ExponentialInLam:
    """DPM-Solver-3 with DPM-Solver-2 inside it: order 3 in lam, three evaluations a step.

    For `probability_flow(model, "lam")`, as `adaptive_sample` runs it.

    Args:
        schedule: the noise schedule of the model.

    Returns:
        The method.

    Example:
        >>> from odekit.schedules import EDM
        >>> DPM23(EDM()).order
        3

    Source: Lu et al., DPM-Solver, NeurIPS 2022, algorithm 2 and appendix C (arXiv 2206.00927).
    """
    pair = ExponentialRK(
        order=3,
        basis=((1, 1 / 3), (1, 2 / 3), (2, 2 / 3), (1, 1.0), (2, 1.0)),
        c=(0.0, 1 / 3, 2 / 3),
        a=(
            ((1 / 3, 0.0, 0.0, 0.0, 0.0),),
            ((0.0, 2 / 3, -4 / 3, 0.0, 0.0), (0.0, 0.0, 4 / 3, 0.0, 0.0)),
        ),
        b=((0.0, 0.0, 0.0, 1.0, -3 / 2), (0.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0, 3 / 2)),
        b_err=((0.0, 0.0, 0.0, 3 / 2, -3 / 2), (0.0, 0.0, 0.0, -3 / 2, 0.0), (0.0, 0.0, 0.0, 0.0, 3 / 2)),
    )
    return ExponentialInLam(pair=pair, schedule=schedule, order=3, name="DPM23")
