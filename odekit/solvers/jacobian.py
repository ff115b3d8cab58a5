"""The matrix of an implicit step: columns of the Jacobian by forward mode, as few as its pattern allows.

A pattern is static: None (dense), "diagonal", a pair `(lower, upper)` of bandwidths, or a `Sparsity`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from odekit.solvers.banded import banded_solver
from odekit.solvers.linear import UNROLLED, Solver, dense_solver
from odekit.trees import scale


class Sparsity(NamedTuple):
    """Where a matrix may have entries: its size and its bits, row by row, as bytes, so that it can be hashed."""

    n: int
    bits: bytes

    @property
    def mask(self) -> np.ndarray:
        """The (n, n) booleans."""
        flat = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.n**2)
        return flat.reshape(self.n, self.n).astype(bool)


Pattern = Literal["diagonal"] | tuple[int, int] | Sparsity | None


def pattern(jacobian: Any) -> Pattern:
    """Return the pattern that a user means; a boolean matrix with a narrow band becomes that band."""
    if jacobian is None or isinstance(jacobian, Sparsity) or (isinstance(jacobian, str) and jacobian == "diagonal"):
        return jacobian
    if isinstance(jacobian, tuple) and len(jacobian) == 2 and all(isinstance(x, int | np.integer) for x in jacobian):
        if min(jacobian) < 0:
            raise ValueError(f"`jacobian` was {jacobian}; give two bandwidths (lower, upper), neither negative.")
        return int(jacobian[0]), int(jacobian[1])
    mask = np.asarray(jacobian)
    if mask.dtype != bool or mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
        raise ValueError(
            f"`jacobian` was {type(jacobian).__name__} of shape {mask.shape} and dtype {mask.dtype}; give None, "
            "'diagonal', bandwidths (lower, upper), or a square boolean matrix."
        )
    rows, columns = np.nonzero(mask)
    below, above = (int(max(0, np.max(x, initial=0))) for x in (rows - columns, columns - rows))
    if below == above == 0:
        return "diagonal"
    return (below, above) if 4 * (below + above + 1) <= len(mask) else Sparsity(len(mask), np.packbits(mask).tobytes())


def step_solver(
    shape: Pattern, push: Callable[[Array], Array], v: Array, dt: Array, gamma: Any, mass: Array | None, pivot: bool
) -> Solver:
    """Return the solver with `mass / gamma - dt J`, where `push` multiplies by J vectors like v, (n, ...).

    `mass` is (n, n, ...), or (n, 1, ...) for its diagonal, or None for the unit matrix.
    """
    n = v.shape[0]
    if shape == "diagonal":
        matrix = _inertia(mass, v, "diagonal") / gamma - scale(dt, push(jnp.ones_like(v)))
        return lambda b: b / matrix
    if isinstance(shape, tuple) and not isinstance(shape, Sparsity):
        lower, upper = min(shape[0], n - 1), min(shape[1], n - 1)
        band = -scale(dt, _banded(push, v, lower, upper))
        band = jnp.concatenate(
            [band[:lower], band[lower : lower + 1] + (_inertia(mass, v, "banded") / gamma)[None], band[lower + 1 :]]
        )
        return banded_solver(band, lower, upper)
    matrix = _columns(push, v) if shape is None else _coloured(push, v, shape)
    inertia = _unit(v) if mass is None else _full(mass, v) if mass.shape[1] == n else _unit(v) * _full(mass, v)
    return dense_solver(inertia / gamma - scale(dt, matrix), pivot)


def times_mass(mass: Array | None, x: Array) -> Array:
    """Return `mass @ x` for x of shape (n, ...)."""
    if mass is None:
        return x
    if mass.shape[1] < x.shape[0]:
        return _full(mass, x)[:, 0] * x
    return jnp.sum(_full(mass, x) * x[None], axis=1)


def _full(mass: Array, v: Array) -> Array:
    """Return the mass with the lane axes of v."""
    extra = v.ndim - mass.ndim + 1
    return mass.reshape(*mass.shape, *(1,) * extra).astype(v.dtype)


def _inertia(mass: Array | None, v: Array, kind: str) -> Array:
    """Return the diagonal of the mass."""
    if mass is None:
        return jnp.ones_like(v)
    if mass.shape[1] == v.shape[0] > 1:
        raise ValueError(f"`mass` is a matrix beside a {kind} `jacobian`; give the diagonal of the mass, (n,).")
    return jnp.broadcast_to(_full(mass, v)[:, 0], v.shape)


def _unit(v: Array) -> Array:
    eye = jnp.eye(v.shape[0], dtype=v.dtype)
    return jnp.broadcast_to(eye.reshape(*eye.shape, *(1,) * (v.ndim - 1)), (v.shape[0], *v.shape))


def _columns(push: Callable[[Array], Array], v: Array) -> Array:
    """Return the whole Jacobian, (n, n, ...), by one product a column."""
    unit = _unit(v)
    if 0 < v.shape[0] <= UNROLLED:
        return jnp.stack([push(column) for column in unit], axis=1)
    return jnp.swapaxes(jax.vmap(push)(unit), 0, 1)


def _products(push: Callable[[Array], Array], v: Array, colours: np.ndarray) -> Array:
    """Return the products with the sums of all unit vectors of a colour, (colours, n, ...)."""
    seeds = jnp.asarray(np.arange(colours.max() + 1)[:, None] == colours, v.dtype)
    seeds = jnp.broadcast_to(seeds.reshape(*seeds.shape, *(1,) * (v.ndim - 1)), (len(seeds), *v.shape))
    return jax.vmap(push)(seeds)


def _banded(push: Callable[[Array], Array], v: Array, lower: int, upper: int) -> Array:
    """Return the band of the Jacobian, (lower + upper + 1, n, ...): entry [k, i] is J[i, i + k - lower].

    Columns that are `lower + upper + 1` apart share no row, and one product. Source: Curtis, Powell & Reid, J. Inst.
    Math. Appl. 13 (1974), 117-119.
    """
    width, i = lower + upper + 1, np.arange(v.shape[0])
    products = _products(push, v, i % width)
    k = np.arange(width)[:, None]
    return products[(i + k - lower) % width, i]


def _coloured(push: Callable[[Array], Array], v: Array, sparsity: Sparsity) -> Array:
    """Return the Jacobian, (n, n, ...), by one product a colour."""
    if sparsity.n != v.shape[0]:
        raise ValueError(f"`jacobian` is for {sparsity.n} unknowns, the state has {v.shape[0]}; give one that fits.")
    colours = greedy_colours(sparsity)
    dense = _products(push, v, colours)[colours, :]  # (column, row, ...)
    keep = sparsity.mask.reshape(*sparsity.mask.shape, *(1,) * (v.ndim - 1))
    return jnp.where(keep, jnp.swapaxes(dense, 0, 1), 0)


@lru_cache(maxsize=32)
def greedy_colours(sparsity: Sparsity) -> np.ndarray:
    """Return a colour for every column so that no row has entries in two columns of one colour.

    Source: Curtis, Powell & Reid, J. Inst. Math. Appl. 13 (1974), 117-119.
    """
    mask = sparsity.mask
    colours = np.full(sparsity.n, -1)
    for j in range(sparsity.n):
        rivals = mask[mask[:, j]].any(axis=0)
        taken = np.unique(colours[rivals])
        taken = taken[taken >= 0]
        free = np.flatnonzero(taken != np.arange(len(taken)))
        colours[j] = free[0] if len(free) else len(taken)
    return colours
