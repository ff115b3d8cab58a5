"""The matrix of an implicit step: columns of the Jacobian by forward mode, as few as its pattern allows.

A pattern is static: None (dense), "diagonal", a `Band` or a `Sparsity`.
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


class Band(NamedTuple):
    """Bandwidths: how many diagonals below and above the main one may have entries."""

    lower: int
    upper: int

    def within(self, n: int) -> tuple[int, int]:
        """Return the bandwidths that n rows can have."""
        return min(self.lower, n - 1), min(self.upper, n - 1)


class Sparsity(NamedTuple):
    """Where a matrix may have entries: its size and its bits, row by row, as bytes, so that it can be hashed."""

    n: int
    bits: bytes

    @property
    def mask(self) -> np.ndarray:
        """The (n, n) booleans."""
        flat = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.n**2)
        return flat.reshape(self.n, self.n).astype(bool)


Pattern = Literal["diagonal"] | Band | Sparsity | None


def pattern(jacobian: Any) -> Pattern:
    """Return the pattern that a user means; a boolean matrix with a narrow band becomes that band."""
    if jacobian is None or isinstance(jacobian, Band | Sparsity):
        return jacobian
    if isinstance(jacobian, str) and jacobian == "diagonal":
        return "diagonal"
    if isinstance(jacobian, tuple) and len(jacobian) == 2 and all(isinstance(x, int | np.integer) for x in jacobian):
        if min(jacobian) < 0:
            raise ValueError(f"`jacobian` was {jacobian}; give two bandwidths (lower, upper), neither negative.")
        return Band(int(jacobian[0]), int(jacobian[1]))
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
    narrow = 4 * (below + above + 1) <= len(mask)
    return Band(below, above) if narrow else Sparsity(len(mask), np.packbits(mask).tobytes())


def products(shape: Pattern, push: Callable[[Array], Array], v: Array) -> Array:
    """Return the products of the Jacobian with the sums of all unit vectors of a colour, (colours, n, ...).

    Columns of one colour share no row, so that the products hold every entry of the matrix. `push` multiplies by it
    vectors like v, (n, ...). Source: Curtis, Powell & Reid, J. Inst. Math. Appl. 13 (1974), 117-119.
    """
    colours = _colours(shape, v.shape[0])
    seeds = np.arange(colours.max(initial=-1) + 1)[:, None] == colours
    seeds = jnp.asarray(seeds.reshape(*seeds.shape, *(1,) * (v.ndim - 1)), v.dtype)
    seeds = jnp.broadcast_to(seeds, (len(seeds), *v.shape))
    if 0 < len(seeds) <= UNROLLED:
        return jnp.stack([push(seed) for seed in seeds])
    return jax.vmap(push)(seeds)


def norm(columns: Array) -> Array:
    """Return the largest row sum of absolute values of the Jacobian, from its `products`: it bounds its spectrum."""
    return jnp.max(jnp.sum(jnp.abs(columns), axis=0), axis=0, initial=0)


def step_solver(shape: Pattern, columns: Array, dt: Array, gamma: Any, mass: Array | None, pivot: bool) -> Solver:
    """Return the solver with `mass / gamma - dt J`, from the `products` of J.

    `mass` is (n, n, ...), or (n, 1, ...) for its diagonal, or None for the unit matrix.
    """
    n = columns.shape[1]
    if n == 0:
        return lambda b: b
    v = columns[0]
    if shape == "diagonal":
        matrix = _inertia(mass, v, "diagonal") / gamma - scale(dt, v)
        return lambda b: b / matrix
    if isinstance(shape, Band):
        lower, upper = shape.within(n)
        i, k = np.arange(n), np.arange(lower + upper + 1)[:, None]
        band = -scale(dt, columns[(i + k - lower) % len(k), i])  # [k, i] is the entry at column i + k - lower
        middle = band[lower] + _inertia(mass, v, "banded") / gamma
        return banded_solver(jnp.concatenate([band[:lower], middle[None], band[lower + 1 :]]), lower, upper)
    matrix = jnp.swapaxes(columns, 0, 1) if shape is None else _spread(shape, columns)
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


def _spread(sparsity: Sparsity, columns: Array) -> Array:
    """Return the matrix (n, n, ...) from its products."""
    keep = sparsity.mask.reshape(*sparsity.mask.shape, *(1,) * (columns.ndim - 2))
    return jnp.where(keep, jnp.swapaxes(columns[_colours(sparsity, sparsity.n)], 0, 1), 0)


def _colours(shape: Pattern, n: int) -> np.ndarray:
    """Return the colour of every column."""
    if shape is None:
        return np.arange(n)
    if shape == "diagonal":
        return np.zeros(n, int)
    if isinstance(shape, Band):
        return np.arange(n) % (sum(shape.within(n)) + 1)
    if shape.n != n:
        raise ValueError(f"`jacobian` is for {shape.n} unknowns, the state has {n}; give one that fits.")
    return greedy_colours(shape)


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
