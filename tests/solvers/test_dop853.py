"""DOP853 where it differs from other tableaus: two error estimates in one, an interpolant with stages of its own."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import odekit as ok
from odekit.control import Damped, error_square

RNG = np.random.default_rng(0)


def test_two_estimates_count_as_published():
    err, low, y0, y1 = RNG.normal(size=(4, 5, 3))
    scale = 1e-3 + 1e-2 * np.maximum(abs(y0), abs(y1))
    n5, n3 = (np.sum((e / scale) ** 2, axis=0) for e in (err, low))
    published = n5 / np.sqrt((n5 + 0.01 * n3) * 5)
    square = error_square(Damped(*map(jnp.asarray, (err, low))), jnp.asarray(y0), jnp.asarray(y1), 1e-2, 1e-3)
    np.testing.assert_allclose(jnp.sqrt(square), published, rtol=1e-14)


@pytest.mark.parametrize(
    ("err", "low", "expected"),
    [(0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (jnp.nan, 1.0, jnp.nan), (1.0, jnp.nan, jnp.nan), (1e30, 1e30, jnp.inf)],
)
def test_estimates_that_vanish_or_are_no_numbers(err, low, expected):
    one = jnp.ones((1, 1), jnp.float32)
    square = error_square(Damped(err * one, low * one), one, one, 0.0, 1.0)
    np.testing.assert_array_equal(square, np.float32([expected]) if expected != jnp.inf else square)
    assert not square <= 1 or expected == 0


def lorenz(tol, **kwargs):
    return ok.solve(cases.lorenz, jnp.asarray(cases.LORENZ.y0), 0.0, 20.0, ok.DOP853(), rtol=tol, atol=tol, **kwargs)


def test_steps_and_error_on_lorenz():
    sol = lorenz(1e-8)
    assert 470 <= sol.stats["accepted"] + sol.stats["rejected"] <= 570
    assert np.max(np.abs(sol.y1 - cases.LORENZ.y1)) < 2e-3  # 1e-4 of the largest component


def test_dense_output_is_scipys():
    start, dt, theta = np.array([0.5, 3.0]), 0.8, np.linspace(0.0, 1.0, 9)
    other = integrate.DOP853(
        lambda t, y: np.cos(t) * np.array([-(y[0] ** 2), y[0] * y[1]]), 0.2, start, 1.0, first_step=dt, rtol=1, atol=1
    )
    other.step()
    ts = jnp.asarray(0.2 + dt * theta)
    sol = ok.solve(cases.smooth, jnp.asarray(start), 0.2, 1.0, ok.DOP853(), n_steps=1, saveat=ts)
    assert other.t == 1.0
    np.testing.assert_allclose(sol.ys, other.dense_output()(ts).T, rtol=1e-13)


def test_lanes_are_single_solves():
    starts = jnp.array([[1.0, 0.0, 0.0], [0.5, 1.0, 20.0]])
    solve = lambda y0: ok.solve(cases.lorenz, y0, 0.0, 2.0, ok.DOP853(), rtol=1e-9, atol=1e-9).y1  # noqa: E731
    together = jax.vmap(solve)(starts)
    for start, end in zip(starts, together, strict=True):
        np.testing.assert_allclose(end, solve(start), rtol=1e-11)


def test_gradient_by_differences():
    def end(s):
        y0 = s * jnp.array([1.0, 1.0])
        return ok.solve(cases.lotka_volterra, y0, 0.0, 2.0, ok.DOP853(), rtol=1e-11, atol=1e-11, max_steps=64).y1[0]

    exact = (end(jnp.array(1 + 1e-5)) - end(jnp.array(1 - 1e-5))) / 2e-5
    np.testing.assert_allclose(jax.grad(end)(jnp.array(1.0)), exact, rtol=1e-7)
