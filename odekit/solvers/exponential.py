"""Exponential Runge-Kutta methods for `y' = L y + N(t, y)`, L diagonal: one family, numbers over phi functions."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from odekit.solvers.base import Method, Step
from odekit.solvers.phi import phi
from odekit.trees import align, diagonal, lincomb
from odekit.typing import PyTree, Row, Rows


class Weights(NamedTuple):
    """What a step length makes of the coefficients, for one leaf of the state.

    Attributes:
        decay: `exp(c_i z)` for stages 2..s and for the new point.
        rows: for each of these, `dt a_ij(z)` by stage j; None where a coefficient is zero.
        err: likewise for the error estimate; empty without one.
    """

    decay: tuple[Array, ...]
    rows: tuple[tuple[Array | None, ...], ...]
    err: tuple[Array | None, ...] = ()


class ExponentialRK(Method):
    """Explicit exponential Runge-Kutta method: the linear part is exact, the rest is weighted by phi functions.

    `y_i = exp(c_i z) y + dt sum_j a_ij(z) N_j` with `z = dt L` and `a_ij(z) = sum_q a[i][j][q] phi_k(s z)`, where
    `(k, s) = basis[q]`. For semilinear problems whose linear part is stiff and diagonal (spectral methods), with fixed
    steps; the step is limited by N alone. Non-smooth starting values cost order until their layer is resolved. A step
    costs `len(b)` evaluations of N; on a uniform grid the phi functions are computed once.

    Args:
        a: rows 2..s of the strictly lower triangle; an entry is a row over `basis`.
        b: (s,) weights; an entry is a row over `basis`.
        c: (s,) nodes, `c[0] = 0`.
        basis: pairs (k, s), standing for `phi_k(s z)`.
        order: classical order.
        name: what to call it.
        source: where it comes from.
        weights: filled in by `prepare`.
        b_err: (s,) `b` minus the embedded weights, rows over `basis`; None for no error estimate.

    Raises:
        ValueError: the lengths of `a`, `b`, `c`, `basis` do not fit each other.
        TypeError: at the first step, L is complex and the state is real.

    Example:
        >>> euler = ExponentialRK(a=(), b=((1.0,),), c=(0.0,), basis=((1, 1.0),), order=1)
        >>> euler.adaptive
        False

    Source: Hochbruck & Ostermann, Acta Numerica 19 (2010), eq. 2.33.
    """

    a: tuple[Rows, ...]
    b: Rows
    c: Row
    basis: tuple[tuple[int, float], ...] = eqx.field(static=True)
    order: int = eqx.field(static=True, default=1)
    name: str = eqx.field(static=True, default="ExponentialRK")
    source: str = eqx.field(static=True, default="user")
    weights: PyTree = None
    b_err: Rows | None = None

    def __check_init__(self) -> None:
        s = len(self.b)
        lengths = [len(rows) for rows in self.a]
        if lengths != list(range(1, s)) or len(self.c) != s:
            raise ValueError(f"`a` has rows of lengths {lengths} and `c` {len(self.c)} nodes for {s} weights `b`.")
        if self.b_err is not None and len(self.b_err) != s:
            raise ValueError(f"`b_err` has {len(self.b_err)} entries for {s} weights `b`; give one a stage.")
        widths = {len(row) for rows in (*self.a, self.b, self.b_err or ()) for row in rows}
        if widths != {len(self.basis)}:
            raise ValueError(f"Coefficients have {sorted(widths)} entries; `basis` has {len(self.basis)}.")

    @property
    def adaptive(self) -> bool:
        """Whether there is an embedded error estimate."""
        return self.b_err is not None

    @property
    def stages(self) -> int:
        """Evaluations of N a step."""
        return len(self.b)

    @property
    def semilinear(self) -> bool:
        """It needs the linear part apart."""
        return True

    def init(self, problem: Any, t: Array, y: PyTree) -> PyTree:
        """Return nothing: the first stage belongs to the step."""
        return None

    def prepare(self, problem: Any, dt: Any) -> "ExponentialRK":
        """Return this method with its weights for steps of length `dt`, computed once.

        A concrete L and dt are handled in float64 by NumPy on the host, traced ones in the widest precision that JAX
        has enabled; both are then rounded to the precision of L.
        """
        weights = jax.tree.map(lambda rate: self._leaf_weights(rate, dt), problem.linear)
        return dataclasses.replace(self, weights=weights)

    def step(self, problem: Any, t: Array, dt: Array, y: PyTree, carry: PyTree) -> Step:
        """Take one step; `dt` is the one that the method was prepared for, if it was."""
        weights = self.prepare(problem, dt).weights if self.weights is None else self.weights
        ns = [problem.nonlinear(t, y)]
        for i, c_i in enumerate(self.c[1:]):
            ns.append(problem.nonlinear(t + c_i * dt, _advance(weights, i, y, ns)))
        err = None if self.b_err is None else _error(weights, ns)
        return Step(_advance(weights, -1, y, ns), err, carry)

    def dense(self, problem: Any, t: Array, dt: Array, y: PyTree, theta: Array) -> PyTree:
        """Take a step of length `theta * dt`: as accurate inside a step as at its end."""
        return dataclasses.replace(self, weights=None).step(problem, t, theta * dt, y, None).y

    def _leaf_weights(self, rate: Array, dt: Array) -> Weights:
        wide = np.complex128 if jnp.iscomplexobj(rate) else np.float64
        if self._is_concrete(rate, dt):
            rate_, dt_ = np.asarray(rate, wide), np.asarray(dt, wide)
        else:
            wide = jax.dtypes.canonicalize_dtype(wide)
            rate_, dt_ = jnp.asarray(rate, wide), jnp.asarray(dt, wide)
        dt_ = align(dt_, rate_)  # pyright: ignore[reportArgumentType] (of either library)
        z = dt_ * rate_
        phis = [phi(k, s * z) for k, s in self.basis]
        dtype = rate.dtype if jnp.issubdtype(rate.dtype, jnp.inexact) else jax.dtypes.canonicalize_dtype(wide)

        def rows(entries: Rows) -> tuple[Array | None, ...]:
            return tuple(None if _vanishes(row) else jnp.asarray(dt_ * lincomb(row, phis), dtype) for row in entries)

        decay = tuple(jnp.asarray(phi(0, c * z), dtype) for c in (*self.c[1:], 1.0))
        return Weights(decay, tuple(rows(entries) for entries in (*self.a, self.b)), rows(self.b_err or ()))

    def _is_concrete(self, rate: Array, dt: Array) -> bool:
        trainable = any(isinstance(x, Array) for x in jax.tree.leaves((self.a, self.b, self.c, self.b_err)))
        return not (trainable or isinstance(rate, Tracer) or isinstance(dt, Tracer))


def _vanishes(row: Row) -> bool:
    return isinstance(row, tuple) and not any(isinstance(x, Array) or x for x in row)


def _advance(weights: PyTree, i: int, y: PyTree, ns: list[PyTree]) -> PyTree:
    """Return stage `i + 2`, or the new point for -1."""

    def leaf(w: Weights, y: Array, *ns: Array) -> Array:
        total = diagonal(w.decay[i], y)
        for row, n in zip(w.rows[i], ns, strict=True):
            total = total if row is None else total + diagonal(row, n)
        return total

    return jax.tree.map(leaf, weights, y, *ns, is_leaf=lambda x: isinstance(x, Weights))


def _error(weights: PyTree, ns: list[PyTree]) -> PyTree:
    """Return the difference to the embedded solution."""

    def leaf(w: Weights, *ns: Array) -> Array:
        total = jnp.zeros_like(ns[0])
        for row, n in zip(w.err, ns, strict=True):
            total = total if row is None else total + diagonal(row, n)
        return total

    return jax.tree.map(leaf, weights, *ns, is_leaf=lambda x: isinstance(x, Weights))


def ETDRK2() -> ExponentialRK:
    """Exponential time differencing Runge-Kutta method of order 2.

    For semilinear problems at loose accuracy, or where N is not smooth enough for `ETDRK4`. Two evaluations of N per
    step, fixed steps.

    Returns:
        The method.

    Example:
        >>> ETDRK2().order
        2

    Source: Cox & Matthews, J. Comput. Phys. 176 (2002), 430-455, eq. 22.
    """
    return ExponentialRK(
        order=2,
        name="ETDRK2",
        source="Cox & Matthews, J. Comput. Phys. 176 (2002), 430-455",
        basis=((1, 1.0), (2, 1.0)),
        c=(0.0, 1.0),
        a=(((1.0, 0.0),),),
        b=((1.0, -1.0), (0.0, 1.0)),
    )


def ETDRK4() -> ExponentialRK:
    """Exponential time differencing Runge-Kutta method of order 4 (of stiff order 2).

    The usual method for spectral discretisations with smooth solutions: Kuramoto-Sivashinsky at h = 1/4 and t = 30 to
    4.8e-5, where `Krogstad4` has 1.2e-4. The latter is as cheap and loses less order on stiff N. Four evaluations of N
    per step, fixed steps.

    Returns:
        The method.

    Example:
        >>> ETDRK4().order
        4

    Source: Cox & Matthews, J. Comput. Phys. 176 (2002), 430-455, eq. 26-29; Kassam & Trefethen, SIAM J. Sci. Comput.
    26 (2005), 1214-1233.
    """
    half = (1 / 2, 0.0, 0.0, 0.0)
    zero = (0.0, 0.0, 0.0, 0.0)
    return ExponentialRK(
        order=4,
        name="ETDRK4",
        source="Cox & Matthews, J. Comput. Phys. 176 (2002), 430-455",
        basis=((1, 1 / 2), (1, 1.0), (2, 1.0), (3, 1.0)),
        c=(0.0, 1 / 2, 1 / 2, 1.0),
        a=(
            (half,),
            (zero, half),
            ((-1.0, 1.0, 0.0, 0.0), zero, (1.0, 0.0, 0.0, 0.0)),
        ),
        b=(
            (0.0, 1.0, -3.0, 4.0),
            (0.0, 0.0, 2.0, -4.0),
            (0.0, 0.0, 2.0, -4.0),
            (0.0, 0.0, -1.0, 4.0),
        ),
    )


def Krogstad4() -> ExponentialRK:
    """Krogstad's exponential Runge-Kutta method of order 4 (of stiff order 3).

    The default for semilinear problems: the cost of `ETDRK4` with less loss of order where N is stiff. Four
    evaluations of N per step, fixed steps.

    Returns:
        The method.

    Example:
        >>> Krogstad4().order
        4

    Source: Krogstad, J. Comput. Phys. 203 (2005), 72-88, eq. 51.
    """
    half = (1 / 2, 0.0, 0.0, 0.0, 0.0)
    zero = (0.0, 0.0, 0.0, 0.0, 0.0)
    return ExponentialRK(
        order=4,
        name="Krogstad4",
        source="Krogstad, J. Comput. Phys. 203 (2005), 72-88",
        basis=((1, 1 / 2), (2, 1 / 2), (1, 1.0), (2, 1.0), (3, 1.0)),
        c=(0.0, 1 / 2, 1 / 2, 1.0),
        a=(
            (half,),
            ((1 / 2, -1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0, 0.0)),
            ((0.0, 0.0, 1.0, -2.0, 0.0), zero, (0.0, 0.0, 0.0, 2.0, 0.0)),
        ),
        b=(
            (0.0, 0.0, 1.0, -3.0, 4.0),
            (0.0, 0.0, 0.0, 2.0, -4.0),
            (0.0, 0.0, 0.0, 2.0, -4.0),
            (0.0, 0.0, 0.0, -1.0, 4.0),
        ),
    )
