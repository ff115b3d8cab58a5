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


def test_exact_trace_and_its_gradient_the_score():
    """To 1e-5, by any method; a flow at t=1 is pure noise."""
    model, prior = mixture(FM), lambda z: jnp.sum(jax.scipy.stats.norm.logpdf(z), axis=1)

    def total(x):
        logs = ok.log_prob(model, x, prior=prior, method=ok.Bosh3(), **CLOSE)
        return jnp.sum(logs), logs

    (_, logs), slope = jax.value_and_grad(total, has_aux=True)(X)
    np.testing.assert_allclose(logs, density(model, X, 0.0), atol=1e-5)
    np.testing.assert_allclose(slope, model.score(X, 0.0), atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [VP, VE])
def test_noise_that_is_not_quite_pure(schedule):
    """Taken for pure it gives the density of what samplers make of normals of deviation sigma."""
    model = mixture(schedule)
    want = density(model, X, schedule.t_end)
    exact = ok.log_prob(model, X, prior=lambda x: density(model, x, schedule.t_start), **CLOSE)
    np.testing.assert_allclose(exact, want, atol=1e-5)
    off = np.abs(ok.log_prob(model, X, **CLOSE) - want)
    assert 1e-4 < off.max() < 2e-2


def test_hutchinson_is_unbiased():
    x, want = jnp.broadcast_to(X[2], (250, 2)), density(mixture(FM), X[2:3], 0.0)[0]
    draws = np.asarray(ok.log_prob(mixture(FM), x, key=jax.random.key(2), method=ok.Bosh3(), rtol=1e-3))
    assert draws.std() > 1e-2
    assert abs(draws.mean() - want) < 4 * draws.std() / np.sqrt(250)


@pytest.mark.slow
def test_more_probes_spread_less():
    x = jnp.broadcast_to(X[2], (400, 2))
    one, many = (ok.log_prob(mixture(FM), x, key=jax.random.split(jax.random.key(3), 400), probes=n) for n in (1, 16))
    np.testing.assert_allclose(np.std(many), np.std(one) / 4, rtol=0.3)


@pytest.mark.slow
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
