"""Linear systems of one step: matrices of shape (n, n, ...) whose trailing axes, if any, are lanes.

Small systems are eliminated in straight-line code, without library calls, gathers or products of matrices: it
vectorises over lanes and can be compiled into one kernel with everything around it.
"""

from collections.abc import Callable
from functools import reduce

import jax
import jax.numpy as jnp
from jax import Array

UNROLLED = 8
"""Largest system that is eliminated in straight-line code."""

Solver = Callable[[Array], Array]
"""From a right-hand side (n, ...) to the solution (n, ...)."""


def dense_solver(a: Array, pivot: bool = False) -> Solver:
    """Factor `a`, (n, n, ...), once and return its solver.

    Up to `UNROLLED` rows the elimination is written out, without pivoting unless `pivot` is set, and its growth is
    tested: a lane whose rounding errors could reach the square root of its precision gets NaN. Larger systems go to
    the library, which pivots.
    """
    if a.shape[0] > UNROLLED:
        return library_solver(a)
    return unrolled_solver([[a[i, j] for j in range(a.shape[1])] for i in range(a.shape[0])], pivot)


def unrolled_solver(a: list[list[Array]], pivot: bool = False) -> Solver:
    """Eliminate without loops. Source: Golub & Van Loan, Matrix Computations, 2013, algorithm 3.2.1."""
    n = len(a)
    sizes = [reduce(jnp.maximum, [jnp.abs(x) for x in row]) for row in a]
    rows, swaps = [list(row) for row in a], []
    for k in range(n):
        if pivot:
            swaps += [(k, i, _swap_larger(rows, k, i)) for i in range(k + 1, n)]
        inverse = 1 / rows[k][k]
        for i in range(k + 1, n):
            rows[i][k] = rows[i][k] * inverse
            for j in range(k + 1, n):
                rows[i][j] = rows[i][j] - rows[i][k] * rows[k][j]
        rows[k][k] = inverse
    spoiled = None if pivot else _spoiled(rows, sizes)

    def solve(b: Array) -> Array:
        x = [b[i] for i in range(n)]
        for k, i, swap in swaps:
            x[k], x[i] = jnp.where(swap, x[i], x[k]), jnp.where(swap, x[k], x[i])
        for i in range(n):
            for k in range(i):
                x[i] = x[i] - rows[i][k] * x[k]
        for i in reversed(range(n)):
            for k in range(i + 1, n):
                x[i] = x[i] - rows[i][k] * x[k]
            x[i] = x[i] * rows[i][i]
        if spoiled is not None:
            x = [jnp.where(spoiled, jnp.nan, value) for value in x]
        return jnp.stack(x)

    return solve


def _swap_larger(rows: list[list[Array]], k: int, i: int) -> Array:
    """Exchange rows k and i, their multipliers included, where row i has the larger entry in column k."""
    swap = jnp.abs(rows[i][k]) > jnp.abs(rows[k][k])
    for j in range(len(rows)):
        low, high = rows[k][j], rows[i][j]
        rows[k][j], rows[i][j] = jnp.where(swap, high, low), jnp.where(swap, low, high)
    return swap


def _spoiled(rows: list[list[Array]], sizes: list[Array]) -> Array:
    """Return where `|L| |U|` exceeds its row of the matrix so far that half of the digits may be lost.

    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2002, theorem 9.3.
    """
    n = len(rows)
    bound = float(jnp.finfo(sizes[0].dtype).eps) ** -0.5
    upper = [reduce(jnp.maximum, [jnp.abs(x) for x in row[k + 1 :]], 1 / jnp.abs(row[k])) for k, row in enumerate(rows)]
    tests = []
    for i in range(1, n):
        grown = reduce(jnp.maximum, [jnp.abs(rows[i][k]) * upper[k] for k in range(i)])
        tests.append(~(grown <= bound * sizes[i]))
    return reduce(jnp.logical_or, tests, jnp.zeros(sizes[0].shape, bool))


def library_solver(a: Array) -> Solver:
    """Factor with partial pivoting by LAPACK or its like, lane by lane."""
    lanes = a.ndim - 2
    if not lanes:
        factors = jax.scipy.linalg.lu_factor(a)
        return lambda b: jax.scipy.linalg.lu_solve(factors, b)
    lead = jnp.moveaxis(a, -1, 0)
    factors = jax.vmap(jax.scipy.linalg.lu_factor)(lead)
    solve = jax.vmap(jax.scipy.linalg.lu_solve)
    return lambda b: jnp.moveaxis(solve(factors, jnp.moveaxis(b, -1, 0)), 0, -1)
