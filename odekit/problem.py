"""Problems as data: what is integrated, checked when made, and bound to its arguments when run."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.trees import Flat, add, axpy, diagonal
from odekit.typing import PyTree, Row, VectorField

Noise = Literal["diagonal", "additive"]


class ODE(eqx.Module):
    """Ordinary differential equation `y' = fn(t, y, args)`; a bare callable given to `solve` becomes one.

    Args:
        fn: vector field of one lane; returns `dy` with the structure, shapes and dtypes of `y`.
        jacobian: None, or `jacobian(t, y, args) -> (n, n)`, the derivative of `fn` by the n entries of the state, in
            the order of its leaves, real and imaginary parts apart. Implicit methods and gradients then use it in
            place of the derivative of `fn` by y: for fields that JAX can't differentiate, or not well.

    Raises:
        TypeError: `fn` or `jacobian` is not callable.

    Example:
        >>> ODE(lambda t, y, args: -y)(0.0, 2.0)
        -2.0
    """

    fn: VectorField
    jacobian: VectorField | None = None

    def __check_init__(self) -> None:
        _require_callable("fn", self.fn)
        if self.jacobian is not None:
            _require_callable("jacobian", self.jacobian)

    def __call__(self, t: Any, y: PyTree, args: PyTree = None) -> PyTree:
        """Return `dy` at `(t, y)`."""
        return self.fn(t, y, args) if self.jacobian is None else _with_jacobian(self.fn, self.jacobian, t, y, args)


@eqx.filter_custom_jvp
def _with_jacobian(fn: VectorField, jacobian: VectorField, t: Any, y: PyTree, args: PyTree) -> PyTree:
    return fn(t, y, args)


@_with_jacobian.def_jvp
def _push_with_jacobian(primals: Any, tangents: Any) -> tuple[PyTree, PyTree]:
    fn, jacobian, t, y, args = primals
    _, _, dt, dy, dargs = tangents
    out, change = eqx.filter_jvp(lambda fn, t, args: fn(t, y, args), (fn, t, args), (tangents[0], dt, dargs))
    push = Flat.of(_filled(dy, y), ())
    matrix = jnp.asarray(jacobian(t, y, args), push.vector.dtype)
    by_y = push.restore(jnp.sum(matrix * push.vector[None], axis=1))
    return out, add(_filled(change, out), by_y)


def _filled(tangent: PyTree, like: PyTree) -> PyTree:
    """Return the tangent with zeros where nothing was varied."""
    return jax.tree.map(lambda d, x: jnp.zeros_like(x) if d is None else d, tangent, like, is_leaf=lambda d: d is None)


class SemiLinear(eqx.Module):
    """Semilinear equation `y' = linear * y + nonlinear(t, y, args)` with a diagonal linear part.

    Exponential integrators solve the linear part exactly, however stiff; any other method sees the sum.

    Args:
        linear: (shape of y) or broadcastable to it, or a pytree like y of such arrays; per unit of t, real or complex.
        nonlinear: the rest, `nonlinear(t, y, args)`, shaped like y.

    Raises:
        TypeError: `nonlinear` is not callable.

    Example:
        >>> SemiLinear(jnp.array([-1.0, -100.0]), lambda t, y, args: jnp.sin(y)).linear.shape
        (2,)

    Source: Hochbruck & Ostermann, Acta Numerica 19 (2010), eq. 1.1.
    """

    linear: PyTree
    nonlinear: VectorField

    def __check_init__(self) -> None:
        _require_callable("nonlinear", self.nonlinear)

    def __call__(self, t: Any, y: PyTree, args: PyTree = None) -> PyTree:
        """Return the whole right-hand side at `(t, y)`."""
        stiff = jax.tree.map(diagonal, spread(self.linear, y), y)
        return add(stiff, self.nonlinear(t, y, args))


class SDE(eqx.Module):
    """Stochastic equation `dy = drift(t, y, args) dt + diffusion(t, y, args) dW` in the sense of Ito.

    Args:
        drift: shaped like y, per unit of t.
        diffusion: shaped like y, per square root of a unit of t: one independent Brownian motion an entry.
        noise: "diagonal" (the diffusion of an entry may depend on that entry) or "additive" (on t alone).

    Raises:
        TypeError: `drift` or `diffusion` is not callable.
        ValueError: `noise` is neither word.

    Example:
        >>> SDE(lambda t, y, args: -y, lambda t, y, args: 0.1 * jnp.ones_like(y), noise="additive").noise
        'additive'

    Source: Kloeden & Platen, Numerical Solution of Stochastic Differential Equations, 1992, section 4.5.
    """

    drift: VectorField
    diffusion: VectorField
    noise: Noise = eqx.field(static=True, default="diagonal")

    def __check_init__(self) -> None:
        _require_callable("drift", self.drift)
        _require_callable("diffusion", self.diffusion)
        if self.noise not in ("diagonal", "additive"):
            raise ValueError(f"`noise` was {self.noise!r}; give 'diagonal' or 'additive'.")

    def __call__(self, t: Any, y: PyTree, args: PyTree = None) -> PyTree:
        """Return the drift at `(t, y)`."""
        return self.drift(t, y, args)


Problem = ODE | SemiLinear | SDE


def as_problem(problem: Any) -> Problem:
    """Return `problem` as one of ours; a bare callable is an ODE."""
    return problem if isinstance(problem, Problem) else ODE(problem)


class Bound:
    """A problem with its arguments bound, as a method's `step` sees it.

    Attributes:
        linear: the diagonal linear part, shaped like y (semilinear problems).
        noise: `noise(index, dt, y) -> dw`, the increment of step `index` (stochastic problems).
    """

    def __init__(self, problem: Problem, args: PyTree, y: PyTree, noise: Callable[..., PyTree] | None = None) -> None:
        self._problem, self._args = problem, args
        self.noise = noise
        self.linear = spread(problem.linear, y) if isinstance(problem, SemiLinear) else None

    def __call__(self, t: Array, y: PyTree) -> PyTree:
        """Return the right-hand side (the drift of an SDE)."""
        return self._problem(t, y, self._args)

    def nonlinear(self, t: Array, y: PyTree) -> PyTree:
        """Return the nonlinear part of a semilinear problem."""
        return self._problem.nonlinear(t, y, self._args)  # pyright: ignore[reportAttributeAccessIssue]

    def diffusion(self, t: Array, y: PyTree) -> PyTree:
        """Return the diffusion of an SDE."""
        return self._problem.diffusion(t, y, self._args)  # pyright: ignore[reportAttributeAccessIssue]

    def combine(self, y: PyTree, dt: Array, row: Row, ks: list[PyTree]) -> PyTree:
        """Return `y + dt * sum_i row[i] * ks[i]`."""
        return axpy(y, dt, row, ks)

    def fence(self, fn: Callable[[], PyTree], like: PyTree) -> PyTree:
        """Return `fn()`."""
        return fn()


class Lifted:
    """A vector field over lanes, with the fusion fence of the adaptive loop.

    XLA on CPU fuses a producer into each of its consumers and so computes it once for every one of them: a stage value
    is read by each row that ends `fn`, by the error norm and by the final select. A conditional on a predicate that
    the compiler can't know is what it does not fuse across; computing each stage value inside one makes the ensemble
    loop 1.5 to 2 times faster.
    """

    linear = None
    noise = None

    def __init__(self, fn: Callable[[Array, PyTree], PyTree], live: Array | None) -> None:
        self._fn, self._live = fn, live

    def __call__(self, t: Array, y: PyTree) -> PyTree:
        """Return `dy`, lanes last."""
        return self._fn(t, y)

    def combine(self, y: PyTree, dt: Array, row: Row, ks: list[PyTree]) -> PyTree:
        """Return `y + dt * sum_i row[i] * ks[i]`, computed once."""
        return self.fence(lambda: axpy(y, dt, row, ks), y)

    def fence(self, fn: Callable[[], PyTree], like: PyTree) -> PyTree:
        """Return `fn()`, shaped like `like`, computed once whoever reads it."""
        return fn() if self._live is None else lax.cond(self._live, fn, lambda: like)


def spread(linear: PyTree, y: PyTree) -> PyTree:
    """Return the diagonal `linear` with the structure and shapes of y."""
    if jax.tree.structure(linear) != jax.tree.structure(y):
        linear = jax.tree.map(lambda _: linear, y)
    return jax.tree.map(lambda rate, leaf: jnp.broadcast_to(rate, leaf.shape), linear, y)


def _require_callable(name: str, fn: Any) -> None:
    if not callable(fn):
        raise TypeError(f"`{name}` was {type(fn).__name__}; give a function of (t, y, args).")
