"""Pytree arithmetic: every sum of scaled states in the package is one of these.

Coefficients are Python floats (weakly typed, so the state keeps its dtype; zeros vanish from the program) or JAX
arrays (trainable). Sums of scaled arrays are used instead of `dot`, which float32 accelerators round to fewer bits.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.typing import PyTree, Row


def real_dtype(dtype: Any) -> Any:
    """Return the dtype of the real part of `dtype`."""
    return jnp.finfo(dtype).dtype


def align(c: Array, x: Array) -> Array:
    """Return `c` with leading axes of length 1, so that it broadcasts against the trailing axes of `x`."""
    return c.reshape((1,) * (x.ndim - c.ndim) + c.shape) if 0 < c.ndim < x.ndim else c


def _times(c: float | Array, x: Array) -> Array:
    """`c * x` in the dtype of x: a coefficient never widens a state."""
    if isinstance(c, float | int):
        return x if c == 1 else -x if c == -1 else c * x
    return align(c, x).astype(x.dtype) * x


def diagonal(rate: Array, x: Array) -> Array:
    """Return `rate * x` in the dtype of x, the rate along its trailing axes; no complex rate acts on a real x."""
    if jnp.iscomplexobj(rate) and not jnp.iscomplexobj(x):
        raise TypeError(f"`linear` is complex and the state is {x.dtype}; give a complex `y0`.")
    return align(jnp.asarray(rate, x.dtype), x) * x


def scale(c: float | Array, tree: PyTree) -> PyTree:
    """Return `c * tree`; `c` is a scalar or broadcasts against the trailing axes of every leaf."""
    return jax.tree.map(lambda x: _times(c, x), tree)


def add(a: PyTree, b: PyTree) -> PyTree:
    """Return `a + b`, leaf by leaf."""
    return jax.tree.map(jnp.add, a, b)


def _entries(row: Row, trees: Sequence[PyTree]) -> list[tuple[Any, PyTree]]:
    pairs = [(row[i], tree) for i, tree in enumerate(trees[: len(row)])]
    return [(c, tree) for c, tree in pairs if not (isinstance(c, float | int) and c == 0)]


def lincomb(row: Row, trees: Sequence[PyTree]) -> PyTree:
    """Return `sum_i row[i] * trees[i]`; concrete zeros are skipped, extra trees are ignored."""
    pairs = _entries(row, trees)
    if not pairs:
        return jax.tree.map(jnp.zeros_like, trees[0])

    def combine(*leaves: Array) -> Array:
        total = _times(pairs[0][0], leaves[0])
        for (c, _), x in zip(pairs[1:], leaves[1:], strict=True):
            total = total + _times(c, x)
        return total

    return jax.tree.map(combine, *[tree for _, tree in pairs])


def axpy(y: PyTree, dt: Array, row: Row, trees: Sequence[PyTree]) -> PyTree:
    """Return `y + dt * sum_i row[i] * trees[i]`."""
    if not _entries(row, trees):
        return y
    return add(y, scale(dt, lincomb(row, trees)))


def inner(a: PyTree, b: PyTree, dtype: Any) -> Array:
    """Return the real part of `sum a * b` over all axes but that of the lanes, in a real dtype."""
    products = jax.tree.map(lambda x, y: jnp.real(x * y).astype(dtype), a, b)
    return sum((jnp.sum(x, axis=tuple(range(x.ndim - 1))) for x in jax.tree.leaves(products)), jnp.zeros((), dtype))


def select(mask: Array, new: PyTree, old: PyTree) -> PyTree:
    """Return `new` where `mask` holds, else `old`; the mask broadcasts against the trailing (lane) axis."""
    return jax.tree.map(lambda a, b: jnp.where(align(mask, a), a, b), new, old)


def leading(mask: Array, x: Array) -> Array:
    """Return a mask over the leading axis of `x` so that it broadcasts against all of it."""
    return mask.reshape(-1, *(1,) * (x.ndim - 1))


def common_real(tree: PyTree) -> Any:
    """Return the real dtype that holds every leaf's and float32: what times and tolerances are kept in."""
    dtypes = [real_dtype(leaf.dtype) for leaf in jax.tree.leaves(tree)]
    return max([jnp.dtype(jnp.float32), *dtypes], key=lambda dtype: jnp.finfo(dtype).bits)


def cast_like(tree: PyTree, x: PyTree) -> PyTree:
    """Return `tree` with every leaf in the real dtype of the first leaf of `x`."""
    dtype = real_dtype(jax.tree.leaves(x)[0].dtype)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def square(tree: PyTree, lanes: int) -> Array:
    """Return the square of the Euclidean norm of a state whose last `lanes` axes are lanes, lane by lane."""
    wide = common_real(tree)
    total = jnp.zeros((), wide)
    for x in jax.tree.leaves(tree):
        total = total + jnp.sum(jnp.square(jnp.abs(x).astype(wide)), axis=tuple(range(x.ndim - lanes)))
    return total


class Flat(NamedTuple):
    """A state as one real vector: real and imaginary parts are entries of their own.

    Attributes:
        vector: (n, ...) in the real dtype that holds every leaf's and float32; the axes behind the first are lanes.
        ravel: from a state to its vector.
        restore: from a vector to a state with the shapes and dtypes of the first.
    """

    vector: Array
    ravel: Callable[[PyTree], Array]
    restore: Callable[[Array], PyTree]

    @classmethod
    def of(cls, tree: PyTree, lanes: tuple[int, ...]) -> "Flat":
        """Return `tree`, whose leaves end in the axes `lanes`, as a vector."""
        leaves, structure = jax.tree.flatten(tree)
        wide = common_real(tree)
        parts = [2 if jnp.iscomplexobj(x) else 1 for x in leaves]
        sizes = [p * (x.size // math.prod(lanes)) for p, x in zip(parts, leaves, strict=True)]
        ends = list(itertools.accumulate(sizes))

        def ravel(tree: PyTree) -> Array:
            rows = [part.reshape(-1, *lanes).astype(wide) for x in jax.tree.leaves(tree) for part in _real_parts(x)]
            return rows[0] if len(rows) == 1 else jnp.concatenate([jnp.zeros((0, *lanes), wide), *rows])

        def restore(vector: Array) -> PyTree:
            pieces = [vector[end - size : end] for size, end in zip(sizes, ends, strict=True)]
            return jax.tree.unflatten(structure, [_as(x, piece) for x, piece in zip(leaves, pieces, strict=True)])

        return cls(ravel(tree), ravel, restore)


def _real_parts(x: Array) -> tuple[Array, ...]:
    return (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)


def _as(like: Array, piece: Array) -> Array:
    """Return the rows `piece` in the shape and dtype of `like`."""
    if not jnp.iscomplexobj(like):
        return piece.reshape(like.shape).astype(like.dtype)
    real, imag = jnp.split(piece.astype(real_dtype(like.dtype)), 2)
    return lax.complex(real, imag).reshape(like.shape)
