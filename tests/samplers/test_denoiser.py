import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, mixture, starts

from odekit.loops.table import VIEWS
from odekit.samplers import Denoiser, dpmpp, gaussian, guided, sample, time_grid, under
from odekit.samplers.denoiser import PREDICTIONS, conversion
from odekit.schedules import FlowMatching, KineticOptimal, VPCosine, betas, from_betas, zero_terminal_snr

SCHEDULES = {"VP": (VP, 0.6), "cosine": (VPCosine(), 0.4), "FM": (FM, 0.3), "VE": (VE, 1.5)}


def network(schedule, predicts):
    """A denoiser around one view of the exact model."""
    exact = mixture(schedule)
    return exact, Denoiser(lambda x, t, cond: getattr(exact, predicts)(x, t), schedule, predicts)


@pytest.mark.parametrize("case", SCHEDULES)
@pytest.mark.parametrize("have", VIEWS)
@pytest.mark.parametrize("want", VIEWS)
def test_every_prediction_converts_to_every_other(case, have, want):
    schedule, t = SCHEDULES[case]
    exact, model = network(schedule, have)
    x = jnp.asarray(starts())
    np.testing.assert_allclose(getattr(model, want)(x, t), getattr(exact, want)(x, t), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("have", VIEWS)
def test_every_sample_may_have_its_own_time(have):
    exact, model = network(FM, have)
    x, t = jnp.asarray(starts()[:5]), jnp.linspace(0.2, 0.8, 5)
    got = model.data(x, t)
    want = jnp.stack([exact.data(one, at) for one, at in zip(x, t, strict=True)])
    np.testing.assert_allclose(got, want, rtol=1e-11)


def test_a_flow_answers_at_both_ends():
    _, model = network(FM, "velocity")
    x = jnp.asarray(starts())
    for t in (0.0, 1.0):
        assert jnp.all(jnp.isfinite(model.data(x, t)))
        assert jnp.all(jnp.isfinite(model.noise(x, t)))


def test_its_own_prediction_is_returned_untouched():
    _, model = network(VP, "score")
    x = jnp.asarray(starts())
    np.testing.assert_array_equal(model.score(x, 0.3), mixture(VP).score(x, 0.3))


def test_pytrees_and_dtypes_are_kept():
    seen = []

    def fn(x, t, cond):
        seen.append((t.dtype, t.shape))
        return jax.tree.map(jnp.negative, x)

    x = {"a": jnp.ones((3, 2), jnp.bfloat16), "b": jnp.ones((3,), jnp.bfloat16)}
    out = Denoiser(fn, FM, "velocity").data(x, 0.5)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), out) == {
        "a": ((3, 2), jnp.bfloat16),
        "b": ((3,), jnp.bfloat16),
    }
    assert seen == [(jnp.float32, ())]  # half precision cannot tell times apart


def test_unknown_prediction():
    with pytest.raises(ValueError, match="`predicts` is 'epsilon'"):
        Denoiser(lambda x, t, cond: x, VP, "epsilon")


def from_parts(kind, alpha, sigma, alpha_dot, sigma_dot, data, noise):
    """A prediction in terms of data and noise."""
    return {
        "data": data,
        "noise": noise,
        "velocity": alpha_dot * data + sigma_dot * noise,
        "score": -noise / sigma,
        "v": alpha * noise - sigma * data,
    }[kind]


NEARLY = {
    "pure noise": (1e-8, 1.0, -1.3, 1e-8 * 1.3),
    "pure data": (1.0, 1e-8, -1e-8 * 0.7, 0.7),
    "exploded": (1.0, 80.0, 0.0, 1.0),
    "neither": (0.6, 0.3, -1.0, 2.0),
}


@pytest.mark.parametrize("place", NEARLY)
@pytest.mark.parametrize("have", PREDICTIONS)
@pytest.mark.parametrize("want", PREDICTIONS)
def test_conversions_add_rounding_and_nothing_else(place, have, want):
    """Against extended precision, at both ends: errors are roundings of the two terms, whatever lies in between."""
    at, long = NEARLY[place], [np.longdouble(c) for c in NEARLY[place]]
    data, noise = np.longdouble(starts().T)
    x = long[0] * data + long[1] * noise
    f, exact = (from_parts(kind, *long, data, noise) for kind in (have, want))
    p, q = (float(c) for c in conversion(have, want, *(jnp.array(c) for c in at)))
    got = p * np.float64(x) + q * np.float64(f)
    size = np.abs(p * x) + np.abs(q * f) + np.abs(exact)
    assert np.all(np.abs(got - exact) <= 1e-15 * size)
    inverse = conversion(want, have, *(jnp.array(c) for c in at))[1]
    np.testing.assert_allclose(q * inverse, 1.0, rtol=1e-14)


