"""The whole chain once with real random numbers: keys of every sample, loop, table, a model that is not linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import VP, mixture

from odekit.samplers import ddpm, dpmpp, edm, sample, seeds, time_grid

TABLES = {
    "noise before row 0": lambda ts: ddpm(VP, ts, midpoint_noise=True),
    "one row a step": lambda ts: dpmpp(VP, ts, 2, tau=1.0),
    "three rows a step": lambda ts: seeds(VP, ts, 3),
    "noise between steps": lambda ts: edm(VP, ts, churn=10.0, churn_max=20.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_moments_of_the_mixture(name):
    """Mean and covariance of 40,000 samples, within five standard errors of the exact ones."""
    n, weights = 40_000, np.array([0.3, 0.5, 0.2])
    means, stds = np.array([[-1.2, -0.5], [1.0, 0.3], [0.1, 1.4]]), np.array([0.30, 0.40, 0.25])
    mean = weights @ means
    covariance = np.einsum("k,ki,kj->ij", weights, means - mean, means - mean) + weights @ stds**2 * np.eye(2)

    table = TABLES[name](time_grid(VP, 60 if name != "noise before row 0" else 400, "logsnr"))
    start, keys = jax.random.normal(jax.random.key(5), (n, 2)), jax.random.split(jax.random.key(6), n)
    x = np.asarray(sample(mixture(VP), table, start, key=keys))
    assert np.all(abs(x.mean(0) - mean) < 5 * np.sqrt(np.diag(covariance) / n))
    products = np.einsum("ni,nj->nij", x - mean, x - mean)
    assert np.all(abs(products.mean(0) - covariance) < 5 * products.std(0) / np.sqrt(n))
    few = sample(mixture(VP), table, start[:5], key=keys[:5])
    np.testing.assert_allclose(few, x[:5], rtol=1e-9, atol=1e-9)


def test_noise_of_two_rows_is_independent():
    """And so is that before row 0: a slip in counting keys would double a variance."""
    table, x = ddpm(VP, time_grid(VP, 3), midpoint_noise=True), jnp.zeros((20_000, 1))

    class Nothing:
        def noise(self, x, t, cond=None):
            return jnp.zeros_like(x)

    got = sample(Nothing(), table, x, key=jax.random.key(8))
    kept = np.append(1.0, np.cumprod(np.asarray(table.states)[::-1, 0, 0]))[::-1]
    parts = np.append(float(table.start_noise), np.asarray(table.noise)[:, 0])
    np.testing.assert_allclose(jnp.std(got), np.linalg.norm(kept * parts), rtol=5 / np.sqrt(2 * 20_000))
