"""Rosenbrock methods: their numbers by the order conditions, their orders by slope, the classical stiff problems."""

import dataclasses
import functools

import numpy as np
import pytest
from test_tableaus import density, nodes, trees

import odekit as ok

MAKES = (ok.Rosenbrock23, ok.Rodas5P)
EMBEDDED_ORDER = {ok.Rosenbrock23: 3, ok.Rodas5P: 4}
DENSE_ORDER = {ok.Rosenbrock23: 2, ok.Rodas5P: 4}
THETAS = (0.0, 0.2, 0.5, 0.9, 1.0)


def square(rows):
    a = np.zeros((len(rows) + 1, len(rows) + 1))
    for i, row in enumerate(rows, start=1):
        a[i, : len(row)] = row
    return a


def classical(method):
    """The coefficients before the transformation: alpha, beta = alpha + Gamma, and Gamma."""
    gamma = np.linalg.inv(np.eye(len(method.m)) / method.gamma - square(method.C))
    alpha = square(method.a) @ gamma
    return alpha, alpha + gamma, gamma


def stage_weights(method, max_order):
    """Weight of every stage for all trees: an only child hangs by beta, several by alpha. Hairer & Wanner II, IV.7."""
    alpha, beta, _ = classical(method)
    phi = {(): np.ones(len(alpha))}
    for order in range(2, max_order + 1):
        for tree in trees(order):
            join = beta if len(tree) == 1 else alpha
            phi[tree] = functools.reduce(np.multiply, [join @ phi[child] for child in tree])
    return phi


def residual(method, row, order, theta=1.0):
    """Largest violation of the conditions of exactly this order by the transformed weights `row`."""
    phi, b = stage_weights(method, order), np.asarray(row) @ classical(method)[2]
    return max(abs(b @ phi[tree] - theta ** nodes(tree) / density(tree)) for tree in trees(order))


def dense_row(method, theta):
    return [np.polyval([*reversed(row), 0.0], theta) for row in method.weights]


@pytest.mark.parametrize("make", MAKES)
def test_order_of_m(make):
    method = make()
    assert max(residual(method, method.m, p) for p in range(1, method.order + 1)) < 1e-12
    assert residual(method, method.m, method.order + 1) > 1e-5


@pytest.mark.parametrize("make", MAKES)
def test_order_of_embedded(make):
    method, order = make(), EMBEDDED_ORDER[make]
    embedded = np.subtract(method.m, method.e)
    assert max(residual(method, embedded, p) for p in range(1, order + 1)) < 1e-12
    assert residual(method, embedded, order + 1) > 1e-5


@pytest.mark.parametrize("make", MAKES)
def test_rows_sum_to_c_and_d(make):
    method = make()
    alpha, _, gamma = classical(method)
    np.testing.assert_allclose(alpha.sum(axis=1), method.c, rtol=0, atol=1e-13)
    np.testing.assert_allclose(gamma.sum(axis=1), method.d, rtol=0, atol=1e-13)


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("make", MAKES)
def test_order_of_the_interpolant(make, theta):
    method, order = make(), DENSE_ORDER[make]
    row = dense_row(method, theta)
    # the published decimals of Rodas5P's interpolant are good for 1.3e-11
    assert max(residual(method, row, p, theta) for p in range(1, order + 1)) < 2e-11
    if theta == 1.0:
        np.testing.assert_allclose(row, method.m, rtol=0, atol=1e-12)
    if theta == 0.0:
        assert not np.any(row)