@pytest.mark.parametrize("have", PREDICTIONS)
def test_the_fifth_prediction(have):
    """`v = alpha noise - sigma data` on any schedule; on variance-preserving ones the published relations."""
    exact = mixture(VE)
    x, t = jnp.asarray(starts()), 1.5
    v = exact.noise(x, t) - t * exact.data(x, t)
    if have != "v":
        np.testing.assert_allclose(network(VE, have)[1].v(x, t), v, rtol=1e-12, atol=1e-13)
    else:
        model = Denoiser(lambda x, t, cond: exact.noise(x, t) - t * exact.data(x, t), VE, "v")
        for want in VIEWS:
            np.testing.assert_allclose(getattr(model, want)(x, t), getattr(exact, want)(x, t), rtol=1e-12, atol=1e-13)
    plain = Denoiser(lambda x, t, cond: jnp.sin(x), VP, "v")
    alpha, sigma = VP.alpha(0.3), VP.sigma(0.3)
    np.testing.assert_allclose(plain.data(x, 0.3), alpha * x - sigma * jnp.sin(x), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(plain.noise(x, 0.3), sigma * x + alpha * jnp.sin(x), rtol=1e-13, atol=1e-14)


def test_no_data_and_no_noise_at_the_ends():
    """Networks that know better than to predict noise from pure noise: no NaN where alpha or sigma is 0."""
    zero = from_betas(zero_terminal_snr(betas("scaled_linear")))
    x = jnp.asarray(starts(), jnp.float32)
    for predicts in ("data", "v"):
        model = Denoiser(lambda x, t, cond: jnp.tanh(x), zero, predicts)
        for want in ("data", "noise", "score", "v", "velocity"):
            assert jnp.all(jnp.isfinite(getattr(model, want)(x, 1.0)))
    for schedule, t in ((FM, 0.0), (VE, 0.0), (zero, 0.0)):
        for predicts in ("data", "noise", "v", "velocity", "score"):
            if schedule is zero and predicts == "velocity":
                continue  # a variance-preserving velocity is infinite there
            model = Denoiser(lambda x, t, cond: jnp.tanh(x), schedule, predicts)
            assert jnp.all(jnp.isfinite(model.data(x, t)))


@pytest.mark.parametrize("predicts", [*PREDICTIONS, "known"])
def test_a_model_under_any_schedule_is_the_model_of_that_schedule(predicts):
    """Gaussian data, every sample at its own lam."""
    x, lam, mean, std = starts()[:4], jnp.array([-1.0, 0.0, 0.5, 2.0]), jnp.array([0.5, -1.0]), jnp.array([0.3, 2.0])

    def model(schedule):
        exact = gaussian(mean, std, schedule)

        def fn(x, t, cond):
            if predicts != "v":
                return getattr(exact, predicts)(x, t)
            scales = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
            return scales[0] * exact.noise(x, t) - scales[1] * exact.data(x, t)

        return exact if predicts == "known" else Denoiser(fn, schedule, predicts)

    @jax.jit
    def answers():
        pairs = []
        for own, other in ((VP, VE), (FlowMatching(data_at=1), FM), (VE, KineticOptimal(0.0))):
            t = other.t_of_lam(lam)
            at = other.alpha(t)[:, None] * x, t
            got, want = under(model(own), other), gaussian(mean, std, other)
            pairs += [(getattr(got, view)(*at), getattr(want, view)(*at)) for view in VIEWS]
        return pairs

    for got, want in answers():
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_under_its_own_schedule_at_pure_noise():
    exact = mixture(FlowMatching(data_at=1))
    x = jnp.asarray(starts())
    np.testing.assert_allclose(under(exact, FM).data(x, 1.0), exact.data(x, 0.0), rtol=1e-14)
    table = dpmpp(VE, time_grid(VE, 6, "karras", start=9.0, end=0.1))
    network = Denoiser(lambda x, t, cond: exact.velocity(x, t), exact.schedule, "velocity")
    got = sample(under(network, VE), table, 9.0 * x)
    np.testing.assert_allclose(got, sample(mixture(VE), table, 9.0 * x), rtol=1e-11, atol=1e-12)


def conditional(x, t, cond):
    """A network that is nonlinear in its condition."""
    return jnp.tanh(x + t) * (1.0 + cond["label"].astype(x.dtype)[:, None] ** 2)


@pytest.mark.parametrize("view", VIEWS)
def test_guidance_moves_every_view_along_the_same_line(view):
    model = Denoiser(conditional, VP, "noise")
    x, cond = jnp.asarray(starts()[:4]), {"label": jnp.arange(1, 5)}
    null = {"label": jnp.zeros(4, int)}
    with_cond, without = getattr(model, view)(x, 0.5, cond), getattr(model, view)(x, 0.5, null)
    for scale in (0.0, 1.0, 3.5):
        got = getattr(guided(model, scale, {"label": 0}), view)(x, 0.5, cond)
        np.testing.assert_allclose(got, without + scale * (with_cond - without), rtol=1e-11, atol=1e-12)


def test_guidance_calls_the_network_once():
    calls = []

    def fn(x, t, cond):
        calls.append(x.shape)
        return cond - x

    guided(Denoiser(fn, FM, "data"), 2.0, 0.0).data(jnp.zeros(3), 0.5, jnp.ones(3))
    assert calls == [(3,)]


def test_guidance_without_a_condition():
    with pytest.raises(ValueError, match="`cond` is None"):
        guided(Denoiser(conditional, VP), 2.0, {"label": 0}).noise(jnp.ones((1, 2)), 0.5)
