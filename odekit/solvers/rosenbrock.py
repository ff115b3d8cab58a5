"""Rosenbrock methods for stiff equations: one family, any coefficients, one factorisation a step."""

from math import sqrt
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.interpreters import partial_eval

from odekit.solvers.base import Method, Step
from odekit.solvers.jacobian import Pattern, norm, pattern, products, step_solver, times_mass
from odekit.solvers.runge_kutta import hermite, polynomial
from odekit.trees import Flat, axpy, lincomb, scale
from odekit.typing import PyTree, Row, Rows


def _mass(mass: Any) -> Array | None:
    """Return the mass as a matrix, (n, n), or its diagonal as a column, (n, 1)."""
    if mass is None:
        return None
    mass = jnp.asarray(mass)
    mass = mass if jnp.issubdtype(mass.dtype, jnp.floating) else mass.astype(jnp.result_type(float))
    mass = mass[:, None] if mass.ndim == 1 else mass
    if mass.ndim != 2 or mass.shape[1] not in (1, mass.shape[0]):
        raise ValueError(f"`mass` has shape {mass.shape}; give a matrix (n, n), or its diagonal (n,).")
    return mass


class Rosenbrock(Method):
    """Linearly implicit method of any coefficients, for stiff equations and for `mass y' = f(t, y)`.

    Use the named constructors (`Rodas5P()`, `Rosenbrock23()`) for published coefficients and this class for your own.
    With `E = mass / gamma - dt J` stage i solves `E u_i = f(t + c_i dt, y + dt sum_j a_ij u_j) + mass sum_j C_ij u_j +
    dt d_i f_t`: one matrix is factored a step, and none multiplied. J and f_t come from forward-mode differentiation;
    f_t is left out where the field does not read t. A step costs `len(m)` evaluations of the vector field, its
    Jacobian and its factors.

    Args:
        a: rows 2..s of the strictly lower triangle: lengths 1, 2, ..., s - 1.
        C: likewise, the couplings of the transformed stages.
        c: (s,) nodes, `c[0] = 0`.
        d: (s,) weights of f_t.
        m: (s,) weights.
        e: (s,) `m` minus the embedded weights. None: no error estimate, fixed steps only.
        gamma: the diagonal coefficient.
        order: order of `m`.
        weights: s rows of polynomial coefficients in theta, theta^2, ...: the method's own interpolant. None: cubic
            Hermite.
        mass: (n, n), or (n,) for a diagonal one, constant; it may be singular (differential-algebraic equations of
            index 1). n counts the entries of the state in the order of its leaves, real and imaginary parts apart.
            None: the unit matrix.
        jacobian: what is known of its pattern: None (nothing: n products), "diagonal", bandwidths `(lower, upper)`,
            or an (n, n) boolean matrix; columns that share no row then share a product.
        pivot: whether small systems (up to 8 unknowns) are eliminated with pivoting; larger dense ones always are.
            None: where there is a mass.
        name: what to call it.
        source: where it comes from.

    Raises:
        ValueError: the lengths of the coefficients do not fit each other, or a pattern or mass does not fit the state.

    Example:
        >>> euler = Rosenbrock(a=(), C=(), c=(0.0,), d=(1.0,), m=(1.0,), e=None, gamma=1.0, order=1)
        >>> euler.stages
        1

    Source: Hairer & Wanner, Solving Ordinary Differential Equations II, 1996, IV.7, eq. 7.25.
    """

    a: Rows
    C: Rows
    c: Row
    d: Row
    m: Row
    e: Row | None
    gamma: float | Array
    order: int = eqx.field(static=True, default=1)
    weights: Rows | None = None
    mass: Any = eqx.field(default=None, converter=_mass)
    jacobian: Pattern = eqx.field(static=True, default=None, converter=pattern)
    pivot: bool | None = eqx.field(static=True, default=None)
    name: str = eqx.field(static=True, default="Rosenbrock")
    source: str = eqx.field(static=True, default="user")

    def __check_init__(self) -> None:
        s = len(self.m)
        for name, rows in (("a", self.a), ("C", self.C)):
            lengths = [len(row) for row in rows]
            if lengths != list(range(1, s)):
                raise ValueError(f"`{name}` has rows of lengths {lengths}; {s} weights `m` need rows 1 to {s - 1}.")
        for name, row in (("c", self.c), ("d", self.d), ("e", self.e)):
            if row is not None and len(row) != s:
                raise ValueError(f"`{name}` has {len(row)} entries for {s} weights `m`; give one a stage.")

    @property
    def adaptive(self) -> bool:
        """Whether there is an embedded error estimate."""
        return self.e is not None

    @property
    def solves(self) -> bool:
        """A stage solves a linear system."""
        return True

    @property
    def stages(self) -> int:
        """Evaluations of the vector field a step, beside its Jacobian."""
        return len(self.m)

    def init(self, problem: Any, t: Array, y: PyTree) -> PyTree:
        """Return the derivative at the start, for the length of the first step; no step reads it."""
        return problem(t, y)

    def step(self, problem: Any, t: Array, dt: Array, y: PyTree, carry: PyTree) -> Step:
        """Take one step."""
        return self.judged(problem, t, dt, y, carry)[0]

    def judged(self, problem: Any, t: Array, dt: Array, y: PyTree, carry: PyTree) -> tuple[Step, Array]:
        """Take one step; return with it a bound on the rates of the problem: the row norm of its Jacobian."""
        flat, us, columns = self._stages(problem, t, dt, y)
        y1 = flat.restore(problem.combine(flat.vector, dt, self.m, us))
        err = None if self.e is None else flat.restore(scale(dt, lincomb(self.e, us)))
        return Step(y1, err, carry), norm(columns)

    def dense(self, problem: Any, t: Array, dt: Array, y: PyTree, theta: Array) -> PyTree:
        """Interpolate by the method's own weights, or by cubic Hermite where it has none."""
        flat, us, _ = self._stages(problem, t, dt, y)
        if self.weights is not None:
            return flat.restore(axpy(flat.vector, dt, tuple(polynomial(row, theta) for row in self.weights), us))
        y1 = flat.restore(axpy(flat.vector, dt, self.m, us))
        return hermite(theta, dt, y, y1, problem(t, y), problem(t + dt, y1))

    def _stages(self, problem: Any, t: Array, dt: Array, y: PyTree) -> tuple[Flat, list[Array], Array]:
        flat = Flat.of(y, jnp.shape(dt))
        start = flat.vector

        def field(t: Array, v: Array) -> Array:
            return flat.ravel(problem(t, flat.restore(v)))

        f, push = jax.linearize(lambda v: field(t, v), start)
        # A lane that has ended takes a step of length 0; where the mass is singular its matrix must not be.
        length = dt if self.mass is None else jnp.where(dt == 0, 1, dt)
        pivot = self.mass is not None if self.pivot is None else self.pivot
        columns = products(self.jacobian, push, start)
        solve = step_solver(self.jacobian, columns, length, self.gamma, self.mass, pivot)
        slope = time_derivative(field, t, start)
        us: list[Array] = []
        for i in range(len(self.m)):
            if i:
                f = field(t + self.c[i] * dt, problem.combine(start, dt, self.a[i - 1], us))
                f = f + times_mass(self.mass, lincomb(self.C[i - 1], us))
            if slope is not None:
                f = axpy(f, dt, self.d[i : i + 1], [slope])
            # Not behind a fence: stored before the elimination, `f` loses what cancels in it, and float32 with it
            # (Robertson's problem to 1e8 at 1e-4: 1.8 % off in 786 steps, against 0.06 % in 228).
            us.append(solve(f))
        return flat, us, columns


