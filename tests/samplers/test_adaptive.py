"""Samplers that choose their steps: the published controllers in their own figures, and what lanes make of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VP, agrees, ends, mixture, starts

import odekit as ok
from odekit.samplers import DPM12, DPM23, Denoiser, adaptive_sample, by_larger, gotta_go_fast
from odekit.schedules import FlowMatching
from odekit.solvers.exponential import ExponentialRK

# attempts, refused, rms error: steps in lam from 0.05, the batch judged by its worst sample, growth without limit
PUBLISHED = {
    (2, 0.05): (52, 19, 4.2e-3),
    (2, 0.01): (69, 18, 1.7e-3),
    (2, 0.001): (139, 14, 3.4e-4),
    (3, 0.05): (23, 8, 5.0e-4),
    (3, 0.01): (34, 11, 1.2e-4),
    (3, 0.001): (63, 20, 2.3e-5),
    (3, 1e-4): (93, None, 3.9e-6),
}
PAIRS = {2: DPM12(VP), 3: DPM23(VP)}
FLOW, LAMS = ok.probability_flow(mixture(VP), "lam"), (VP.lam(1.0), VP.lam(1e-3))
MEAN = np.array([0.3, 0.5, 0.2]) @ mixture(VP).means
TRACE = float(
    np.array([0.3, 0.5, 0.2]) @ np.sum(np.asarray(mixture(VP).stds) ** 2 + np.asarray(mixture(VP).means) ** 2, axis=1)
    - np.sum(MEAN**2)
)


def rms(x):
    return float(np.sqrt(np.mean((np.asarray(x) - ends("VP")) ** 2)))


def worst(err, y0, y1, rtol, atol):
    """The largest error of a batch (samples, d, lanes)."""
    return jnp.max(jax.vmap(by_larger, (0, 0, 0, None, None))(err, y0, y1, rtol, atol), axis=0)


@pytest.mark.parametrize(("order", "rtol"), PUBLISHED)
def test_the_published_loop(order, rtol):
    pid = ok.PID(rtol, rtol * 0.0078 / 0.05, factor_min=1e-6, factor_max=1e6, norm=worst)
    sol = ok.solve(FLOW, jnp.asarray(starts()), *LAMS, PAIRS[order], controller=pid, dt0=0.05)
    tried, refused, error = PUBLISHED[(order, rtol)]
    assert abs(int(sol.stats["accepted"] + sol.stats["rejected"]) - tried) <= 1  # factors are worked out to a percent
    assert refused is None or abs(int(sol.stats["rejected"]) - refused) <= 1
    np.testing.assert_allclose(rms(sol.y1), error, rtol=0.03)


@pytest.mark.parametrize(("order", "n", "error"), [(2, 10, 4.59e-2), (3, 6, 4.08e-2)])
def test_on_even_steps_the_pairs_are_dpm_solver(order, n, error):
    sol = ok.solve(FLOW, jnp.asarray(starts()), *LAMS, PAIRS[order], n_steps=n)
    assert agrees(rms(sol.y1), error)


@pytest.mark.slow
@pytest.mark.parametrize(("order", "slope"), [(2, 1.99), (3, 2.88)])
def test_slopes(order, slope):
    errors = [rms(ok.solve(FLOW, jnp.asarray(starts()), *LAMS, PAIRS[order], n_steps=n).y1) for n in (128, 256)]
    assert abs(np.log2(errors[0] / errors[1]) - slope) < 0.15


def test_an_exponential_pair_alone_takes_fixed_steps():
    pair = ExponentialRK(a=(), b=((1.0,),), c=(0.0,), basis=((1, 1.0),), b_err=((1.0,),), name="Pair")
    with pytest.raises(ValueError, match="`method` Pair takes fixed steps"):
        ok.solve(ok.SemiLinear(-1.0, lambda t, y, args: y), 1.0, 0.0, 1.0, pair)
    with pytest.raises(ValueError, match="`b_err` has 2 entries for 1 weights"):
        ExponentialRK(a=(), b=((1.0,),), c=(0.0,), basis=((1, 1.0),), b_err=((1.0,), (1.0,)))


def test_every_sample_has_its_own_steps():
    x = jnp.asarray(starts())
    sol = adaptive_sample(mixture(VP), x)
    np.testing.assert_allclose(sol.t1, 1e-3, rtol=1e-9)
    assert rms(sol.y1) < 0.02
    assert 35 < np.mean(sol.stats["evaluations"]) < 50
    assert len(set(np.asarray(sol.stats["evaluations"]).tolist())) > 3
    np.testing.assert_allclose(adaptive_sample(mixture(VP), x[::-1]).y1[::-1], sol.y1, rtol=1e-12)
    assert rms(adaptive_sample(mixture(VP), x, rtol=1e-5, atol=1e-6).y1) < 5e-5


def test_networks_of_batches_and_conditions_of_samples():
    """A network that mixes up its axes, unless it is given a batch and conditions that fit each other."""

    def fn(x, t, cond):
        assert x.ndim == 2
        return jnp.tanh(x @ jnp.ones((2, 2), x.dtype) * cond[:, None])

    model, x, cond = Denoiser(fn, VP, "data"), jnp.asarray(starts()[:3]), jnp.array([0.5, 1.0, 2.0])
    sol, turned = (adaptive_sample(model, x, cond=cond) for x, cond in ((x, cond), (x[::-1], cond[::-1])))
    np.testing.assert_allclose(turned.y1[::-1], sol.y1, rtol=1e-12)


@pytest.mark.slow
def test_float32():
    sol = adaptive_sample(mixture(VP), jnp.asarray(starts(), jnp.float32), rtol=1e-3, atol=1e-4)
    assert sol.y1.dtype == jnp.float32
    assert rms(sol.y1) < 2e-3


def share(n):
    """The trace of the covariance of n samples over the exact one, the samples, and the call that made them."""
    x, keys = jax.random.normal(jax.random.key(1), (n, 2), jnp.float32), jax.random.split(jax.random.key(0), n)
    run = lambda order: gotta_go_fast(mixture(VP), x[order], keys[order])  # noqa: E731
    sol = run(np.arange(n))
    return float(np.trace(np.cov(np.asarray(sol.y1, float).T))) / TRACE, sol, run


def test_refused_noise_is_not_thrown_away():
    """Where it is, this share is 1.19 at these tolerances."""
    found, sol, run = share(2000)
    assert abs(found - 1) < 0.06  # three standard errors
    assert np.mean(sol.stats["rejected"]) > 20
    np.testing.assert_allclose(np.mean(sol.y1, axis=0), MEAN, atol=0.08)
    turned = np.arange(2000)[::-1]  # a path belongs to its sample
    np.testing.assert_allclose(run(turned).y1, sol.y1[turned], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_spread_is_exact_within_sampling_error():
    assert abs(share(20000)[0] - 1) < 0.02


def test_mistakes_are_named():
    x = jnp.zeros((1, 2))
    with pytest.raises(ValueError, match="`order` is 4"):
        adaptive_sample(mixture(VP), x, order=4)
    with pytest.raises(ValueError, match=r"`lam\(start=1.0\)` must be finite"):
        adaptive_sample(mixture(FM), x)
    with pytest.raises(ValueError, match="`start` is 0, where there is no data"):
        gotta_go_fast(mixture(FlowMatching(data_at=1)), x, jax.random.key(0))
