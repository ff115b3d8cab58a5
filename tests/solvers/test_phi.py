"""phi functions against 40 digits, in every direction, in both precisions, with derivatives."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from odekit.solvers.phi import phi

MAGNITUDES = np.concatenate([np.logspace(-10, np.log10(50), 40), np.linspace(0.8, 4, 33)])
DIRECTIONS = {
    "negative": -1.0,
    "positive": 1.0,
    "imaginary": 1j,
    "mixed": np.exp(2.3j),
    "on a contour node": -np.exp(1j * np.pi / 32),  # where the mean over 32 points of a circle divides by zero
}


def exact(k, z):
    """phi_k(z) to 40 digits; the recursion loses at most 40 of its 90."""
    if z == 0:
        return mpmath.mpc(1) / mpmath.factorial(k)
    with mpmath.workdps(90):
        z = mpmath.mpc(complex(z))
        return (mpmath.exp(z) - sum(z**j / mpmath.factorial(j) for j in range(k))) / z**k


def worst(values, k, z):
    """Largest relative error; phi_1 vanishes at multiples of 2 pi i, so it is measured against 1 / (1 + |z|) there."""
    reference = np.array([complex(exact(k, x)) for x in z])
    size = np.abs(reference) if k != 1 else np.maximum(np.abs(reference), 1 / (1 + np.abs(z)))
    return np.max(np.abs(np.asarray(values, complex) - reference) / size)


@pytest.mark.parametrize("k", range(5))
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_double_precision(k, direction):
    z = MAGNITUDES * DIRECTIONS[direction]
    on_host, traced = phi(k, z), jax.jit(lambda z: phi(k, z))(z)
    assert isinstance(on_host, np.ndarray)
    assert on_host.dtype == traced.dtype == z.dtype
    assert worst(on_host, k, z) < 2e-15
    assert worst(traced, k, z) < 2e-15


@pytest.mark.parametrize("k", range(1, 5))
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_single_precision(k, direction):
    z = jnp.asarray(MAGNITUDES * DIRECTIONS[direction])
    z = z.astype(jnp.complex64 if jnp.iscomplexobj(z) else jnp.float32)
    values = jax.jit(lambda z: phi(k, z))(z)
    assert values.dtype == z.dtype
    assert worst(values, k, np.asarray(z)) < 1e-6


@pytest.mark.parametrize("k", range(5))
def test_at_zero_and_far_out(k):
    np.testing.assert_allclose(phi(k, np.array([0.0, -0.0])), 1 / float(mpmath.factorial(k)), rtol=1e-16)
    far = [float(exact(k, z).real) for z in (-1e6, -1e12)]
    np.testing.assert_allclose(phi(k, np.array([-1e6, -1e12])), far, rtol=1e-15)


@pytest.mark.parametrize("k", range(5))
@pytest.mark.parametrize("direction", ["negative", "positive", "imaginary", "mixed"])
def test_derivative(k, direction):
    """phi_k' = phi_k - k phi_{k+1}, from the recursion."""
    z = jnp.asarray(np.array([0.0, 1e-8, 0.3, 1.9, 2.1, 7.0, 30.0]) * DIRECTIONS[direction])
    grad = jax.grad(lambda x: phi(k, x), holomorphic=jnp.iscomplexobj(z))
    expected = [complex(exact(k, x) - k * exact(k + 1, x)) for x in np.asarray(z)]
    np.testing.assert_allclose(jax.vmap(grad)(z), expected, rtol=1e-13, atol=1e-15)


def test_second_derivative_is_finite_at_zero():
    second = jax.grad(jax.grad(lambda x: phi(2, x)))
    np.testing.assert_allclose(second(0.0), 2 / 24, rtol=1e-15)
    assert np.isfinite(second(-1e5))


def test_recursion_identity():
    z = np.linspace(-6, 6, 41)
    for k in range(4):
        np.testing.assert_allclose(z * phi(k + 1, z) + 1 / float(mpmath.factorial(k)), phi(k, z), rtol=0, atol=1e-13)


def test_negative_index_is_refused():
    with pytest.raises(ValueError, match="`k` was -1"):
        phi(-1, np.array(1.0))
