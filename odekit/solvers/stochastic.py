"""Schemes for stochastic equations, driven by increments from a key and a step index."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.solvers.base import Method, Step
from odekit.trees import add, axpy
from odekit.typing import PyTree


class StochasticEuler(Method):
    """Euler's rule with the increment of a Brownian motion: the one-stage member of the stochastic schemes."""

    order: int = eqx.field(static=True, default=1)
    name: str = eqx.field(static=True, default="EulerMaruyama")
    source: str = eqx.field(static=True, default="Maruyama, Rend. Circ. Mat. Palermo 4 (1955), 48-90")

    @property
    def stochastic(self) -> bool:
        """It draws noise."""
        return True

    def init(self, problem: Any, t: Array, y: PyTree) -> PyTree:
        """Return the index of the first increment."""
        return jnp.zeros((), jnp.uint32)

    def step(self, problem: Any, t: Array, dt: Array, y: PyTree, carry: PyTree) -> Step:
        """Take one step with the increment of index `carry`."""
        noise = jax.tree.map(jnp.multiply, problem.diffusion(t, y), problem.noise(carry, dt, y))
        return Step(add(axpy(y, dt, (1.0,), [problem(t, y)]), noise), None, carry + 1)

    def dense(self, problem: Any, t: Array, dt: Array, y: PyTree, theta: Array) -> PyTree:
        """Refuse: between grid points a path is not determined by its ends."""
        raise TypeError(
            "`saveat` asks for times between steps of a path; choose n_steps so that they are steps, or use steps=True."
        )


def EulerMaruyama() -> StochasticEuler:
    """Euler-Maruyama scheme of strong order 1/2 (1 for additive noise) and weak order 1, in the sense of Ito.

    For diagonal and additive noise on fixed grids. Costs one drift, one diffusion and one normal an entry and step.

    Returns:
        The method; give `solve` an `SDE`, a `key` and `n_steps` or `dt`.

    Example:
        >>> EulerMaruyama().name
        'EulerMaruyama'

    Source: Maruyama, Rend. Circ. Mat. Palermo 4 (1955), 48-90; Kloeden & Platen, 1992, section 10.2.
    """
    return StochasticEuler()
