import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odekit.schedules import EDM, FlowMatching, VPCosine, VPLinear, from_betas

BETAS = np.linspace(1e-4, 0.02, 1000)
SCHEDULES = {
    "linear": VPLinear(),
    "cosine": VPCosine(),
    "edm": EDM(),
    "flow": FlowMatching(),
    "discrete": from_betas(BETAS),
}
VP = ("linear", "cosine", "discrete")
every = pytest.mark.parametrize("name", SCHEDULES)


def inner_times(schedule, n=41):
    """Times in (t_start, t_end), none of them on a knot of the discrete schedule."""
    u = (np.arange(n) + 0.37) / n
    return schedule.t_start + u * (schedule.t_end - schedule.t_start)


@pytest.mark.parametrize("name", VP)
def test_variance_is_preserved(name):
    s = SCHEDULES[name]
    t = inner_times(s)
    np.testing.assert_allclose(s.alpha(t) ** 2 + s.sigma(t) ** 2, 1.0, rtol=1e-14)


def test_formulas():
    t = np.array([0.1, 0.5, 0.9])
    log_alpha = -(20.0 - 0.1) * t**2 / 4 - 0.1 * t / 2
    np.testing.assert_allclose(VPLinear().alpha(t), np.exp(log_alpha), rtol=1e-14)
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)
    np.testing.assert_allclose(VPCosine().alpha(t), f, rtol=1e-13)
    np.testing.assert_array_equal(EDM().sigma(t), t)
    np.testing.assert_array_equal(EDM().alpha(t), 1.0)
    np.testing.assert_array_equal(FlowMatching().alpha(t), 1 - t)
    np.testing.assert_array_equal(FlowMatching().sigma(t), t)


def test_published_ends_of_the_linear_schedule():
    np.testing.assert_allclose(VPLinear().lam(np.array([1.0, 1e-3])), [-5.0250, 4.5577], atol=5e-5)


def test_a_rate_that_does_not_grow():
    t, constant = np.array([0.01, 1.0, 10.0]), VPLinear(beta_min=1.0, beta_max=1.0)
    np.testing.assert_allclose(constant.alpha(t), np.exp(-t / 2), rtol=1e-15)
    np.testing.assert_allclose(constant.t_of_lam(constant.lam(t)), t, rtol=1e-13)
    np.testing.assert_allclose(constant.lam(t), -0.5 * np.log(np.expm1(t)), rtol=1e-13)


def test_discrete_schedule_passes_through_its_points():
    alphas = np.sqrt(np.cumprod(1 - BETAS))
    t = np.arange(1, 1001) / 1000
    np.testing.assert_allclose(SCHEDULES["discrete"].alpha(t), alphas, rtol=1e-12)
    between = 0.5 * (t[1:] + t[:-1])
    np.testing.assert_allclose(SCHEDULES["discrete"].alpha(between), np.sqrt(alphas[1:] * alphas[:-1]), rtol=1e-12)


@every
def test_lam_is_log_alpha_over_sigma_and_grows_towards_data(name):
    s = SCHEDULES[name]
    t = inner_times(s)
    np.testing.assert_allclose(s.lam(t), np.log(s.alpha(t) / s.sigma(t)), rtol=1e-12, atol=1e-13)
    assert np.all(np.diff(s.lam(t)) > 0)


@every
def test_t_of_lam_inverts_lam(name):
    s = SCHEDULES[name]
    t = inner_times(s)
    np.testing.assert_allclose(s.t_of_lam(s.lam(t)), t, rtol=1e-12)
    t32 = jnp.asarray(t, jnp.float32)
    np.testing.assert_allclose(s.t_of_lam(s.lam(t32)), t, rtol=2e-5)


@every
def test_derivatives(name):
    s = SCHEDULES[name]
    t = jnp.asarray(inner_times(s))
    np.testing.assert_allclose(s.alpha_dot(t), jax.vmap(jax.grad(s.alpha))(t), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(s.sigma_dot(t), jax.vmap(jax.grad(s.sigma))(t), rtol=1e-11, atol=1e-13)


@every
def test_numpy_and_jax_agree_in_both_precisions(name):
    s = SCHEDULES[name]
    t = inner_times(s)
    for quantity in ("alpha", "sigma", "lam", "alpha_dot", "sigma_dot"):
        want = getattr(s, quantity)(t)
        assert isinstance(want, np.ndarray)
        np.testing.assert_allclose(getattr(s, quantity)(jnp.asarray(t)), want, rtol=1e-12, atol=1e-14)
        single = getattr(s, quantity)(jnp.asarray(t, jnp.float32))
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_little_noise_has_full_relative_accuracy_in_float32(name):
    s = SCHEDULES[name]
    t = np.array([1e-5, 1e-4, 1e-3])
    np.testing.assert_allclose(s.sigma(jnp.asarray(t, jnp.float32)), s.sigma(t), rtol=1e-6)


@every
def test_ends_are_infinite_without_a_warning(name):
    s = SCHEDULES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert s.lam(0.0) == np.inf
        assert s.sigma(0.0) == 0
    assert np.isneginf(FlowMatching().lam(1.0))


@pytest.mark.parametrize("betas", [[], [0.1, 1.0], [[0.1]], [-0.1, 0.2]])
def test_bad_betas(betas):
    with pytest.raises(ValueError, match="`betas`"):
        from_betas(betas)
