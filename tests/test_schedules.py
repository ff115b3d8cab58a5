import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odekit.schedules import (
    EDM,
    VE,
    Bridge,
    FlowMatching,
    Interpolant,
    KineticOptimal,
    SubVP,
    VPCosine,
    VPLinear,
    betas,
    from_betas,
    zero_terminal_snr,
)

BETAS = np.linspace(1e-4, 0.02, 1000)
SCHEDULES = {
    "linear": VPLinear(),
    "cosine": VPCosine(),
    "sub": SubVP(),
    "edm": EDM(),
    "ve": VE(),
    "flow": FlowMatching(),
    "flow up": FlowMatching(data_at=1),
    "kinetic": KineticOptimal(0.4),
    "circle up": KineticOptimal(0.0, data_at=1),
    "interpolant": Interpolant.trigonometric().one_sided(),
    "discrete": from_betas(BETAS),
    "zero snr": from_betas(zero_terminal_snr(betas("scaled_linear"))),
    "bridge": Bridge(VPLinear(beta_max=2.0)),
}
VP = ("linear", "cosine", "discrete", "zero snr", "circle up")
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

    @jax.jit
    def both(t):
        slopes = jax.vmap(jax.grad(s.alpha))(t), jax.vmap(jax.grad(s.sigma))(t)
        return (s.alpha_dot(t), s.sigma_dot(t)), slopes

    for got, want in zip(*both(jnp.asarray(inner_times(s))), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)


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
        clean = s.t_of_lam(np.array(np.inf))
        if name == "ve":
            assert np.isneginf(clean)
        else:
            assert s.lam(clean) == np.inf
            assert s.sigma(clean) == 0
            assert clean == (1.0 if s.t_end > s.t_start else 0.0)
    pure = {"flow": 1.0, "flow up": 0.0, "kinetic": 1.0, "circle up": 0.0, "interpolant": 0.0, "zero snr": 1.0}
    if name in pure:
        assert np.isneginf(s.lam(pure[name]))
        assert s.t_of_lam(np.array(-np.inf)) == pure[name]


@pytest.mark.parametrize("rates", [[], [0.1, 1.1], [1.0, 0.1], [[0.1]], [-0.1, 0.2]])
def test_bad_betas(rates):
    with pytest.raises(ValueError, match="`betas`"):
        from_betas(rates)


def test_published_betas():
    np.testing.assert_allclose(betas("linear"), BETAS, rtol=1e-15)
    np.testing.assert_allclose(betas("scaled_linear"), np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, rtol=1e-15)
    cosine = from_betas(betas("cosine"))
    t = np.arange(1, 999) / 1000  # the last rate is cut off at 0.999
    np.testing.assert_allclose(cosine.alpha(t), VPCosine().alpha(t), rtol=1e-11)
    assert betas("cosine")[-1] == 0.999
    for call in (lambda: betas("cosine", start=0.1), lambda: betas("sigmoid")):
        with pytest.raises(ValueError, match=r"`start`|`kind`"):
            call()


def test_a_terminal_point_without_data():
    s = SCHEDULES["zero snr"]
    alpha = np.sqrt(np.cumprod(1 - betas("scaled_linear")))
    want = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    np.testing.assert_allclose(s.alpha(np.arange(1, 1001) / 1000), want, rtol=1e-11, atol=1e-16)
    names = ("alpha", "sigma", "sigma_dot", "alpha_dot")
    for t in (np.array(1.0), jnp.array(1.0, jnp.float32)):
        *rest, alpha_dot = jax.jit(lambda t: [getattr(s, name)(t) for name in names])(t)
        assert rest == [0, 1, 0]
        assert np.isfinite(alpha_dot)


