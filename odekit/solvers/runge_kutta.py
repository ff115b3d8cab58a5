"""Explicit Runge-Kutta methods: one family, any tableau."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.control import Damped
from odekit.solvers.base import Bind, Method, Pulled, Step
from odekit.trees import add, axpy, inner, lincomb, scale, square
from odekit.typing import PyTree, Row, Rows


class RungeKutta(Method):
    """Explicit Runge-Kutta method of any tableau.

    Use the named constructors (`Tsit5()`, `Dopri5()`, ...) for published tableaux and this class for your own. Give
    tuples of Python floats for coefficients that fold into the program, JAX arrays for coefficients to be trained. A
    step costs `len(b)` evaluations of the vector field; the first stage of a step is the last evaluation of the one
    before it.

    Args:
        a: rows 2..s of the strictly lower triangle: lengths 1, 2, ..., s - 1.
        b: (s,) weights.
        c: (s,) nodes, `c[0] = 0`.
        b_err: (s,) or (s + 1,), `b` minus the embedded weights; the optional last entry belongs to the derivative at
            the new point. None: no error estimate, fixed steps only.
        b_err_low: likewise, a second estimate of lower order, which damps the first (see `control.Damped`).
        order: order of `b`.
        weights: (s, s + 1 or more) rows of polynomial coefficients in theta, theta^2, ...: the method's own
            interpolant. None: cubic Hermite.
        a_dense: rows of lengths s + 1, s + 2, ...: stages of the interpolant alone, evaluated only where it is read.
        c_dense: their nodes.
        name: what to call it.
        source: where it comes from.

    Raises:
        ValueError: the lengths of the coefficients do not fit each other.

    Example:
        >>> heun = RungeKutta(a=((1.0,),), b=(0.5, 0.5), c=(0.0, 1.0), b_err=(-0.5, 0.5), order=2)
        >>> heun.adaptive
        True

    Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, 1993, II.1.
    """

    a: Rows
    b: Row
    c: Row
    b_err: Row | None = None
    order: int = eqx.field(static=True, default=1)
    weights: Rows | None = None
    b_err_low: Row | None = None
    a_dense: Rows = ()
    c_dense: Row = ()
    name: str = eqx.field(static=True, default="RungeKutta")
    source: str = eqx.field(static=True, default="user")

    def __check_init__(self) -> None:
        s = len(self.b)
        lengths = [len(row) for row in self.a]
        if lengths != list(range(1, s)):
            raise ValueError(f"`a` has rows of lengths {lengths}; {s} weights `b` need rows 1 to {s - 1}.")
        if len(self.c) != s:
            raise ValueError(f"`c` has {len(self.c)} nodes for {s} weights `b`; give one node a stage.")
        for name, row in (("b_err", self.b_err), ("b_err_low", self.b_err_low)):
            if row is not None and len(row) not in (s, s + 1):
                raise ValueError(
                    f"`{name}` has {len(row)} entries; {s} stages need {s}, or {s + 1} with the new point."
                )
        lengths = [len(row) for row in self.a_dense]
        if lengths != list(range(s + 1, s + 1 + len(self.c_dense))):
            raise ValueError(f"`a_dense` has rows of lengths {lengths}; its {len(self.c_dense)} nodes need {s + 1} on.")

    @property
    def adaptive(self) -> bool:
        """Whether the tableau has an embedded error estimate."""
        return self.b_err is not None

    @property
    def stages(self) -> int:
        """Evaluations a step: the first stage is the last evaluation of the step before."""
        return len(self.b)

    def init(self, problem: Any, t: Array, y: PyTree) -> PyTree:
        """Return the first stage."""
        return problem(t, y)

    def step(self, problem: Any, t: Array, dt: Array, y: PyTree, carry: PyTree) -> Step:
        """Take one step; the derivative at its end is the first stage of the next."""
        ks = self._stages(problem, t, dt, y, carry)
        y1 = problem.combine(y, dt, self.b, ks)
        ks.append(problem(t + dt, y1))
        return Step(y1, self._error(dt, ks), ks[-1], partial(self._inner, problem, t, dt, y, y1, ks))

    def judged(self, problem: Any, t: Array, dt: Array, y: PyTree, carry: PyTree) -> tuple[Step, Array]:
        """Take one step; return with it the size of the fastest rate of the problem that the step has met.

        Steps at the edge of stability differ in the direction of that rate. The Jacobian is applied to the change of
        the field over the last stage, because the change of the state is mostly slow (Robertson's problem at 1e-8:
        14 times too small a rate).
        Source: Hairer & Wanner, Solving Ordinary Differential Equations II, 1996, IV.2, eq. 2.16.
        """
        ks = self._stages(problem, t, dt, y, carry)
        y1 = problem.combine(y, dt, self.b, ks)
        k1, push = jax.linearize(lambda y: problem(t + dt, y), y1)
        change = add(k1, scale(-1, ks[-1]))
        top, bottom = square(push(change), jnp.ndim(dt)), square(change, jnp.ndim(dt))
        seen = (top > 0) & (bottom > 0)
        rate = jnp.where(seen, jnp.sqrt(jnp.where(seen, top, 1) / jnp.where(seen, bottom, 1)), 0)
        return Step(y1, self._error(dt, [*ks, k1]), k1), rate

    def pullback(self, bind: Bind, free: PyTree, t: Array, dt: Array, y: PyTree, bar: PyTree) -> Pulled:
        """Walk the stages back, the sums of cotangents behind fences as those of the stages are.

        Source: Hager, Numer. Math. 87 (2000), section 3: the transposed step is a Runge-Kutta step itself.
        """
        if not all(isinstance(x, float | int) for x in jax.tree.leaves((self.a, self.b, self.c))):
            return super().pullback(bind, free, t, dt, y, bar)
        _, problem = bind(free)
        ks, pulls = [], []
        for row, c in zip(((), *self.a), self.c, strict=True):
            y_i = problem.combine(y, dt, row, ks)
            k, pull = jax.vjp(lambda free, t, y: bind(free)[1](t, y), free, t + c * dt, y_i)
            ks.append(k)
            pulls.append(pull)
        out = Pulled(bar, jnp.zeros_like(t), jnp.zeros_like(dt), jax.tree.map(jnp.zeros_like, free))
        later = []  # cotangents of the stage values, the last first
        for i in reversed(range(len(ks))):
            column = (self.b[i], *(self.a[j - 1][i] for j in reversed(range(i + 1, len(ks)))))
            rate = problem.fence(partial(lincomb, column, [bar, *later]), bar)
            at_free, at_t, at_y = pulls[i](scale(dt, rate))
            later.append(at_y)
            out = Pulled(
                y=add(out.y, at_y),
                t=out.t + at_t,
                dt=out.dt + inner(rate, ks[i], dt.dtype) + self.c[i] * at_t,
                free=add(out.free, at_free),
            )
        return out

    def dense(self, problem: Any, t: Array, dt: Array, y: PyTree, theta: Array) -> PyTree:
        """Interpolate by the tableau's own weights, or by cubic Hermite where it has none."""
        ks = self._stages(problem, t, dt, y, problem(t, y))
        y1 = problem.combine(y, dt, self.b, ks)
        return self._inner(problem, t, dt, y, y1, [*ks, problem(t + dt, y1)], theta)

    def _inner(
        self, problem: Any, t: Array, dt: Array, y0: PyTree, y1: PyTree, ks: list[PyTree], theta: Array
    ) -> PyTree:
        ks = self.all_stages(problem, t, dt, y0, ks)
        if self.weights is None:
            return hermite(theta, dt, y0, y1, ks[0], ks[len(self.b)])
        return axpy(y0, dt, tuple(polynomial(row, theta) for row in self.weights), ks)

    def all_stages(self, problem: Any, t: Array, dt: Array, y: PyTree, ks: list[PyTree]) -> list[PyTree]:
        """Return the slopes of a step, the one at its end included, and those of the interpolant alone."""
        return _extended(ks, self.a_dense, self.c_dense, problem, t, dt, y)

    def _stages(self, problem: Any, t: Array, dt: Array, y: PyTree, k0: PyTree) -> list[PyTree]:
        return _extended([k0], self.a, self.c[1:], problem, t, dt, y)

    def _error(self, dt: Array, ks: list[PyTree]) -> PyTree | None:
        if self.b_err is None:
            return None
        err = scale(dt, lincomb(self.b_err, ks))
        return err if self.b_err_low is None else Damped(err, scale(dt, lincomb(self.b_err_low, ks)))


def _extended(ks: list[PyTree], a: Rows, c: Row, problem: Any, t: Array, dt: Array, y: PyTree) -> list[PyTree]:
    """Return the stages and one more for each row of `a`."""
    ks = list(ks)
    for a_i, c_i in zip(a, c, strict=True):
        y_i = problem.combine(y, dt, a_i, ks)
        ks.append(problem(t + c_i * dt, y_i))
    return ks


def hermite(theta: Array, dt: Array, y0: PyTree, y1: PyTree, k0: PyTree, k1: PyTree) -> PyTree:
    """Cubic through both ends of a step and both slopes. Source: Hairer, Norsett & Wanner I, 1993, II.6, eq. 6.7."""
    rest = 1 - theta
    bump = theta * rest
    values = lincomb((rest**2 * (1 + 2 * theta), theta**2 * (3 - 2 * theta)), [y0, y1])
    return axpy(values, dt, (bump * rest, -bump * theta), [k0, k1])


def polynomial(row: Row, theta: Any) -> Any:
    """Return `row[0] theta + row[1] theta^2 + ...`."""
    total = 0.0  # a theta that is a Python float folds with its coefficients
    for coefficient in reversed(tuple(row)):
        total = (total + coefficient) * theta
    return total
