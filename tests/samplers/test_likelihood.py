"""The density along the flow against the density of a mixture, which is known at every time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, ends, mixture

import odekit as ok
from odekit.samplers import Denoiser

X = jnp.asarray(ends("FM"))[:6]
CLOSE = {"rtol": 1e-7, "atol": 1e-7}


def density(model, x, t):
    """(n,) logarithms, from the weights, means and deviations of the mixture."""
    alpha, sigma = model.schedule.alpha(t), model.schedule.sigma(t)
    variance = (alpha * model.stds) ** 2 + sigma**2
    off = (x[:, None, :] - alpha * model.means[None]) ** 2 / variance[None]
    parts = jnp.log(model.weights)[None] - 0.5 * jnp.sum(off + jnp.log(2 * jnp.pi * variance)[None], axis=-1)
    return jax.nn.logsumexp(parts, axis=1)


@pytest.mark.parametrize("schedule", [FM, VP, VE])
def test_exact_trace(schedule):
    model = mixture(schedule)
    prior = None if schedule is FM else lambda x: density(model, x, schedule.t_start)  # pure noise in flows alone
    got = ok.log_prob(model, X, prior=prior, **CLOSE)
    np.testing.assert_allclose(got, density(model, X, schedule.t_end), atol=1e-5)


def test_noise_that_is_not_quite_pure_is_taken_for_it():
    """The density of what samplers make of normals of deviation sigma: close to that of the data, not the same."""
    off = np.abs(ok.log_prob(mixture(VP), X, **CLOSE) - density(mixture(VP), X, 1e-3))
    assert 1e-4 < off.max() < 2e-2


def test_the_gradient_is_the_score():
    slope = jax.grad(lambda x: jnp.sum(ok.log_prob(mixture(FM), x, **CLOSE)))(X)
    np.testing.assert_allclose(slope, mixture(FM).score(X, 0.0), atol=2e-5)


def test_hutchinson_is_unbiased():
    model, want = mixture(FM), density(mixture(FM), X[2:3], 0.0)[0]
    x = jnp.broadcast_to(X[2], (400, 2))
    draws = np.asarray(ok.log_prob(model, x, key=jax.random.key(2)))
    assert draws.std() > 1e-2
    assert abs(draws.mean() - want) < 4 * draws.std() / 20
    many = np.asarray(ok.log_prob(model, x, key=jax.random.split(jax.random.key(3), 400), probes=16))
    np.testing.assert_allclose(many.std(), draws.std() / 4, rtol=0.3)


def test_states_of_any_structure_and_precision():
    """Independent halves of a state have densities that add up."""

    def fn(x, t, cond):
        return jax.tree.map(lambda leaf: jnp.tanh(leaf) * t.astype(leaf.dtype), x)

    model = Denoiser(fn, FM, "velocity")
    x = {"a": jnp.asarray(X[:2], jnp.float32), "b": jnp.asarray(X[2:4, :1], jnp.float32)}
    whole = ok.log_prob(model, x)
    assert whole.dtype == jnp.float32
    np.testing.assert_allclose(whole, ok.log_prob(model, x["a"]) + ok.log_prob(model, x["b"]), atol=1e-4)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="`probes` is 0"):
        ok.log_prob(mixture(FM), X, key=jax.random.key(0), probes=0)
