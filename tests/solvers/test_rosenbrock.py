"""Rosenbrock methods: their numbers by the order conditions, their orders by slope, the classical stiff problems."""

import dataclasses
import functools

import cases
import cases_stiff
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_stiff import robertson
from jax import lax
from test_tableaus import density, nodes, trees

import odekit as ok
from odekit.solvers.rosenbrock import time_derivative

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


def test_a_slip_in_any_coefficient_is_caught():
    method = ok.Rodas5P()

    def defect(method):
        alpha, _, gamma = classical(method)
        defects = [np.abs(alpha.sum(axis=1) - method.c).max(), np.abs(gamma.sum(axis=1) - method.d).max()]
        defects += [residual(method, method.m, p) for p in range(1, 6)]
        defects += [residual(method, np.subtract(method.m, method.e), p) for p in range(1, 5)]
        return max(defects)

    def slip(row, j):
        return tuple(x + 1e-6 * (i == j) for i, x in enumerate(row))

    assert defect(method) < 1e-12
    for name in ("c", "d", "m", "e"):
        row = getattr(method, name)
        last = name == "e"  # the last stage is the error estimate: any multiple of it meets the embedded conditions
        others = [dataclasses.replace(method, **{name: slip(row, j)}) for j in range(len(row) - last)]
        assert min(defect(other) for other in others) > 1e-8, name
    for name in ("a", "C"):
        rows = getattr(method, name)
        for i, row in enumerate(rows):
            for j in range(len(row)):
                changed = (*rows[:i], slip(row, j), *rows[i + 1 :])
                assert defect(dataclasses.replace(method, **{name: changed})) > 1e-9, f"{name}[{i}][{j}]"


@pytest.mark.parametrize("make", MAKES)
def test_stable_at_infinity(make):
    """The stability function vanishes at minus infinity: m U with E = 1/gamma - z."""
    method, z = make(), -1e9
    s = len(method.m)
    matrix = (1 / method.gamma - z) * np.eye(s) - square(method.C) - z * square(method.a)
    assert abs(1 + np.asarray(method.m) @ np.linalg.solve(matrix, np.full(s, z))) < 1e-5


def test_prothero_robinson_is_of_order_three_uniformly():
    """On y' = rate (y - sin t) + cos t most methods of order 4 fall to 1 or 2 once the rate is large."""

    def f(t, y, rate):
        return rate * (y - jnp.sin(t)) + jnp.cos(t)

    def error(rate, n):
        return abs(float(ok.solve(f, jnp.sin(0.3), 0.3, 2.3, ok.Rodas5P(), rate, n_steps=n).y1) - np.sin(2.3))

    for rate in (-1e4, -1e6):
        coarse, fine = (error(rate, n) for n in (8, 32))
        assert coarse < 1e-4 / abs(rate)
        assert np.log2(coarse / fine) / 2 > 2.95


def nested(t, y, args):
    """A slow pair that drives a stiff one and a stiff one that turns in the complex plane."""
    slow, fast, turn = y["slow"], y["fast"], y["turn"]
    dslow = jnp.sin(t).astype(slow.dtype) - slow
    drive = (slow[0] * slow[1]).astype(turn.real.dtype)
    return {"slow": dslow, "fast": -50 * (fast - slow), "turn": (-50 + 2j) * turn + lax.complex(drive, drive)}


def nested_start(real, complex_):
    slow, fast = jnp.array([1.0, 0.5], real), jnp.array([0.0, 2.0], real)
    return {"slow": slow, "fast": fast, "turn": jnp.array(1 + 1j, complex_)}


