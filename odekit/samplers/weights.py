"""Weights of interpolating polynomials: exponential Adams, plain Adams and their correctors are one formula."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

# 40 nodes integrate exp(-z (1 - x)) x**k to rounding for z up to about 60.
NODES, WEIGHTS = ((1 + np.polynomial.legendre.leggauss(40)[0]) / 2, np.polynomial.legendre.leggauss(40)[1] / 2)
"""Of Gauss-Legendre quadrature on [0, 1]."""


def exponential_moments(xp: ModuleType, z: Any, count: int) -> list:
    """Return `z int_0^1 exp(-z (1-x)) x**k dx` for k=0..count-1, z of shape (R,): by quadrature, so nothing cancels."""
    x, w = (xp.asarray(a, z.dtype)[None, :] for a in (NODES, WEIGHTS))
    decay = w * z[:, None] * xp.exp(-z[:, None] * (1 - x))
    return [xp.sum(decay * x**k, axis=1) for k in range(count)]


def polynomial_weights(offsets: Sequence[Any], moments: Sequence[Any], *, pseudo: bool = False) -> list:
    """Return w with `sum_j w_j F_j = int w(v) P(v) dv`, P the polynomial through all (offsets_j, F_j).

    By Newton's divided differences, in which an infinite offset drops out by itself if it comes last.

    Args:
        offsets: m positions v_j, shaped alike or scalars, all different.
        moments: m values of `int w(v) v**k dv`, k=0..m-1.
        pseudo: whether each difference goes with `v**k` in place of the Newton polynomial, so that low derivatives stay
            at their low order.

    Returns:
        m weights; they add up to moments[0].
    """
    weights: list = [0.0] * len(offsets)
    basis: list = [1.0]  # coefficients of prod_{i<k} (v - v_i), constant term first
    for k, offset in enumerate(offsets):
        integral = sum(c * moment for c, moment in zip(basis, moments, strict=False))
        for j in range(k + 1):
            product = 1.0
            for i in range(k + 1):
                product = product if i == j else product * (offsets[j] - offsets[i])
            weights[j] = weights[j] + integral / product
        if k + 1 < len(offsets):
            basis = [
                up - (0.0 if pseudo else offset * same) for up, same in zip([0.0, *basis], [*basis, 0.0], strict=True)
            ]
    return weights
