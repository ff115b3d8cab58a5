"""Banded systems by parallel cyclic reduction: as many levels as the number of blocks has binary digits.

A sweep from row to row takes n steps of no length each; here every level is a few operations on whole arrays.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.solvers.linear import Solver, differentiable, inverse

_WRITTEN_OUT = 4
"""Blocks up to this size are multiplied by sums of scaled arrays, larger ones by a product of full precision."""


def banded_solver(band: Array, lower: int, upper: int) -> Solver:
    """Return the solver with the banded matrix `band`, (lower + upper + 1, n, ...), [k, i] at column i + k - lower.

    Blocks of `max(lower, upper)` rows are eliminated without pivoting between them; a lane whose residual shows that
    more than half of the digits were lost gets NaN.
    """
    size = max(1, lower, upper)
    own, other = (_reduced(_blocks(*m, size)) for m in ((band, lower, upper), _transposed(band, lower, upper)))

    def times(x: Array) -> Array:
        return _times(band, lower, upper, x)

    def solve(b: Array) -> Array:
        x = _solve(own, b, size)
        bound = float(jnp.finfo(b.dtype).eps) ** 0.5 * (_times(jnp.abs(band), lower, upper, jnp.abs(x)) + jnp.abs(b))
        sound = jnp.all(jnp.abs(times(x) - b) <= bound, axis=0)
        return jnp.where(sound, x, jnp.nan)

    return differentiable(times, solve, lambda b: _solve(other, b, size))


def _times(band: Array, lower: int, upper: int, x: Array) -> Array:
    n, padded = x.shape[0], _pad(x, lower, upper)
    return sum((band[k] * padded[k : k + n] for k in range(1, lower + upper + 1)), band[0] * padded[:n])


def _pad(x: Array, before: int, after: int, axis: int = 0) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths)


def _transposed(band: Array, lower: int, upper: int) -> tuple[Array, int, int]:
    """Return the band of the transposed matrix, whose bandwidths are exchanged."""
    n, padded = band.shape[1], _pad(band, upper, lower, axis=1)
    rows = [padded[lower + upper - k, k : k + n] for k in range(lower + upper + 1)]
    return jnp.stack(rows), upper, lower


def _blocks(band: Array, lower: int, upper: int, size: int) -> Array:
    """Return the blocks left of, on and right of the diagonal, (3, size, size, blocks, ...)."""
    fill = -band.shape[1] % size
    band = _pad(band, 0, fill, axis=1)
    if fill:
        band = band.at[lower, -fill:].set(1)  # rows of the unit matrix
    rows = band.reshape(band.shape[0], -1, size, *band.shape[2:])

    def entry(side: int, p: int, q: int) -> Array:
        k = q - p + side * size + lower
        return rows[k, :, p] if 0 <= k <= lower + upper else jnp.zeros_like(rows[0, :, 0])

    span = range(size)
    return jnp.stack([jnp.stack([jnp.stack([entry(s, p, q) for q in span]) for p in span]) for s in (-1, 0, 1)])


class _Reduced(NamedTuple):
    """What every level multiplies a right-hand side with, from the neighbours below and above; the last inverses."""

    levels: list[tuple[Array, Array]]
    inverses: Array


def _reduced(blocks: Array) -> _Reduced:
    """Double the distance of the neighbours until there are none.

    Source: Hockney & Jesshope, Parallel Computers 2, 1988, section 5.4.3 (PARACR).
    """
    left, middle, right = blocks
    levels, reach = [], 1
    while reach < middle.shape[2]:
        inverses = inverse(middle)
        down = _multiply(left, _shift(inverses, reach))
        up = _multiply(right, _shift(inverses, -reach))
        middle = middle - _multiply(down, _shift(right, reach)) - _multiply(up, _shift(left, -reach))
        left, right = -_multiply(down, _shift(left, reach)), -_multiply(up, _shift(right, -reach))
        levels.append((down, up))
        reach *= 2
    return _Reduced(levels, inverse(middle))


def _solve(reduced: _Reduced, b: Array, size: int) -> Array:
    rows = _pad(b, 0, -b.shape[0] % size)
    rows = jnp.swapaxes(rows.reshape(-1, size, *b.shape[1:]), 0, 1)
    for level, (down, up) in enumerate(reduced.levels):
        below, above = _shift(rows, 2**level, axis=1), _shift(rows, -(2**level), axis=1)
        rows = rows - _apply(down, below) - _apply(up, above)
    x = jnp.swapaxes(_apply(reduced.inverses, rows), 0, 1)
    return x.reshape(-1, *b.shape[1:])[: b.shape[0]]


def _shift(x: Array, by: int, axis: int = 2) -> Array:
    """Return x with entry i - by at i, zeros beyond the ends."""
    n = x.shape[axis]
    if by > 0:
        return _pad(lax.slice_in_dim(x, 0, n - by, axis=axis), by, 0, axis)
    return _pad(lax.slice_in_dim(x, -by, n, axis=axis), 0, -by, axis)


def _multiply(a: Array, b: Array) -> Array:
    """Return the products of blocks, (size, size, blocks, ...)."""
    if a.shape[0] <= _WRITTEN_OUT:
        return sum((a[:, j, None] * b[None, j] for j in range(1, a.shape[0])), a[:, 0, None] * b[None, 0])
    return jnp.einsum("ij...,jk...->ik...", a, b, precision=lax.Precision.HIGHEST)


def _apply(a: Array, x: Array) -> Array:
    """Return the products of blocks (size, size, blocks, ...) and rows (size, blocks, ...)."""
    if a.shape[0] <= _WRITTEN_OUT:
        return sum((a[:, j] * x[None, j] for j in range(1, a.shape[0])), a[:, 0] * x[None, 0])
    return jnp.einsum("ij...,j...->i...", a, x, precision=lax.Precision.HIGHEST)