def test_pytrees_and_complex_states():
    start = nested_start(jnp.float64, jnp.complex128)
    tight = ok.solve(nested, start, 0.0, 2.0, ok.Tsit5(), rtol=1e-10, atol=1e-10)
    sol = ok.solve(nested, start, 0.0, 2.0, ok.Rodas5P(), rtol=1e-7, atol=1e-7)
    assert int(sol.stats["accepted"]) < int(tight.stats["accepted"]) / 3
    for a, b in zip(jax.tree.leaves(sol.y1), jax.tree.leaves(tight.y1), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_dtypes_are_kept():
    dtypes = ("float16", "complex128")
    sol = ok.solve(nested, nested_start(*dtypes), 0.0, 0.5, ok.Rosenbrock23(), rtol=1e-3, atol=1e-3)
    assert [x.dtype.name for x in jax.tree.leaves(sol.y1)] == [dtypes[0], dtypes[0], dtypes[1]]
    fine = ok.solve(nested, nested_start("float64", "complex128"), 0.0, 0.5, ok.Tsit5(), rtol=1e-9, atol=1e-9)
    for a, b in zip(jax.tree.leaves(sol.y1), jax.tree.leaves(fine.y1), strict=True):
        np.testing.assert_allclose(np.asarray(a, b.dtype), b, atol=1e-2)


def test_nothing_to_solve():
    assert ok.solve(lambda t, y, args: y, {}, 0.0, 1.0, ok.Rodas5P()).y1 == {}


def test_backwards_is_the_way_back():
    there = ok.solve(cases.smooth, jnp.array([0.5, 1.5]), 0.2, 1.7, ok.Rodas5P(), rtol=1e-9, atol=1e-9).y1
    back = ok.solve(cases.smooth, there, 1.7, 0.2, ok.Rodas5P(), rtol=1e-9, atol=1e-9).y1
    np.testing.assert_allclose(back, [0.5, 1.5], atol=2e-8)


def test_time_derivative_is_skipped_where_the_field_does_not_read_t():
    t, v = jnp.zeros(()), jnp.ones(2)
    assert time_derivative(lambda t, v: -v, t, v) is None
    assert time_derivative(jax.jit(lambda t, v: -v + 0 * v), t, v) is None
    np.testing.assert_array_equal(time_derivative(lambda t, v: jnp.sin(t) * v, t, v), [1.0, 1.0])


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKES)
def test_dense_output_has_the_order_of_its_interpolant(make):
    y0, ts = np.array([0.5, 1.5]), np.linspace(0.25, 1.65, 29)
    exact = np.stack([cases.smooth_solution(t, y0, 0.2) for t in ts])

    def error(n):
        sol = ok.solve(cases.smooth, jnp.asarray(y0), 0.2, 1.7, make(), n_steps=n, saveat=ts)
        return np.sqrt(np.mean((np.asarray(sol.ys) - exact) ** 2))

    counts = (24, 48) if make is ok.Rodas5P else (16, 34)
    slope = -np.polyfit(np.log(counts), np.log([error(n) for n in counts]), 1)[0]
    assert slope > DENSE_ORDER[make] - 0.15


@pytest.mark.parametrize("mass", [[1.0, 1.0, 0.0], np.diag([1.0, 1.0, 0.0])], ids=["diagonal", "matrix"])
def test_an_algebraic_equation_in_place_of_the_last_row(mass):
    def f(t, y, args):
        dy = robertson(t, y, args)
        return jnp.stack([dy[0], dy[1], y[0] + y[1] + y[2] - 1])

    case = cases_stiff.ROBERTSON
    sol = ok.solve(f, jnp.asarray(case.y0), 0.0, case.t1, ok.Rodas5P(mass=mass), rtol=1e-6, atol=1e-14)
    np.testing.assert_allclose(sol.y1, case.y1, rtol=1e-4)
    assert abs(float(jnp.sum(sol.y1)) - 1) < 1e-12


