"""What every method is: coefficients, a name, and one step."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.trees import common_real
from odekit.typing import PyTree


class Step(NamedTuple):
    """What one attempted step returns.

    Attributes:
        y: the new state.
        err: its error estimate, or `control.Damped` (two in one); None without one.
        carry: the method's, for the next step.
        inner: from theta in [0, 1] to the state inside the step, by the stages that it has; None where they do not
            suffice, and `Method.dense` takes the step again. Not called, it costs nothing.
    """

    y: PyTree
    err: PyTree | None
    carry: PyTree
    inner: Callable[[Array], PyTree] | None = None


Bind = Callable[[PyTree], tuple["Method", Any]]


class Pulled(NamedTuple):
    """The cotangents of what a step reads: state, time, length, arrays of problem and method."""

    y: PyTree
    t: Array
    dt: Array
    free: PyTree


class Method(eqx.Module):
    """A solver as a pytree of coefficients; a family is one subclass, a method is that class filled with numbers.

    A tuple of Python floats is a concrete coefficient: it folds into the compiled program and its zeros vanish. A JAX
    array is a trainable one. `problem(t, y)` has its arguments bound; lanes are the trailing axis of every leaf and
    `t`, `dt` have shape `(lanes,)` or `()`.

    Attributes:
        order: the classical order of convergence.
        name: the name it is listed and cited under.
        source: the publication that the numbers come from.
    """

    order: eqx.AbstractVar[int]
    name: eqx.AbstractVar[str]
    source: eqx.AbstractVar[str]

    @abc.abstractmethod
    def init(self, problem: Any, t: Array, y: PyTree) -> PyTree:
        """Return what the first step needs besides the state."""

    @abc.abstractmethod
    def step(self, problem: Any, t: Array, dt: Array, y: PyTree, carry: PyTree) -> Step:
        """Take one step of signed length `dt` from `(t, y)`."""

    def judged(self, problem: Any, t: Array, dt: Array, y: PyTree, carry: PyTree) -> tuple[Step, Array]:
        """Take one step; return with it how fast the fastest rate of the problem is, NaN where that is not measured."""
        new = self.step(problem, t, dt, y, carry)
        return new, jnp.full(jnp.shape(dt), jnp.nan, common_real(y))

    @property
    def adaptive(self) -> bool:
        """Whether a step carries an error estimate."""
        return False

    @property
    def error_order(self) -> float:
        """The power of the step length that the error estimate of a step goes with."""
        return self.order

    @property
    def stages(self) -> int:
        """How many evaluations of the vector field a step costs."""
        return 1

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise."""
        return False

    @property
    def follows(self) -> bool:
        """Whether its noise is a path, a function of time, and the field answers with `brownian.Terms`."""
        return False

    @property
    def solves(self) -> bool:
        """Whether a stage solves a system of equations."""
        return False

    @property
    def semilinear(self) -> bool:
        """Whether a step needs the linear part of the problem apart."""
        return False

    def slope(self, carry: PyTree) -> PyTree:
        """Return the derivative at the start, which `init` has worked out."""
        return carry

    @property
    def switches(self) -> bool:
        """Whether a step may be taken in one of two ways."""
        return False

    def way(self, carry: PyTree) -> Array | None:
        """Return which way a step from this carry takes, one boolean a lane; None where there is one way only.

        It is recorded with every step, because the state alone does not tell it.
        """
        return None

    def bound(self, way: Array | None) -> "Method":
        """Return this method bound to a recorded way, to take that step once more."""
        return self

    def pullback(self, bind: Bind, free: PyTree, t: Array, dt: Array, y: PyTree, bar: PyTree) -> "Pulled":
        """Return the cotangents of what a step reads from `bar`, that of the state after it.

        `bind(free)` is the method and the problem of a step. This is what differentiation makes of `step`; a family
        may write its transposed step out.
        """

        def forward(y: PyTree, t: Array, dt: Array, free: PyTree) -> PyTree:
            method, problem = bind(free)
            return method.step(problem, t, dt, y, method.init(problem, t, y)).y

        return Pulled(*jax.vjp(forward, y, t, dt, free)[1](bar))

    def prepare(self, problem: Any, dt: Any) -> "Method":
        """Return this method with everything that depends on the step size alone computed once.

        A uniform grid calls it before its scan; exponential integrators fill in their phi functions here.
        """
        return self

    @abc.abstractmethod
    def dense(self, problem: Any, t: Array, dt: Array, y: PyTree, theta: Array) -> PyTree:
        """Return the state at `t + theta * dt` inside the step that starts at `(t, y)`, `theta` in [0, 1]."""
