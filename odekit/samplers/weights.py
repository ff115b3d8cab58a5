"""Weights of interpolating polynomials: exponential Adams, plain Adams and their correctors are one formula."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from odekit.samplers.grids import Grid

# 40 nodes integrate exp(-z (1 - x)) x**k to rounding for z up to about 60.
_NODES, _WEIGHTS = (a.tolist() for a in np.polynomial.legendre.leggauss(40))


def exponential_moments(xp, z: Any, count: int) -> list:
    """Return `z int_0^1 exp(-z (1-x)) x**k dx` for k=0..count-1, shaped like z: by quadrature, so nothing cancels."""
    x = [(1 + node) / 2 for node in _NODES]
    terms = [(0.5 * w * z * xp.exp(-z * (1 - x_i)), x_i) for w, x_i in zip(_WEIGHTS, x, strict=True)]
    return [sum(value * x_i**k for value, x_i in terms) for k in range(count)]


def polynomial_weights(offsets: Sequence[Any], moments: Sequence[Any]) -> list:
    """Return w with `sum_j w_j F_j = int w(v) P(v) dv`, P the polynomial through all (offsets_j, F_j).

    By Newton's divided differences, in which an offset that is infinite drops out by itself if it comes last.

    Args:
        offsets: m positions v_j, shaped alike or scalars; all different.
        moments: m values of `int w(v) v**k dv`, k=0..m-1.

    Returns:
        m weights.
    """
    weights: list = [0.0] * len(offsets)
    basis = [1.0]  # coefficients of prod_{i<k} (v - v_i), constant term first
    for k, offset in enumerate(offsets):
        integral = sum(c * moment for c, moment in zip(basis, moments, strict=False))
        for j in range(k + 1):
            others = [offsets[j] - offsets[i] for i in range(k + 1) if i != j]
            product = 1.0
            for other in others:
                product = product * other
            weights[j] = weights[j] + integral / product
        if k + 1 < len(offsets):
            shifted, lower = [0.0, *basis], [*basis, 0.0]
            basis = [a - offset * b for a, b in zip(shifted, lower, strict=True)]
    return weights


def step_orders(grid: Grid, order: int, lower_order_final: bool | None) -> np.ndarray:
    """Return the order of every step: a ramp 1, 2 ... at the start, and at the end its mirror image if asked for.

    None lowers where it pays: under 15 steps, or where the last step in lam is over twice the one before, or for a grid
    being trained. A last point without noise always gets order 1, which is exact there for its own data prediction.
    """
    n = grid.n
    if lower_order_final is None:
        jump = not grid.traced and n > 1 and abs(np.diff(grid.lam)[-1]) > 2 * abs(np.diff(grid.lam)[-2])
        lower_order_final = grid.traced or n < 15 or bool(jump)
    steps = np.arange(n)
    orders = np.minimum(order, steps + 1)
    if lower_order_final:
        return np.minimum(orders, n - steps)
    if grid.ends_at_zero and not grid.traced:
        orders[-1] = 1
    return orders


def by_ring(ages: np.ndarray | Any, xp) -> Any:
    """Reorder (N, ..., H) weights from age (0 is the row's own evaluation) to ring position."""
    n, depth = ages.shape[0], ages.shape[-1]
    age = (np.arange(n)[:, None] - np.arange(depth)) % depth
    index = np.broadcast_to(age.reshape(n, *(1,) * (ages.ndim - 2), depth), ages.shape)
    return xp.take_along_axis(ages, index, axis=-1)


def scatter(xp, shape: tuple[int, ...], rows: np.ndarray, columns: Sequence[Any]) -> Any:
    """Return zeros of (N, H) with `columns[j]` at `[rows, j]`."""
    block = xp.stack(list(columns), axis=-1)
    out = xp.zeros(shape, block.dtype)
    if xp is np:
        out[rows, : len(columns)] = block
        return out
    return out.at[rows, : len(columns)].set(block)
