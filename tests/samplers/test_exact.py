import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import ENDS, FM, VE, VP, ends, mixture, starts

from odekit.samplers import GaussianMixture, gaussian

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
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))

    def log_density(x):
        variance = alpha**2 * model.stds[:, 0] ** 2 + sigma**2
        distance = jnp.sum((x[None] - alpha * model.means) ** 2, axis=-1)
        return jax.nn.logsumexp(jnp.log(model.weights) - jnp.log(variance) - 0.5 * distance / variance)

    x = jnp.asarray(starts(case))
    np.testing.assert_allclose(model.score(x, t), jax.vmap(jax.grad(log_density))(x), rtol=1e-10, atol=1e-12)


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