def test_a_regular_mass_is_its_inverse_times_the_field():
    mass = np.array([[2.0, 0.5], [0.3, 1.0]])
    inverse, y0 = jnp.asarray(np.linalg.inv(mass)), jnp.array([0.5, 1.5])

    def divided(t, y, args):
        return inverse @ cases.smooth(t, y, args)

    with_mass = ok.solve(cases.smooth, y0, 0.2, 1.7, ok.Rodas5P(mass=mass), n_steps=20).y1
    np.testing.assert_allclose(with_mass, ok.solve(divided, y0, 0.2, 1.7, ok.Rodas5P(), n_steps=20).y1, rtol=1e-12)


def heat(t, y, conductivity):
    """Diffusion with a source on a line: three diagonals, or one."""
    padded = jnp.pad(y, 1)
    return conductivity * (padded[2:] - 2 * y + padded[:-2]) + y * (1 - y)


def test_patterns_give_the_dense_solution():
    n, y0 = 12, jnp.sin(jnp.linspace(0.1, 3.0, 12))
    band = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= 1
    ring = band | (np.add.outer(np.arange(n), np.arange(n)) == n - 1)

    def end(conductivity, jacobian=None):
        return ok.solve(heat, y0, 0.0, 1.0, ok.Rosenbrock23(jacobian=jacobian), conductivity, n_steps=8).y1

    dense = end(150.0)
    for jacobian in ((1, 1), ring):
        np.testing.assert_allclose(end(150.0, jacobian), dense, rtol=1e-12)
    np.testing.assert_allclose(end(0.0, "diagonal"), end(0.0), rtol=1e-12)
    assert np.max(np.abs(end(0.0) - dense)) > 0.1


def test_the_jacobian_of_the_problem_is_used():
    y0, factor = jnp.array([0.5, 1.5]), jnp.asarray(1.1)

    def f(t, y, factor):
        return factor * cases.smooth(t, y, None)

    def end(problem, factor):
        return jnp.sum(ok.solve(problem, y0, 0.2, 1.7, ok.Rosenbrock23(), factor, n_steps=10).y1)

    own = ok.ODE(f, lambda t, y, factor: jax.jacfwd(lambda y: f(t, y, factor))(y))
    wrong = ok.ODE(f, lambda t, y, factor: jnp.zeros((2, 2)))
    plain, given = (jax.value_and_grad(lambda x, p=problem: end(p, x))(factor) for problem in (f, own))
    np.testing.assert_allclose(given, plain, rtol=1e-12)
    assert abs(float(end(wrong, factor) / plain[0] - 1)) > 1e-5


# Lanes, gradients, float32.

LANES = 66
RATES = np.array([0.04, 3e7, 1e4]) * np.exp(0.5 * np.random.default_rng(0).standard_normal((LANES, 3)))


@jax.jit
def robertson_lanes(rates):
    def one(rates):
        y0 = jnp.array([1.0, 0.0, 0.0])
        sol = ok.solve(robertson, y0, 0.0, 1e5, ok.Rodas5P(), rates, rtol=1e-6, atol=1e-12, max_steps=256, throw=False)
        return sol.y1, sol.result, sol.stats["accepted"]

    return jax.vmap(one)(rates)


