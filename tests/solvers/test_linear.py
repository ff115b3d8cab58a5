"""Linear systems of a step: straight-line and banded elimination against NumPy, their growth tests, patterns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odekit.solvers.banded import banded_solver
from odekit.solvers.jacobian import Band, Sparsity, greedy_colours, norm, pattern, products, step_solver, times_mass
from odekit.solvers.linear import dense_solver, inverse

RNG = np.random.default_rng(3)


def exact(a, b):
    """Solve lane by lane."""
    if a.ndim == 2:
        return np.linalg.solve(a, b)
    return np.stack([np.linalg.solve(a[..., k], b[..., k]) for k in range(a.shape[-1])], axis=-1)


def random_band(n, lower, upper, lanes):
    full = RNG.standard_normal((n, n, lanes))
    i, j = np.indices((n, n))
    full[(j - i > upper) | (i - j > lower)] = 0
    full[i == j] += 3 * np.sqrt(lower + upper + 1)
    band = np.zeros((lower + upper + 1, n, lanes))
    for k in range(lower + upper + 1):
        rows = [r for r in range(n) if 0 <= r + k - lower < n]
        band[k, rows] = full[rows, [r + k - lower for r in rows]]
    return full, jnp.asarray(band)


def both_ways(solver):
    """From a matrix, a right-hand side and a cotangent to the solution and the solution with the transpose."""

    def run(a, b, w):
        x, pull = jax.vjp(solver(a), b)
        return x, pull(w)[0]

    return jax.jit(run)


SMALL = [(1, False, ()), (3, False, (5,)), (4, True, ()), (4, True, (5,))]
LIBRARY = [(12, False, ()), (12, False, (1,)), (12, False, (5,))]


@pytest.mark.parametrize(("n", "pivot", "lanes"), SMALL + LIBRARY)
def test_dense_solver_and_its_transpose(n, pivot, lanes):
    a = RNG.standard_normal((n, n, *lanes))
    a += 4 * np.sqrt(n) * np.eye(n).reshape(n, n, *(1,) * len(lanes)) * (not pivot)
    b, w = RNG.standard_normal((2, n, *lanes))
    x, pulled = both_ways(lambda a: dense_solver(a, pivot))(a, b, w)
    np.testing.assert_allclose(x, exact(a, b), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(pulled, exact(np.swapaxes(a, 0, 1), w), rtol=1e-9, atol=1e-11)


def test_derivative_by_the_matrix():
    a, b = jnp.asarray(RNG.standard_normal((3, 3)) + 4 * np.eye(3)), jnp.asarray(RNG.standard_normal(3))
    gradient = jax.jit(jax.grad(lambda a: jnp.sum(dense_solver(a)(b))))(a)
    expected = -np.outer(np.linalg.solve(a.T, np.ones(3)), np.linalg.solve(a, b))
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_growth_spoils_its_own_lane_only(dtype):
    small = np.array([[np.finfo(dtype).eps / 8, 1], [1, 1]], dtype)  # needs an exchange of rows
    a, b = np.stack([np.eye(2, dtype=dtype), small], axis=-1), np.ones((2, 2), dtype)
    x, pivoted = (np.asarray(jax.jit(lambda a, b, p=p: dense_solver(a, p)(b))(a, b)) for p in (False, True))
    np.testing.assert_array_equal(x[:, 0], [1, 1])
    assert np.all(np.isnan(x[:, 1]))
    np.testing.assert_allclose(pivoted, exact(a, b), rtol=1e-6)


def test_rows_of_very_different_size_are_no_growth():
    a = np.diag([1e-12, 1.0, 1e12]) @ (np.eye(3) + 0.1 * RNG.standard_normal((3, 3)))
    b = np.array([1e-12, 1.0, 1e12])
    np.testing.assert_allclose(jax.jit(lambda a: dense_solver(a)(b))(a), np.linalg.solve(a, b), rtol=1e-10)


@pytest.mark.parametrize(("n", "lower", "upper"), [(1, 0, 0), (12, 2, 1), (13, 0, 3), (23, 6, 2)])
def test_banded_solver_and_its_transpose(n, lower, upper):
    full, band = random_band(n, lower, upper, lanes=3)
    b, w = RNG.standard_normal((2, n, 3))
    x, pulled = both_ways(lambda band: banded_solver(band, lower, upper))(band, b, w)
    np.testing.assert_allclose(x, exact(full, b), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(pulled, exact(np.swapaxes(full, 0, 1), w), rtol=1e-12, atol=1e-14)


def test_a_banded_system_that_loses_its_digits_is_flagged():
    band = RNG.uniform(0.5, 1.5, (3, 9, 2))
    band[1, :, 0] += 3
    band[1, :, 1] = 1e-13  # the blocks on the diagonal are nearly singular, the matrix is not
    x = np.asarray(jax.jit(lambda band: banded_solver(band, 1, 1)(jnp.ones((9, 2))))(band))
    assert np.all(np.isfinite(x[:, 0]))
    assert np.all(np.isnan(x[:, 1]))


def test_a_front_that_underflows_is_no_loss_of_digits():
    n = 250  # every row is a thousandth of the one before it: the last hundred are subnormal, then zero
    band = jnp.asarray(np.tile([[-1.0], [1000.0], [-1.0]], (1, n)))
    x = np.asarray(banded_solver(band, 1, 1)(jnp.zeros(n).at[0].set(1.0)))
    np.testing.assert_allclose(x[:50], 1e-3 ** np.arange(1, 51), rtol=1e-3)
    assert np.all(np.isfinite(x))
    assert x[-1] == 0


@pytest.mark.parametrize("n", [3, 10])
def test_inverse(n):
    a = RNG.standard_normal((n, n, 2, 3))
    product = np.einsum("ijab,jkab->ikab", a, jax.jit(inverse)(a))
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(n)[..., None, None], a.shape), atol=1e-10)


def test_greedy_colours_share_no_row():
    mask = RNG.random((40, 40)) < 0.06
    shape = pattern(mask)
    assert isinstance(shape, Sparsity)
    np.testing.assert_array_equal(shape.mask, mask)
    colours = greedy_colours(shape)
    assert colours.max() < 20
    for colour in range(colours.max() + 1):
        assert mask[:, colours == colour].sum(axis=1).max() <= 1


def test_patterns_say_what_they_mean():
    assert pattern(np.eye(5, dtype=bool)) == "diagonal"
    assert pattern(np.tri(40, 40, 1, bool) & ~np.tri(40, 40, -3, bool)) == Band(2, 1)
    assert pattern(jnp.ones((4, 4), bool)) == Sparsity(4, b"\xff\xff")
    for bad in ("dense", (1, -1), np.ones((3, 3)), np.ones((3, 4), bool)):
        with pytest.raises(ValueError, match="`jacobian` was"):
            pattern(bad)


@pytest.mark.parametrize(
    ("shape", "mass"), [("diagonal", "diagonal"), ((1, 2), "diagonal"), ((1, 2), None), ("coloured", None)]
)
def test_every_pattern_solves_the_dense_system(shape, mass):
    n, lanes = 9, 4
    full, _ = random_band(n, 1, 2, lanes)
    full = full * np.eye(n)[..., None] if shape == "diagonal" else full
    mask = np.any(full != 0, axis=-1)
    shape = pattern(shape if shape != "coloured" else mask)
    mass = None if mass is None else jnp.asarray(RNG.random((n, 1)) + 1)
    v, b = jnp.asarray(RNG.standard_normal((2, n, lanes)))
    dt = jnp.linspace(0.1, 0.4, lanes)

    def push(x):
        return jnp.sum(full * x[None], axis=1)

    @jax.jit
    def solutions(b):
        columns, dense = products(shape, push, v), products(None, push, v)
        x, full = (step_solver(*of, dt, 0.25, mass, False)(b) for of in ((shape, columns), (None, dense)))
        return columns, x, full, times_mass(mass, x) / 0.25 - dt[None] * push(x)

    columns, x, expected, back = solutions(b)
    np.testing.assert_allclose(norm(columns), np.abs(full).sum(axis=1).max(axis=0), rtol=1e-14)
    assert columns.shape[0] <= 4
    np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(back, b, rtol=1e-10, atol=1e-10)


def test_a_mass_matrix_needs_a_dense_pattern():
    with pytest.raises(ValueError, match="`mass` is a matrix beside a diagonal `jacobian`"):
        step_solver("diagonal", jnp.ones((1, 3)), jnp.ones(()), 0.5, jnp.eye(3), False)
    with pytest.raises(ValueError, match="is for 5 unknowns, the state has 3"):
        products(Sparsity(5, bytes(4)), lambda x: x, jnp.ones(3))
