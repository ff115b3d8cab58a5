import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import ENDS, FM, VE, VP, ends, mixture, starts
from scipy.stats import norm

from odekit.samplers import Empirical, GaussianMixture, gaussian

PUBLISHED = {  # first end point, sum of all coordinates
    "VP": ((-1.175407977410919, -0.8319217605310679), 20.95489198901),
    "FM": ((-1.1749079972681, -0.8310763295470), 21.29009296042),
    "VE": ((-1.1759720126411, -0.8323555883693), 20.72922622973),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_end_points_of_the_flow(case):
    first, total = PUBLISHED[case]
    np.testing.assert_allclose(ends(case)[0], first, atol=2e-11)
    np.testing.assert_allclose(ends(case).sum(), total, atol=2e-10)


@pytest.mark.parametrize("case", ENDS)
def test_the_score_is_the_gradient_of_the_log_density(case):
    schedule, t0, t1 = ENDS[case]
    t, model = 0.3 * t0 + 0.7 * t1, mixture(schedule)
    x = jnp.asarray(starts(case))
    score = jax.jit(jax.vmap(jax.grad(lambda x: model.log_prob(x, t))))(x)
    np.testing.assert_allclose(model.score(x, t), score, rtol=1e-10, atol=1e-12)


def test_the_log_density_is_that_of_a_mixture():
    model, x, times = mixture(VP), starts()[:5], np.linspace(0.1, 0.9, 5)
    want = []
    for one, t in zip(x, times, strict=True):
        std = np.sqrt(VP.alpha(t) ** 2 * np.asarray(model.stds) ** 2 + VP.sigma(t) ** 2)
        parts = norm.pdf(one, VP.alpha(t) * np.asarray(model.means), std).prod(axis=1)
        want.append(np.log(np.sum(np.asarray(model.weights) * parts)))
    np.testing.assert_allclose(model.log_prob(jnp.asarray(x), times), want, rtol=1e-12)


SAMPLES = np.random.RandomState(0).standard_normal((7, 2, 3))


@pytest.mark.parametrize(("schedule", "t"), [(VP, 0.4), (VE, 2.0)])
def test_a_data_set_is_a_mixture_of_its_points(schedule, t):
    points = GaussianMixture(np.full(7, 1 / 7), SAMPLES.reshape(7, 6), np.full(7, 1e-9), schedule)
    model, x = Empirical(SAMPLES, schedule), jnp.asarray(np.random.RandomState(1).standard_normal((5, 2, 3)))

    @jax.jit
    def answers(model, x):
        views = [getattr(model, view)(x, t) for view in ("data", "noise", "velocity", "score")]
        return [*(view.reshape(5, 6) for view in views), model.log_prob(x, t)]

    for got, want in zip(answers(model, x), answers(points, x.reshape(5, 6)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    times = jnp.linspace(0.5, 1.0, 5) * t
    each = jax.vmap(model.data)(x, times)
    np.testing.assert_allclose(model.data(x, times), each, rtol=1e-12)


def test_a_data_set_in_float32_with_little_noise():
    """Images of 3072 pixels: expanded squares would be off by whole nats."""
    samples = np.random.RandomState(2).standard_normal((4, 3072))
    samples[1] = samples[0] + 1e-3 * np.random.RandomState(3).standard_normal(3072)
    model, x = Empirical(samples, VE), samples[0] + 0.5 * (samples[1] - samples[0]) + 1e-4
    want = model.data(jnp.asarray(x), 0.02)
    got = model.data(jnp.asarray(x, jnp.float32), 0.02)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=2e-6)
    np.testing.assert_allclose(model.data(jnp.asarray(samples[2] + 0.01), 0.0), samples[2], rtol=1e-15)


@pytest.mark.parametrize(("schedule", "t"), [(VP, 0.4), (FM, 0.7), (VE, 2.0)])
def test_views_are_consistent(schedule, t):
    model, x = mixture(schedule), jnp.asarray(starts())
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    data, noise = model.data(x, t), model.noise(x, t)
    np.testing.assert_allclose(alpha * data + sigma * noise, x, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(-sigma * model.score(x, t), noise, rtol=1e-12)
    velocity = float(schedule.alpha_dot(t)) * data + float(schedule.sigma_dot(t)) * noise
    np.testing.assert_allclose(model.velocity(x, t), velocity, rtol=1e-12)


def test_gaussian_data_prediction_is_affine():
    mean, std = np.array([0.5, -1.0]), np.array([0.25, 2.0])
    x, t = jnp.asarray(starts()[:3]), 0.3
    alpha, sigma = VP.alpha(t), VP.sigma(t)
    want = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (np.asarray(x) - alpha * mean)
    np.testing.assert_allclose(gaussian(mean, std, VP).data(x, t), want, rtol=1e-13)


def test_shapes_must_fit():
    with pytest.raises(ValueError, match="`weights`, `means`, `stds`"):
        GaussianMixture([0.5, 0.5], [[0.0], [1.0]], [0.1], VP)


def test_a_data_set_needs_samples():
    with pytest.raises(ValueError, match="`samples`"):
        Empirical(np.zeros(3), VP)
