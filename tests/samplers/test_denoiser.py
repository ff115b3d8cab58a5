import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, mixture, starts

from odekit.loops.table import VIEWS
from odekit.samplers import Denoiser, guided
from odekit.schedules import VPCosine

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
    with pytest.raises(ValueError, match="`predicts` is 'v'"):
        Denoiser(lambda x, t, cond: x, VP, "v")


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