def time_derivative(field: Any, t: Array, v: Array) -> Array | None:
    """Return the derivative of `field(t, v)` with respect to t; None where the field does not read t."""
    traced = jax.make_jaxpr(field)(t, v).jaxpr
    _, reads = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
    if not reads[0]:
        return None
    return jax.jvp(lambda t: field(t, v), (t,), (jnp.ones_like(t),))[1]


def Rodas5P(*, mass: Any = None, jacobian: Any = None, pivot: bool | None = None) -> Rosenbrock:
    """Rosenbrock method of order 5 with an embedded order 4, L-stable and stiffly accurate, 8 stages.

    The first choice for stiff equations at tolerances from 1e-3 to 1e-10, also non-autonomous ones, and for
    differential-algebraic ones of index 1. Its own interpolant has order 4. A step costs 8 evaluations of the vector
    field, its Jacobian and one factorisation.

    Args:
        mass: as for `Rosenbrock`.
        jacobian: as for `Rosenbrock`.
        pivot: as for `Rosenbrock`.

    Returns:
        The method.

    Example:
        >>> Rodas5P().stages
        8

    Source: Steinebach, BIT Numer. Math. 63 (2023), 27, table 3.
    """
    a8 = (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946, 1.0)
    h = (
        (
            (25.948786856663858, -2.5579724845846235, 10.433815404888879, -2.3679251022685204)
            + (0.524948541321073, 1.1241088310450404, 0.4272876194431874, -0.17202221070155493)
        ),
        (
            (-9.91568850695171, -0.9689944594115154, 3.0438037242978453, -24.495224566215796)
            + (20.176138334709044, 15.98066361424651, -6.789040303419874, -6.710236069923372)
        ),
        (
            (11.419903575922262, 2.8879645146136994, 72.92137995996029, 80.12511834632643)
            + (-52.072871366152654, -59.78993625266729, -0.15582684282751913, 4.883087185713722)
        ),
    )
    m = (*a8, 1.0, 1.0)
    return Rosenbrock(
        order=5,
        name="Rodas5P",
        source="Steinebach, BIT Numer. Math. 63 (2023), 27",
        mass=mass,
        jacobian=jacobian,
        pivot=pivot,
        gamma=0.21193756319429014,
        c=(0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0),
        d=(
            *(0.21193756319429014, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734),
            *(2.325825639765069, 0.0, 0.0, 0.0),
        ),
        a=(
            (3.0,),
            (2.849394379747939, 0.45842242204463923),
            (-6.954028509809101, 2.489845061869568, -10.358996098473584),
            (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
            a8[:5],
            a8,
            (*a8, 1.0),
        ),
        C=(
            (-14.155112264123755,),
            (-17.97296035885952, -2.859693295451294),
            (147.12150275711716, -1.41221402718213, 71.68940251302358),
            (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
            (
                *(24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125),
                -0.6610691825249471,
            ),
            (
                *(30.91273214028599, -3.1208243349937974, 77.79954646070892, 34.28646028294783),
                *(-19.097331116725623, -28.087943162872662),
            ),
            (
                *(37.80277123390563, -3.2571969029072276, 112.26918849496327, 66.9347231244047),
                *(-40.06618937091002, -54.66780262877968, -9.48861652309627),
            ),
        ),
        m=m,
        e=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        weights=tuple((m_i + h1, h2 - h1, h3 - h2, -h3) for m_i, h1, h2, h3 in zip(m, *h, strict=True)),
    )


def Rosenbrock23(*, mass: Any = None, jacobian: Any = None, pivot: bool | None = None) -> Rosenbrock:
    """Rosenbrock method of order 2 with an error estimate of order 3, L-stable, 3 stages.

    For crude tolerances (1e-2 to 1e-4), noisy fields and right-hand sides that are costly or not smooth. Its own
    interpolant has order 2. A step costs 3 evaluations of the vector field, its Jacobian and one factorisation.

    Args:
        mass: as for `Rosenbrock`.
        jacobian: as for `Rosenbrock`.
        pivot: as for `Rosenbrock`.

    Returns:
        The method.

    Example:
        >>> Rosenbrock23().order
        2

    Source: Shampine & Reichelt, SIAM J. Sci. Comput. 18 (1997), 1-22, section 3.
    """
    d = 1 / (2 + sqrt(2))
    e32 = 6 + sqrt(2)
    return Rosenbrock(
        order=2,
        name="Rosenbrock23",
        source="Shampine & Reichelt, SIAM J. Sci. Comput. 18 (1997), 1-22",
        mass=mass,
        jacobian=jacobian,
        pivot=pivot,
        gamma=d,
        c=(0.0, 1 / 2, 1.0),
        d=(d, 0.0, -d),
        a=((1 / (2 * d),), (1 / d, 1 / d)),
        C=((-1 / d,), (-2 / d, -e32 / d)),
        m=(1 / d, 1 / d, 0.0),
        e=(-1 / (6 * d), (2 - e32) / (6 * d), -1 / (6 * d)),
        weights=((1 / d, 0.0), (-2 / (1 - 2 * d), 1 / (d * (1 - 2 * d))), (0.0, 0.0)),
    )
