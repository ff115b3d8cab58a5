"""Fine references and the two numbers that tell how far a sampler ends from them."""

import jax.numpy as jnp
import numpy as np
import pytest
from cases_mixture import RANGE, RMS, paths

from odekit import samplers
from odekit.learn import psnr, references, rmse
from odekit.schedules import FlowMatching, VPLinear


@pytest.mark.parametrize("schedule", ["flow", pytest.param("vp", marks=pytest.mark.slow)])
def test_the_mixture_is_the_published_one(schedule):
    _, end = paths(schedule, 12345, 4096, steps=200)
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(end))), RMS[schedule], atol=5e-5)
    np.testing.assert_allclose([np.min(end), np.max(end)], RANGE[schedule], atol=1e-3)


def test_references_converge_with_order_four_to_the_exact_flow():
    model = samplers.gaussian([1.0, -2.0], [0.5, 0.25], VPLinear())
    x = jnp.linspace(-2, 2, 10).reshape(5, 2)
    at, t0, t1 = VPLinear(), 1.0, 1e-3
    std0, std1 = (np.sqrt((at.alpha(t) * np.array([0.5, 0.25])) ** 2 + at.sigma(t) ** 2) for t in (t0, t1))
    mean = np.array([1.0, -2.0])
    exact = at.alpha(t1) * mean + std1 / std0 * (np.asarray(x) - at.alpha(t0) * mean)
    errors = [rmse(references(model, x, steps=n, spacing="logsnr"), jnp.asarray(exact)) for n in (40, 80, 160)]
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(slopes > 3.85)
    assert errors[-1] < 1e-7


def test_references_refuse_singular_ends():
    flow = FlowMatching()
    model = samplers.Denoiser(lambda x, t, cond: 0 * x, flow, "data")
    with pytest.raises(ValueError, match="`ts` leads to non-finite end states"):
        references(model, jnp.ones((2, 3)))
    assert references(model, jnp.ones((2, 3)), np.linspace(1, 1e-3, 50)).shape == (2, 3)


def test_errors_of_known_size():
    reference = {"a": jnp.zeros((2, 3)), "b": jnp.zeros((2, 1))}
    end = {"a": jnp.array([[1.0, 0, 0], [0, 0, 0]]), "b": jnp.array([[1.0], [0.2]])}
    np.testing.assert_allclose(rmse(end, reference), np.sqrt((1 + 1 + 0.04) / 8), rtol=1e-12)
    np.testing.assert_allclose(
        psnr(end, reference, 4.0), np.mean(10 * np.log10(16 / np.array([0.5, 0.01]))), rtol=1e-12
    )
