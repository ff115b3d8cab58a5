"""Weights of interpolating polynomials: exponential Adams, plain Adams and their correctors are one formula."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# 40 nodes integrate exp(-z (1 - x)) x**k to rounding for z up to about 60, without the cancellation of closed forms.
NODES, WEIGHTS = ((1 + np.polynomial.legendre.leggauss(40)[0]) / 2, np.polynomial.legendre.leggauss(40)[1] / 2)
"""Of Gauss-Legendre quadrature on [0, 1]."""


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