def test_special_cases_are_each_other():
    """Straight and circular paths have several names, and run in two directions."""
    t = np.linspace(0.03, 0.97, 13)
    circle = KineticOptimal(0.0)
    np.testing.assert_allclose(circle.alpha(t), np.cos(np.pi * t / 2), rtol=1e-14)
    np.testing.assert_allclose(circle.sigma(t), np.sin(np.pi * t / 2), rtol=1e-14)
    same = (
        (FlowMatching(), KineticOptimal(1.0)),
        (FlowMatching(data_at=1), Interpolant.linear().one_sided()),
        (KineticOptimal(0.0, data_at=1), Interpolant.trigonometric().one_sided()),
    )
    for one, other in same:
        assert (one.t_start, one.t_end) == (other.t_start, other.t_end)
        for quantity in ("alpha", "sigma", "lam", "alpha_dot", "sigma_dot"):
            a, b = getattr(one, quantity)(t), getattr(other, quantity)(t)
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)
    for down, up in ((FlowMatching(), FlowMatching(data_at=1)), (KineticOptimal(0.3), KineticOptimal(0.3, data_at=1))):
        for quantity, sign in (("alpha", 1), ("sigma", 1), ("lam", 1), ("alpha_dot", -1), ("sigma_dot", -1)):
            a, b = getattr(down, quantity)(t), getattr(up, quantity)(1 - t)
            np.testing.assert_allclose(a, sign * b, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("separation", [0.0, 0.3, 0.8, 1.0])
def test_no_path_nearby_has_less_kinetic_energy(separation):
    s, t = KineticOptimal(separation), np.linspace(0.0, 1.0, 4001)
    dt = t[1]
    radius, theta = np.hypot(s.alpha(t), s.sigma(t)), np.arctan2(s.alpha(t), s.sigma(t))

    def energy(radius, theta):
        r = 0.5 * (radius[1:] + radius[:-1])
        return np.sum((np.diff(radius) / dt) ** 2 + separation * (r * np.diff(theta) / dt) ** 2) * dt

    least = energy(radius, theta)
    np.testing.assert_allclose(least, 2 - 2 * np.cos(np.sqrt(separation) * np.pi / 2), atol=1e-6)
    for k in (1, 2, 3):
        bump = 0.02 * np.sin(k * np.pi * t)
        for changed in ((radius + bump, theta), (radius - bump, theta), (radius, theta + bump), (radius, theta - bump)):
            assert energy(*changed) > least - 1e-9


def test_the_energy_of_a_velocity_depends_on_the_data_through_their_separation():
    """The marginal velocity of two points at -1 and 1, by quadrature: what `KineticOptimal` minimises."""
    z, weight = np.polynomial.hermite_e.hermegauss(180)
    weight = weight / weight.sum()  # the two points are mirror images: one is enough
    for alpha, sigma, alpha_dot, sigma_dot in ((0.3, 0.8, 0.7, -0.5), (0.5, 0.5, 1.0, -1.0), (0.8, 0.7, 0.2, -0.9)):
        x = alpha + sigma * z
        data = np.tanh(alpha * x / sigma**2)
        velocity = alpha_dot * data + sigma_dot * (x - alpha * data) / sigma
        separation = 1 - weight @ (data - 1) ** 2 * (1 + (alpha / sigma) ** 2)
        r = np.hypot(alpha, sigma)
        r_dot, theta_dot = (alpha * alpha_dot + sigma * sigma_dot) / r, (alpha_dot * sigma - alpha * sigma_dot) / r**2
        np.testing.assert_allclose(weight @ velocity**2, r_dot**2 + separation * (r * theta_dot) ** 2, rtol=1e-10)


def test_slopes_reach_through_an_inverse_found_by_bisection():
    s, lam = Interpolant.trigonometric().one_sided(), np.array([-3.0, 0.2, 4.0])
    got = jax.jit(jax.vmap(jax.grad(s.t_of_lam)))(jnp.asarray(lam))
    np.testing.assert_allclose(got, 1 / (np.pi * np.cosh(lam)), rtol=1e-10)


MEANS, STDS = (-1.0, 2.0), (0.5, 1.5)  # of base and data


@pytest.mark.parametrize(
    ("path", "epsilon"),
    [
        (Interpolant.linear(1.0), 0.0),
        (Interpolant.trigonometric(0.5), 0.7),
        (Interpolant.enc_dec(), 0.7),
        (Interpolant.linear(), 0.0),
    ],
    ids=["linear", "trigonometric", "enc-dec", "no gamma"],
)
def test_interpolants_between_gaussians_keep_their_law(path, epsilon):
    """With Gaussian ends the fields are affine, and mean and variance obey the Fokker-Planck equation."""

    def moments(t):
        a, b, g2 = path.alpha(t), path.beta(t), 0.0 if path.gamma2 is None else path.gamma2(t)
        return a * MEANS[0] + b * MEANS[1], (a * STDS[0]) ** 2 + (b * STDS[1]) ** 2 + g2

    def velocity(t, x, args):
        (a, b), (mean, variance) = (path.alpha(t), path.beta(t)), moments(t)
        pull = (x - mean) / variance
        x0, x1 = MEANS[0] + a * STDS[0] ** 2 * pull, MEANS[1] + b * STDS[1] ** 2 * pull
        return path.velocity(t, x0, x1)

    def score(t, x, args):
        mean, variance = moments(t)
        return -(x - mean) / variance

    drift = path.drift(velocity, None if path.gamma2 is None else score, epsilon)

    @jax.jit
    def rates(t):
        (mean, variance), wanted = jax.jvp(moments, (t,), (jnp.array(1.0),))
        at_mean, slope = jax.value_and_grad(lambda x: drift(t, x, None))(mean)
        return (at_mean, 2 * slope * variance + 2 * epsilon), wanted

    for t in (0.2, 0.8):
        np.testing.assert_allclose(*rates(t), rtol=1e-10, atol=1e-12)


def test_paths_of_an_interpolant():
    path, z = Interpolant.linear(2.0), np.array([0.3, -1.0])
    np.testing.assert_allclose(path.at(np.array(0.25), 4.0, 8.0, z), 5.0 + np.sqrt(0.375) * z)
    np.testing.assert_allclose(path.score(np.array(0.25), z), -z / np.sqrt(0.375))
    ends = Interpolant.enc_dec()
    t = np.array([0.0, 0.5, 1.0])
    for part, want in ((ends.alpha, [1, 0, 0]), (ends.beta, [0, 0, 1]), (ends.gamma2, [0, 1, 0])):
        np.testing.assert_allclose(part(t), want, atol=1e-30)
    drift = path.drift(lambda t, x, args: 0 * x, lambda t, x, args: 1 + 0 * x)
    assert drift(jnp.array(0.0), jnp.array(0.0), None) == -1.0  # finite at the ends, where gamma has no slope


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: FlowMatching(data_at=2), "`data_at`"),
        (lambda: KineticOptimal(1.5), "`separation`"),
        (lambda: KineticOptimal(0.5, data_at=0.5), "`data_at`"),
        (lambda: Interpolant.linear(1.0).one_sided(), "`interpolant`"),
        (lambda: Interpolant.linear(1.0).drift(lambda t, x, args: x), "`score`"),
        (lambda: Interpolant.linear().score(0.5, 1.0), "`gamma2`"),
        (lambda: Bridge(FlowMatching()), "`t_pin`"),
    ],
)
def test_mistakes_are_named(call, argument):
    with pytest.raises(ValueError, match=argument):
        call()


@pytest.mark.parametrize("base", [VPLinear(0.1, 2.0), EDM(), FlowMatching(0.99)], ids=["vp", "edm", "flow"])
def test_bridges_have_the_law_of_a_pinned_diffusion(base):
    """`x_t` given both ends of a Gauss-Markov path, by conditioning."""
    s = Bridge(base)
    t, (a1, s1) = inner_times(s), (base.alpha(s.t_pin), base.sigma(s.t_pin))
    alpha, sigma = base.alpha(t), base.sigma(t)
    gain = (a1 / alpha) * sigma**2 / s1**2  # covariance of x_t and x_T over the variance of x_T, given the data
    np.testing.assert_allclose(s.a(t), gain, rtol=1e-13)
    np.testing.assert_allclose(s.alpha(t), alpha - gain * a1, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(s.sigma(t) ** 2, sigma**2 - gain**2 * s1**2, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(s.a_dot(jnp.asarray(t)), jax.vmap(jax.grad(s.a))(jnp.asarray(t)), rtol=1e-11)
    assert (s.a(s.t_pin), s.alpha(s.t_pin), s.sigma(s.t_pin)) == (1, 0, 0)
