"""Explicit Runge-Kutta methods: one family, any tableau."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.solvers.base import Bind, Method, Pulled, Step
from odekit.trees import add, axpy, inner, lincomb, scale
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
        order: order of `b`.
        weights: (s or s + 1) rows of polynomial coefficients in theta, theta^2, ...: the method's own interpolant.
            None: cubic Hermite.
        name: what to call it.
        source: where it comes from.

    Raises:
        ValueError: the lengths of `a`, `b`, `c`, `b_err` do not fit each other.

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
    name: str = eqx.field(static=True, default="RungeKutta")
    source: str = eqx.field(static=True, default="user")

    def __check_init__(self) -> None:
        s = len(self.b)
        lengths = [len(row) for row in self.a]
        if lengths != list(range(1, s)):
            raise ValueError(f"`a` has rows of lengths {lengths}; {s} weights `b` need rows 1 to {s - 1}.")
        if len(self.c) != s:
            raise ValueError(f"`c` has {len(self.c)} nodes for {s} weights `b`; give one node a stage.")
        if self.b_err is not None and len(self.b_err) not in (s, s + 1):
            raise ValueError(
                f"`b_err` has {len(self.b_err)} entries; {s} stages need {s}, or {s + 1} with the new point."
            )

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
        k1 = problem(t + dt, y1)
        err = None if self.b_err is None else scale(dt, lincomb(self.b_err, [*ks, k1]))
        return Step(y1, err, k1, partial(self._inner, dt, y, y1, [*ks, k1]))

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
            column = [self.b[i], *[self.a[j - 1][i] for j in reversed(range(i + 1, len(ks)))]]
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
        y1 = axpy(y, dt, self.b, ks)
        return self._inner(dt, y, y1, [*ks, problem(t + dt, y1)], theta)

    def _inner(self, dt: Array, y0: PyTree, y1: PyTree, ks: list[PyTree], theta: Array) -> PyTree:
        if self.weights is None:
            return hermite(theta, dt, y0, y1, ks[0], ks[-1])
        return axpy(y0, dt, tuple(_polynomial(row, theta) for row in self.weights), ks)

    def _stages(self, problem: Any, t: Array, dt: Array, y: PyTree, k0: PyTree) -> list[PyTree]:
        ks = [k0]
        for a_i, c_i in zip(self.a, self.c[1:], strict=True):
            y_i = problem.combine(y, dt, a_i, ks)
            ks.append(problem(t + c_i * dt, y_i))
        return ks


def hermite(theta: Array, dt: Array, y0: PyTree, y1: PyTree, k0: PyTree, k1: PyTree) -> PyTree:
    """Cubic through both ends of a step and both slopes. Source: Hairer, Norsett & Wanner I, 1993, II.6, eq. 6.7."""
    rest = 1 - theta
    bump = theta * rest
    values = lincomb((rest**2 * (1 + 2 * theta), theta**2 * (3 - 2 * theta)), [y0, y1])
    return axpy(values, dt, (bump * rest, -bump * theta), [k0, k1])


def _polynomial(row: Row, theta: Any) -> Any:
    total = 0.0  # a theta that is a Python float folds with its coefficients
    for coefficient in reversed(tuple(row)):
        total = (total + coefficient) * theta
    return total
