"""The numbers of the explicit Runge-Kutta methods, exactly: order conditions, independent tables, interpolants."""

import dataclasses
import functools
import importlib
import inspect
import itertools
import math
import pkgutil
import typing
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import odekit.solvers
from odekit.solvers import DOP853, METHODS, RK4, Bosh3, Dopri5, Dopri8, Euler, Heun, Midpoint, Ralston, Tsit5
from odekit.solvers.base import Method
from odekit.solvers.runge_kutta import RungeKutta, hermite

TABLEAUS = tuple(make for make in METHODS if typing.get_type_hints(make)["return"] is RungeKutta)
EMBEDDED_ORDER = {Heun: 1, Midpoint: 1, Ralston: 1, Bosh3: 2, Dopri5: 4, Tsit5: 4, Dopri8: 7, DOP853: 5}
LOW_ORDER = {DOP853: 3}
DENSE_ORDER = {Euler: 1, Heun: 2, Midpoint: 2, Ralston: 2, Bosh3: 3, RK4: 3, Dopri5: 4, Tsit5: 4, Dopri8: 5, DOP853: 7}
TREES_PER_ORDER = (1, 1, 2, 4, 9, 20, 48, 115, 286)
THETAS = (0.0, 0.1, 1 / 3, 0.5, 0.8, 1.0)
NODEPY = {
    Euler: "FE",
    Heun: "Heun22",
    Midpoint: "Mid22",
    Ralston: "MTE22",
    Bosh3: "BS3",
    RK4: "RK44",
    Dopri5: "DP5",
    Tsit5: "Tsit5",
    Dopri8: "PD8",
}

# A rooted tree is the sorted tuple of the trees that hang from its root; () is the single node.


@functools.cache
def trees(order):
    """All rooted trees with `order` nodes."""
    if order == 1:
        return ((),)
    found = set()
    for parts in partitions(order - 1):
        for children in itertools.product(*(trees(n) for n in parts)):
            found.add(tuple(sorted(children)))
    return tuple(sorted(found))


def partitions(n, largest=None):
    if n == 0:
        yield ()
    for first in range(min(n, largest or n), 0, -1):
        for rest in partitions(n - first, first):
            yield (first, *rest)


def nodes(tree):
    return 1 + sum(nodes(child) for child in tree)


def density(tree):
    return nodes(tree) * math.prod(density(child) for child in tree)


def stage_weights(a, max_order):
    """Elementary weights Phi(t) of every stage, for all trees up to `max_order`."""
    phi = {(): np.ones(len(a))}
    for order in range(2, max_order + 1):
        for tree in trees(order):
            phi[tree] = math.prod((a @ phi[child] for child in tree), start=np.ones(len(a)))
    return phi


def residual(phi, b, order, theta=1.0):
    """Largest violation of the conditions of exactly this order by weights `b` of a step of length `theta`."""
    return max(abs(b @ phi[tree] - theta**order / density(tree)) for tree in trees(order))


def full(method):
    """Square `a`, with the new point as a stage behind the others and the interpolant's stages last; `b`, `b_err`, `c`
    padded to it.
    """
    rows = [(), *method.a, method.b, *method.a_dense]
    a = np.stack([padded(row, len(rows)) for row in rows])
    b_err = None if method.b_err is None else padded(method.b_err, len(rows))
    return a, padded(method.b, len(rows)), b_err, np.array([*method.c, 1.0, *method.c_dense])


def padded(row, length):
    return np.pad(np.asarray(row, float), (0, length - len(row)))


def dense_weights(method, theta):
    """Weights of the interpolant over the stages and the new point."""
    if method.weights is not None:
        powers = theta ** np.arange(1, 1 + len(method.weights[0]))
        return np.asarray(method.weights) @ powers
    b = full(method)[1]
    ends = np.zeros_like(b)
    ends[0], ends[len(method.b)] = theta * (1 - theta) ** 2, -(theta**2) * (1 - theta)
    return theta**2 * (3 - 2 * theta) * b + ends


