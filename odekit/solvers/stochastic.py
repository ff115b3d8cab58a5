"""Schemes for stochastic equations, driven by increments from a key and a step index, or along a path."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.loops.brownian import Terms
from odekit.solvers.base import Method, Step
from odekit.trees import add, axpy, lincomb, scale
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


class StochasticImprovedEuler(Method):
    """Heun's rule with one increment of the path for both of its stages, and Euler's rule inside it for the error."""

    order: int = eqx.field(static=True, default=1)
    name: str = eqx.field(static=True, default="StochasticHeun")
    source: str = eqx.field(
        static=True,
        default="Roberts, 2012 (arXiv 1210.0933); Jolicoeur-Martineau et al., Gotta Go Fast, 2021 (arXiv 2105.14080)",
    )

    @property
    def stochastic(self) -> bool:
        """It draws noise."""
        return True

    @property
    def follows(self) -> bool:
        """The noise of a step is the increment of a path."""
        return True

    @property
    def adaptive(self) -> bool:
        """Euler's rule is embedded."""
        return True

    @property
    def error_order(self) -> float:
        """The drift changes with the path, by the square root of a step's length."""
        return 1.5

    @property
    def stages(self) -> int:
        """Two evaluations."""
        return 2

    def init(self, problem: Any, t: Array, y: PyTree) -> PyTree:
        """Return where the path is."""
        return problem(t, y).path

    def step(self, problem: Any, t: Array, dt: Array, y: PyTree, carry: PyTree) -> Step:
        """Take one step along the path, which is at `carry` now."""
        first, path = problem(t, y), problem(t + dt, y).path
        dw = jax.tree.map(lambda b, a, like: (b - a).astype(like.dtype), path, carry, y)
        k0 = _move(dt, first, dw)
        k1 = _move(dt, problem(t + dt, add(y, k0)), dw)
        return Step(add(y, lincomb((0.5, 0.5), [k0, k1])), lincomb((-0.5, 0.5), [k0, k1]), path)

    def dense(self, problem: Any, t: Array, dt: Array, y: PyTree, theta: Array) -> PyTree:
        """Take a shorter step along the same path."""
        return self.step(problem, t, theta * dt, y, self.init(problem, t, y)).y


def _move(dt: Array, at: Terms, dw: PyTree) -> PyTree:
    return add(scale(dt, at.drift), jax.tree.map(jnp.multiply, at.diffusion, dw))


def StochasticHeun() -> StochasticImprovedEuler:
    """Improved Euler scheme of strong order 1 for additive noise, with an error estimate.

    The default for an adaptive solve of an SDE with additive noise. The error is the distance to Euler's rule on the
    same path; a refused step is tried again on that same path, which leaves the law of the solution alone. Costs two
    drifts and diffusions a step and two readings of the path.

    Returns:
        The method; give `solve` an `SDE` with `noise="additive"` and a `key`.

    Example:
        >>> StochasticHeun().adaptive
        True

    Source: Roberts, 2012 (arXiv 1210.0933); Jolicoeur-Martineau et al., Gotta Go Fast, 2021, algorithm 1 (arXiv
    2105.14080).
    """
    return StochasticImprovedEuler()