def test_lanes_agree_with_single_solves_and_not_with_their_neighbours():
    y1, result, accepted = (np.asarray(x) for x in robertson_lanes(jnp.asarray(RATES)))
    assert not np.any(result)
    np.testing.assert_allclose(y1.sum(axis=1), 1, rtol=1e-12)
    alone = ok.solve(robertson, jnp.array([1.0, 0, 0]), 0.0, 1e5, ok.Rodas5P(), RATES[5], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(y1[5], alone.y1, rtol=1e-9)
    others = RATES.copy()
    others[1::2] *= [1e3, 1.0, 1e-2]
    others[3] = np.nan
    mixed = [np.asarray(x) for x in robertson_lanes(jnp.asarray(others))]
    np.testing.assert_array_equal(mixed[0][::2], y1[::2])
    np.testing.assert_array_equal(mixed[2][::2], accepted[::2])
    assert mixed[1][3] == ok.Result.NONFINITE


def forced(t, y, args):
    return jnp.stack([y[1], args[0] * (1 - y[0] ** 2) * y[1] - y[0] + args[1] * jnp.sin(t)])


def test_gradients_are_those_of_the_steps_taken():
    args, weights = jnp.array([30.0, 0.5]), jnp.array([1.0, 0.3])
    start, grid = jnp.array([2.0, 0.0]), jnp.diff(jnp.linspace(0.0, 1.0, 25) ** 2) * 2.0

    def adaptive(args, adjoint=None):
        return ok.solve(forced, start, 0.0, 2.0, ok.Rosenbrock23(), args, rtol=1e-4, adjoint=adjoint).y1 @ weights

    def frozen(args):
        return ok.solve(forced, start, 0.0, 2.0, ok.Rosenbrock23(), args, dt=grid).y1 @ weights

    forward = jax.jacfwd(lambda args: adaptive(args, ok.adjoint.Forward()))(args)
    np.testing.assert_allclose(jax.grad(adaptive)(args), forward, rtol=1e-12)
    frozen = jax.jit(jax.value_and_grad(frozen))
    _, gradient = frozen(args)
    for i, h in enumerate((1e-4, 1e-5)):
        step = h * jnp.eye(2)[i]
        difference = (frozen(args + step)[0] - frozen(args - step)[0]) / (2 * h)
        np.testing.assert_allclose(gradient[i], difference, rtol=1e-6)


def test_robertson_in_float32_reaches_its_end():
    y0, rates = jnp.array([1.0, 0.0, 0.0], jnp.float32), jnp.array([0.04, 3e7, 1e4], jnp.float32)
    sol = ok.solve(robertson, y0, 0.0, 1e8, ok.Rosenbrock23(), rates, rtol=1e-4, atol=1e-10)
    assert sol.y1.dtype == jnp.float32
    end = [2.08241751e-5, 8.32984143e-11, 0.999979176]  # float64, rtol 1e-10
    np.testing.assert_allclose(sol.y1, end, rtol=3e-3)  # a step rounds y1 + y2 + y3 = 1 to 6e-8: 0.3 % of y1
    assert int(sol.stats["accepted"]) < 600


def test_a_singular_matrix_of_the_step_is_a_rejection():
    """At the first length the elimination meets a zero pivot; the step is repeated with a quarter of it."""

    def f(t, y, args):
        return jnp.stack([y[0] / (0.25 * gamma), y[0] - y[1]])

    gamma = ok.Rodas5P().gamma
    sol = ok.solve(f, jnp.array([1.0, 1.0]), 0.0, 0.5, ok.Rodas5P(), dt0=0.25, rtol=1e-6, atol=1e-6)
    assert int(sol.stats["rejected"]) >= 1
    np.testing.assert_allclose(sol.y1[0], np.exp(0.5 / (0.25 * gamma)), rtol=1e-4)


def test_lengths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`a` has rows of lengths"):
        ok.Rosenbrock(a=((1.0,),), C=(), c=(0.0,), d=(1.0,), m=(1.0,), e=None, gamma=1.0)
    with pytest.raises(ValueError, match="`d` has 2 entries"):
        ok.Rosenbrock(a=(), C=(), c=(0.0,), d=(1.0, 0.0), m=(1.0,), e=None, gamma=1.0)
    with pytest.raises(ValueError, match="`mass` has shape"):
        ok.Rodas5P(mass=np.ones((2, 3)))


@pytest.mark.slow
def test_a_thousand_robertson_lanes():
    rates = np.array([0.04, 3e7, 1e4]) * np.exp(0.5 * np.random.default_rng(1).standard_normal((1024, 3)))
    y1, result, _ = robertson_lanes(jnp.asarray(rates))
    assert not np.any(result)
    np.testing.assert_allclose(np.sum(y1, axis=1), 1, rtol=1e-12)