def largest_defect(method, make):
    """Largest violation of everything a published tableau satisfies, `c` included."""
    a, b, b_err, c = full(method)
    phi = stage_weights(a, method.order)
    defects = [np.max(np.abs(a.sum(axis=1) - c))]
    defects += [residual(phi, b, p) for p in range(1, method.order + 1)]
    if b_err is not None:
        defects += [residual(phi, b - b_err, p) for p in range(1, EMBEDDED_ORDER[make] + 1)]
    if method.b_err_low is not None:
        low = b - padded(method.b_err_low, len(b))
        defects += [residual(phi, low, p) for p in range(1, LOW_ORDER[make] + 1)]
    for theta in THETAS:
        weights = dense_weights(method, theta)
        defects += [residual(phi, weights, p, theta) for p in range(1, DENSE_ORDER[make] + 1)]
    return max(defects)


def test_tree_counts():
    assert tuple(len(trees(p)) for p in range(1, 10)) == TREES_PER_ORDER


@pytest.mark.parametrize("make", TABLEAUS)
def test_order_of_b(make):
    method = make()
    a, b, _, _ = full(method)
    phi = stage_weights(a, method.order + 1)
    assert max(residual(phi, b, p) for p in range(1, method.order + 1)) < 1e-12
    assert residual(phi, b, method.order + 1) > 1e-6


@pytest.mark.parametrize("make", EMBEDDED_ORDER)
def test_order_of_embedded(make):
    method, order = make(), EMBEDDED_ORDER[make]
    a, b, b_err, _ = full(method)
    phi = stage_weights(a, order + 1)
    assert max(residual(phi, b - b_err, p) for p in range(1, order + 1)) < 1e-12
    assert residual(phi, b - b_err, order + 1) > 1e-6


@pytest.mark.parametrize("make", LOW_ORDER)
def test_order_of_the_second_estimate(make):
    method, order = make(), LOW_ORDER[make]
    a, b, _, _ = full(method)
    phi, low = stage_weights(a, order + 1), b - padded(method.b_err_low, len(b))
    assert max(residual(phi, low, p) for p in range(1, order + 1)) < 1e-12
    assert residual(phi, low, order + 1) > 1e-6
    assert {make for make in TABLEAUS if make().b_err_low is not None} == set(LOW_ORDER)


@pytest.mark.parametrize("make", TABLEAUS)
def test_rows_sum_to_c(make):
    a, _, _, c = full(make())
    np.testing.assert_allclose(a.sum(axis=1), c, rtol=0, atol=3e-15)


@pytest.mark.parametrize("make", TABLEAUS)
def test_error_estimate_exists_where_declared(make):
    assert make().adaptive == (make in EMBEDDED_ORDER)


def test_every_tableau_has_an_independent_table():
    assert set(TABLEAUS) == {*NODEPY, DOP853}


def test_digits_of_dop853_against_scipy():
    from scipy.integrate import DOP853 as Other

    method = DOP853()
    a, b, b_err, c = full(method)
    np.testing.assert_array_equal(a[:12, :12], Other.A)
    np.testing.assert_array_equal(b[:12], Other.B)
    np.testing.assert_array_equal(c[:12], Other.C)
    np.testing.assert_array_equal(b_err[:13], Other.E5)
    np.testing.assert_array_equal(padded(method.b_err_low, 13), Other.E3)
    np.testing.assert_array_equal(a[13:], Other.A_EXTRA)
    np.testing.assert_array_equal(c[13:], Other.C_EXTRA)


