"""Linear systems of one step: matrices of shape (n, n, ...) whose trailing axes, if any, are lanes.

Small systems are eliminated in straight-line code, without library calls, gathers or products of matrices: it
vectorises over lanes and can be compiled into one kernel with everything around it.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

UNROLLED = 8
"""Largest system that is eliminated in straight-line code."""

Solver = Callable[[Array], Array]
"""From a right-hand side (n, ...) to the solution (n, ...)."""


def dense_solver(a: Array, pivot: bool = False) -> Solver:
    """Factor `a`, (n, n, ...), once and return its solver.

    Up to `UNROLLED` rows the elimination is written out, without pivoting unless `pivot` is set, and its growth is
    tested: a lane whose rounding errors could reach the square root of its precision gets NaN. Larger systems go to
    the library, which pivots. A derivative is one more solution with the same factors, not that of the elimination.
    """
    n = a.shape[0]
    if n > UNROLLED:
        solve, transposed = _library(a)
        return differentiable(lambda x: jnp.sum(a * x[None], axis=1), solve, transposed)
    rows = [[a[i, j] for j in range(n)] for i in range(n)]
    solve, transposed = _unrolled(rows, pivot)
    return differentiable(lambda x: jnp.stack([_sum_of(row, x) for row in rows]), solve, transposed)


def inverse(a: Array) -> Array:
    """Return the inverses of small matrices, (n, n, ...); those without one hold NaN."""
    n = a.shape[0]
    if n > UNROLLED // 2:  # selects of rows grow like n^3: 25 s to compile at n = 6
        order = (*range(2, a.ndim), 0, 1)
        return jnp.transpose(jnp.linalg.inv(jnp.transpose(a, order)), (a.ndim - 2, a.ndim - 1, *range(a.ndim - 2)))
    solve, _ = _unrolled([[a[i, j] for j in range(n)] for i in range(n)], pivot=True)
    unit = jnp.eye(n, dtype=a.dtype)
    columns = [jnp.broadcast_to(unit[j].reshape(n, *(1,) * (a.ndim - 2)), a.shape[1:]) for j in range(n)]
    return jnp.stack([solve(column) for column in columns], axis=1)


def differentiable(times: Any, solve: Any, transposed: Any) -> Solver:
    """Return `solve`, whose derivative is one more solution, given the product with the matrix and both solvers."""

    def solution(b: Array) -> Array:
        return lax.custom_linear_solve(times, b, lambda _, b: solve(b), lambda _, b: transposed(b))

    return solution


def _sum_of(row: list[Array], x: Array) -> Array:
    return reduce(jnp.add, [a * x[j] for j, a in enumerate(row)])


def _unrolled(a: list[list[Array]], pivot: bool) -> tuple[Solver, Solver]:
    """Eliminate without loops: the solvers with `a` and with its transpose.

    Source: Golub & Van Loan, Matrix Computations, 2013, algorithm 3.2.1 and section 3.4.
    """
    n = len(a)
    rows, swaps = [list(row) for row in a], []
    for k in range(n):
        if pivot:
            swaps += [(k, i, _swap_larger(rows, k, i)) for i in range(k + 1, n)]
        rows[k][k] = 1 / rows[k][k]
        for i in range(k + 1, n):
            rows[i][k] = rows[i][k] * rows[k][k]
            for j in range(k + 1, n):
                rows[i][j] = rows[i][j] - rows[i][k] * rows[k][j]
    spoiled = None if pivot else _spoiled(rows, a)

    def solve(b: Array) -> Array:
        x = [b[i] for i in range(n)]
        for k, i, swap in swaps:
            x[k], x[i] = _exchange(swap, x[k], x[i])
        for i in range(n):
            for k in range(i):
                x[i] = x[i] - rows[i][k] * x[k]
        for i in reversed(range(n)):
            for k in range(i + 1, n):
                x[i] = x[i] - rows[i][k] * x[k]
            x[i] = x[i] * rows[i][i]
        return ends(x)

    def transposed(b: Array) -> Array:
        x = [b[i] for i in range(n)]
        for i in range(n):
            for k in range(i):
                x[i] = x[i] - rows[k][i] * x[k]
            x[i] = x[i] * rows[i][i]
        for i in reversed(range(n)):
            for k in range(i + 1, n):
                x[i] = x[i] - rows[k][i] * x[k]
        for k, i, swap in reversed(swaps):
            x[k], x[i] = _exchange(swap, x[k], x[i])
        return ends(x)

    def ends(x: list[Array]) -> Array:
        return jnp.stack(x if spoiled is None else [jnp.where(spoiled, jnp.nan, value) for value in x])

    return solve, transposed


def _swap_larger(rows: list[list[Array]], k: int, i: int) -> Array:
    """Exchange rows k and i, their multipliers included, where row i has the larger entry in column k."""
    swap = jnp.abs(rows[i][k]) > jnp.abs(rows[k][k])
    pairs = [_exchange(swap, low, high) for low, high in zip(rows[k], rows[i], strict=True)]
    rows[k], rows[i] = [low for low, _ in pairs], [high for _, high in pairs]
    return swap


def _exchange(swap: Array, a: Array, b: Array) -> tuple[Array, Array]:
    return jnp.where(swap, b, a), jnp.where(swap, a, b)


def _spoiled(rows: list[list[Array]], a: list[list[Array]]) -> Array:
    """Return where `|L| |U|` exceeds its row of the matrix so far that half of the digits may be lost.

    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2002, theorem 9.3.
    """
    n = len(rows)
    bound = float(jnp.finfo(a[0][0].dtype).eps) ** -0.5
    sizes = [reduce(jnp.maximum, [jnp.abs(x) for x in row]) for row in a]
    upper = [reduce(jnp.maximum, [jnp.abs(x) for x in row[k + 1 :]], 1 / jnp.abs(row[k])) for k, row in enumerate(rows)]
    tests = []
    for i in range(1, n):
        grown = reduce(jnp.maximum, [jnp.abs(rows[i][k]) * upper[k] for k in range(i)])
        tests.append(~(grown <= bound * sizes[i]))
    return reduce(jnp.logical_or, tests, jnp.zeros(sizes[0].shape, bool))


def _library(a: Array) -> tuple[Solver, Solver]:
    """Factor with partial pivoting by LAPACK or its like, lane by lane."""
    lanes, many = a.shape[2:], jax.vmap if a.shape[2:] not in ((), (1,)) else lambda fn: fn
    lead = jnp.moveaxis(a, -1, 0) if many is jax.vmap else a.reshape(a.shape[:2])
    factors = many(jax.scipy.linalg.lu_factor)(lead)

    def solver(trans: int) -> Solver:
        one = many(lambda factors, b: jax.scipy.linalg.lu_solve(factors, b, trans=trans))

        def solve(b: Array) -> Array:
            if many is jax.vmap:
                return jnp.moveaxis(one(factors, jnp.moveaxis(b, -1, 0)), 0, -1)
            return one(factors, b.reshape(b.shape[0])).reshape(-1, *lanes)

        return solve

    return solver(0), solver(1)
