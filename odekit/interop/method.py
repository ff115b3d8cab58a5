"""Our methods as diffrax solvers."""

from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.problem import ODE, Bound
from odekit.solvers.base import Method
from odekit.solvers.runge_kutta import RungeKutta, polynomial
from odekit.trees import lincomb, real_dtype, scale
from odekit.typing import PyTree


class Inside(diffrax.AbstractLocalInterpolation):
    """The polynomial of one step: `y0 + sum_j theta^j coeffs[j]`, leaves of `coeffs` (degree, ...)."""

    t0: Any
    t1: Any
    y0: PyTree
    coeffs: PyTree

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True) -> PyTree:
        """Return the state at t0, or its change from t0 to t1."""
        if t1 is not None:
            return jax.tree.map(lambda a, b: b - a, self.evaluate(t0), self.evaluate(t1))
        length = self.t1 - self.t0
        theta = (t0 - self.t0) / jnp.where(length == 0, 1, length)

        def at(y: Array, c: Array) -> Array:
            return y + polynomial(c, theta.astype(real_dtype(c.dtype)))

        return jax.tree.map(at, self.y0, self.coeffs)


class ByOdekit(diffrax.AbstractSolver):
    """What both classes of `as_diffrax` do: one step of our method, its own interpolant."""

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = Inside

    method: eqx.AbstractVar[RungeKutta]

    def order(self, terms: Any) -> int:
        """Return the order of the method."""
        return self.method.order

    def init(self, terms: Any, t0: Any, t1: Any, y0: PyTree, args: PyTree) -> PyTree:
        """Return the first stage."""
        return Listening(terms, y0, args).rate(t0, y0)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: PyTree, args: PyTree, solver_state: PyTree, made_jump: Any
    ) -> tuple[PyTree, PyTree, dict[str, PyTree], PyTree, Any]:
        """Take one step."""
        field, dt, k0 = Listening(terms, y0, args), t1 - t0, solver_state
        if made_jump is not False:
            k0 = lax.cond(made_jump, lambda: field.rate(t0, y0), lambda: solver_state)
        new = self.method.step(field, t0, dt, y0, k0)
        ks = self.method.all_stages(field, t0, dt, y0, [k0, *field.heard])
        coeffs = _polynomial(self.method, dt, y0, new.y, ks)
        err = new.err if isinstance(self, Adaptive) else None
        return new.y, err, {"y0": y0, "coeffs": coeffs}, new.carry, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: PyTree, args: PyTree) -> PyTree:
        """Return the vector field."""
        return terms.vf(t0, y0, args)


class Adaptive(ByOdekit, diffrax.AbstractAdaptiveSolver):
    """A method with an error estimate."""

    method: RungeKutta


class Fixed(ByOdekit):
    """A method without one, or with two."""

    method: RungeKutta


def as_diffrax(method: Method) -> diffrax.AbstractSolver:
    """Return a Runge-Kutta method as a solver for `diffrax.diffeqsolve`.

    Its coefficients are leaves of the solver, so that those given as JAX arrays can be trained through diffrax. Dense
    output and save times are read off the method's own interpolant. `odekit.diffeqsolve` takes the method out again
    and runs it in its own loop.

    Args:
        method: a `RungeKutta` such as `Tsit5()`.

    Returns:
        A `diffrax.AbstractAdaptiveSolver` if the method has one error estimate, else a `diffrax.AbstractSolver`, for
        fixed steps: diffrax's controllers do not combine the two of `DOP853`, which `odekit.diffeqsolve` does.

    Raises:
        TypeError: the method is of another family.

    Example:
        >>> import odekit as ok
        >>> as_diffrax(ok.Tsit5()).order(None)
        5

    Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, 1993, II.1 and II.6.
    """
    if not isinstance(method, RungeKutta):
        raise TypeError(f"`method` was {getattr(method, 'name', type(method).__name__)}; give a RungeKutta method.")
    return Adaptive(method) if method.adaptive and method.b_err_low is None else Fixed(method)


class Listening(Bound):
    """A vector field, per unit of the time that diffrax's loop counts in, that keeps what it returned in one step."""

    def __init__(self, terms: Any, y: PyTree, args: PyTree) -> None:
        def rate(t: Array, y: PyTree, args: PyTree) -> PyTree:
            return terms.vf_prod(t, y, args, terms.contr(jnp.zeros_like(t), jnp.ones_like(t)))

        super().__init__(ODE(rate), args, y)
        self.heard: list[PyTree] = []

    def rate(self, t: Array, y: PyTree) -> PyTree:
        """Return `dy`, unheard."""
        return super().__call__(t, y)

    def __call__(self, t: Array, y: PyTree) -> PyTree:
        """Return `dy`."""
        self.heard.append(self.rate(t, y))
        return self.heard[-1]


def _polynomial(method: RungeKutta, dt: Array, y0: PyTree, y1: PyTree, ks: list[PyTree]) -> PyTree:
    """Return the coefficients of theta, theta^2, ... inside a step with slopes `ks`, the one at its end included."""
    if method.weights is None:  # cubic Hermite
        change, first, last = lincomb((-1.0, 1.0), [y0, y1]), scale(dt, ks[0]), scale(dt, ks[-1])
        rows = [(0.0, 1.0, 0.0), (3.0, -2.0, -1.0), (-2.0, 1.0, 1.0)]
        powers = [lincomb(row, [change, first, last]) for row in rows]
    else:
        columns: Any = list(zip(*method.weights, strict=True))
        powers = [scale(dt, lincomb(column, ks)) for column in columns]
    return jax.tree.map(lambda *c: jnp.stack(c), *powers)