@pytest.mark.parametrize("make", NODEPY)
def test_digits_against_nodepy(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the reference package's docstrings, not ours
        from nodepy.runge_kutta_method import loadRKM

        table = loadRKM(NODEPY[make])
    method = make()
    a, b, b_err, c = full(method)
    s = len(table.b)
    # A first-same-as-last table of s stages is ours with the new point as its last stage.
    np.testing.assert_allclose(a[:s, :s], table.A.astype(float), rtol=2e-16, atol=1e-17)
    np.testing.assert_allclose(b[:s], table.b.astype(float), rtol=2e-16, atol=1e-17)
    np.testing.assert_allclose(c[:s], table.c.astype(float), rtol=0, atol=3e-15)
    if hasattr(table, "bhat"):
        np.testing.assert_allclose((b - b_err)[:s], table.bhat.astype(float), rtol=0, atol=2e-16)
    assert len(method.b) in (s, s - 1)


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("make", TABLEAUS)
def test_interpolant_order(make, theta):
    method, order = make(), DENSE_ORDER[make]
    phi = stage_weights(full(method)[0], order + 1)
    weights = dense_weights(method, theta)
    assert max(residual(phi, weights, p, theta) for p in range(1, order + 1)) < 1e-12


@pytest.mark.parametrize("make", TABLEAUS)
def test_interpolant_fails_at_the_next_order(make):
    method, order = make(), DENSE_ORDER[make] + 1
    phi = stage_weights(full(method)[0], order)
    assert max(residual(phi, dense_weights(method, theta), order, theta) for theta in THETAS) > 1e-6


@pytest.mark.parametrize("make", TABLEAUS)
def test_interpolant_ends_at_the_step(make):
    method = make()
    b = full(method)[1]
    np.testing.assert_allclose(dense_weights(method, 1.0), b, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(dense_weights(method, 0.0), np.zeros_like(b))


@pytest.mark.parametrize("theta", [0.0, 0.3, 1.0])
def test_hermite_is_exact_on_cubics(theta):
    y, k = (lambda t: 2 * t**3 - t**2 + 3 * t - 1), (lambda t: 6 * t**2 - 2 * t + 3)
    t, dt = 0.7, 0.4
    values = (jnp.asarray(x) for x in (theta, dt, y(t), y(t + dt), k(t), k(t + dt)))
    np.testing.assert_allclose(hermite(*values), y(t + theta * dt), rtol=1e-14)


def slipped(method):
    """Every method that differs from this one by 1e-6 in one coefficient."""

    def slip(row, j):
        return tuple(x + 1e-6 * (i == j) for i, x in enumerate(row))

    for name in ("b", "b_err", "b_err_low", "c", "c_dense"):
        row = getattr(method, name)
        for j in range(len(row or ())):
            yield f"{name}[{j}]", dataclasses.replace(method, **{name: slip(row, j)})
    for name in ("a", "a_dense", "weights"):
        rows = getattr(method, name) or ()
        for i, row in enumerate(rows):
            for j in range(len(row)):
                changed = (*rows[:i], slip(row, j), *rows[i + 1 :])
                yield f"{name}[{i}][{j}]", dataclasses.replace(method, **{name: changed})


@pytest.mark.parametrize("make", TABLEAUS)
def test_a_slip_in_any_coefficient_is_caught(make):
    assert largest_defect(make(), make) < 1e-12
    missed = [where for where, method in slipped(make()) if largest_defect(method, make) < 1e-8]
    assert missed == []


@pytest.mark.parametrize("make", [Bosh3, RK4, Dopri5, Tsit5, Dopri8, DOP853])
def test_a_slip_that_keeps_row_sums_is_caught_by_the_trees(make):
    method = make()
    for i, row in enumerate(method.a[1:], start=1):
        changed = (row[0] + 1e-6, row[1] - 1e-6, *row[2:])
        other = dataclasses.replace(method, a=(*method.a[:i], changed, *method.a[i + 1 :]))
        assert largest_defect(other, make) > 1e-11, f"row {i + 2} of {method.name}"


@pytest.mark.parametrize("make", TABLEAUS)
def test_coefficients_are_python_floats(make):
    method = make()
    rows = [method.b, method.c, method.c_dense, method.b_err or (), method.b_err_low or ()]
    rows += [*method.a, *method.a_dense, *(method.weights or ())]
    assert all(type(x) is float for row in rows for x in row)


@pytest.mark.parametrize("make", METHODS)
def test_every_method_names_itself_and_its_source(make):
    method = make()
    assert method.name == make.__name__
    assert method.order >= 1
    assert any(ch.isdigit() for ch in method.source), "a source has a year"
    assert "Source:" in make.__doc__
    assert ">>>" in make.__doc__


def test_every_public_constructor_is_registered():
    """Constructors are the public functions that are annotated to return a method."""
    constructors = set()
    for info in pkgutil.iter_modules(odekit.solvers.__path__):
        module = importlib.import_module(f"odekit.solvers.{info.name}")
        for name, value in inspect.getmembers(module, inspect.isfunction):
            made = typing.get_type_hints(value).get("return")
            if name[0].isupper() and value.__module__ == module.__name__ and issubclass(made, Method):
                constructors.add(value)
    assert constructors == set(METHODS)
    assert len(METHODS) == len(set(METHODS))
