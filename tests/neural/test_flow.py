"""Flow matching: the loss has its known minimum, and a trained model brings noise to data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odekit import samplers
from odekit.learn import references
from odekit.neural import FlowMatching, VelocityMLP, frechet_distance, train
from odekit.schedules import FlowMatching as Straight

MEAN, STD = jnp.array([1.0, -0.5]), 0.4


class Exact(eqx.Module):
    """The velocity of Gaussian data, times a factor that should be 1."""

    factor: jax.Array

    def __call__(self, x, t):
        return self.factor * samplers.gaussian(MEAN, STD, Straight()).velocity(x, t)


def gaussian_data(seed, n):
    return MEAN[None] + STD * jax.random.normal(jax.random.key(seed), (n, 2))


def test_the_loss_is_least_at_the_exact_velocity_and_has_its_known_floor():
    data = gaussian_data(0, 40_000)
    value, slope = jax.value_and_grad(lambda f: FlowMatching(Exact(f)).loss(data, jax.random.key(1)))(jnp.ones(()))
    # E Var[noise - data | x_t] per coordinate = int std^2 / ((1-t)^2 std^2 + t^2) dt = pi std / 2
    np.testing.assert_allclose(value, np.pi * STD / 2, rtol=0.01)
    np.testing.assert_allclose(slope, 0, atol=0.03)
    assert FlowMatching(Exact(jnp.array(0.8))).loss(data, jax.random.key(1)) > value + 0.02


def test_one_time_or_one_for_every_sample():
    flow = FlowMatching(VelocityMLP(2, 8, key=jax.random.key(0)))
    x, t = gaussian_data(0, 3), jnp.array([0.1, 0.5, 0.9])
    each = flow(x, t)
    for i in range(3):
        np.testing.assert_allclose(each[i], flow(x, t[i])[i], rtol=1e-12)


def test_times_are_spread_evenly():
    seen = []

    class Spy(eqx.Module):
        def __call__(self, x, t):
            jax.debug.callback(lambda t: seen.append(float(t)), t)
            return x

    FlowMatching(Spy()).loss(gaussian_data(0, 10), jax.random.key(3))
    np.testing.assert_allclose(np.diff(np.sort(seen)), 0.1, rtol=1e-9)


@pytest.mark.slow
def test_the_denoiser_samples_what_the_flow_learned():
    data = gaussian_data(0, 2048)
    flow = FlowMatching(VelocityMLP(2, 32, key=jax.random.key(0)))
    trained, history = train(flow, data, key=jax.random.key(1), steps=600, rate=3e-3, ema=0.98, every=300)
    assert history.loss[-50:].mean() < 1.1 * np.pi * STD / 2
    noise = jax.random.normal(jax.random.key(2), (2048, 2))
    ends = references(trained.as_denoiser(), noise, steps=20)
    assert frechet_distance(ends, data) < 0.01
    assert frechet_distance(noise, data) > 1.5


def test_frechet_distance_of_gaussians_is_known():
    rng = np.random.default_rng(0)
    one = rng.standard_normal((500, 3))
    one = (one - one.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(one, rowvar=False, bias=True))).T
    two = one * [2.0, 3.0, 0.0] + [1.0, 0.0, 2.0]
    np.testing.assert_allclose(frechet_distance(one, two), 1 + 4 + 1 + 4 + 1, rtol=1e-6)
    np.testing.assert_allclose(frechet_distance(one, one), 0, atol=1e-9)


def test_data_that_do_not_fit_are_refused():
    flow = FlowMatching(VelocityMLP(2, 8, key=jax.random.key(0)))
    with pytest.raises(ValueError, match="`batch` is 256 but there are 10 samples"):
        train(flow, gaussian_data(0, 10), key=jax.random.key(1), steps=2)
