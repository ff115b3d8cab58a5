"""A model's paths in continuous time, as problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import ENDS, FM, VE, VP, ends, mixture, starts

import odekit as ok
from odekit.samplers import Denoiser, gaussian
from odekit.samplers.continuous import diffusion
from odekit.schedules import FlowMatching, VPCosine

CLOSE = {"rtol": 1e-10, "atol": 1e-11}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if case != "VP" else []) for case in ENDS]
)
def test_the_flow_of_a_batch_as_one_state(case):
    schedule, first, last = ENDS[case]
    sol = ok.solve(ok.probability_flow(mixture(schedule)), jnp.asarray(starts(case)), first, last, **CLOSE)
    np.testing.assert_allclose(sol.y1, ends(case), rtol=1e-8, atol=1e-8)


def test_the_flow_of_each_sample_and_back():
    problem = ok.probability_flow(mixture(FM))
    solves = jax.jit(jax.vmap(lambda x, t0, t1: ok.solve(problem, x, t0, t1, **CLOSE), (0, None, None)))
    there = solves(jnp.asarray(starts()), 1.0, 0.0)
    np.testing.assert_allclose(there.y1, ends("FM"), rtol=1e-8, atol=1e-8)
    assert len(set(np.asarray(there.stats["accepted"]).tolist())) > 3
    np.testing.assert_allclose(solves(there.y1, 0.0, 1.0).y1, starts(), atol=1e-8)


def test_time_may_rise_from_noise_to_data():
    rising, falling, x = mixture(FlowMatching(data_at=1)), mixture(FM), jnp.asarray(starts())
    u = ok.probability_flow(rising)(jnp.array(0.3), x)
    np.testing.assert_allclose(u, -ok.probability_flow(falling)(jnp.array(0.7), x), rtol=1e-12)
    gauss = gaussian([1.0], 0.5, FlowMatching(data_at=1))
    end = ok.solve(ok.probability_flow(gauss), jnp.array([2.0]), 0.0, 1.0, ok.RK4(), n_steps=100).y1
    np.testing.assert_allclose(end, 1.0 + 0.5 * 2.0, rtol=1e-7)


def test_the_condition_goes_through_args():
    model = Denoiser(lambda x, t, cond: jnp.broadcast_to(cond, x.shape), FM, "data")
    sol = ok.solve(ok.probability_flow(model), jnp.ones(3), 1.0, 0.1, ok.Heun(), jnp.array(2.0), n_steps=1)
    np.testing.assert_allclose(sol.y1, 0.1 * 1.0 + 0.9 * 2.0, rtol=1e-12)  # a straight line


@pytest.mark.parametrize("schedule", [VP, VPCosine(), FlowMatching(data_at=1), VE])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_the_reverse_sde_is_its_formula(schedule, eta):
    """`[f x - (1 + eta**2) g**2 score / 2]` and `eta g`, from the score of the exact model."""
    model, x, t = mixture(schedule), jnp.asarray(starts()), jnp.array(0.3 if schedule is not VE else 2.0)
    sign = 1.0 if schedule.lam(np.array(0.2)) > schedule.lam(np.array(0.3)) else -1.0  # of the process's own time
    rate = schedule.alpha_dot(t) / schedule.alpha(t)
    size = diffusion(schedule, t)
    h = 1e-6  # g**2 = -2 sigma**2 dlam/dt, and lam by its own formula
    np.testing.assert_allclose(
        size**2, abs(2 * schedule.sigma(t) ** 2 * (schedule.lam(t + h) - schedule.lam(t - h)) / (2 * h)), rtol=1e-7
    )
    problem = ok.reverse_sde(model, eta)
    want = rate * x - sign * 0.5 * (1 + eta**2) * size**2 * model.score(x, t)
    np.testing.assert_allclose(problem.drift(t, x, None), want, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(problem.diffusion(t, x, None), jnp.full_like(x, eta * size), rtol=1e-14)


def test_a_prediction_is_asked_for_once():
    calls = []

    def fn(x, t, cond):
        calls.append(1)
        return x

    jax.make_jaxpr(lambda x: ok.reverse_sde(Denoiser(fn, VP)).drift(jnp.array(0.5), x, None))(jnp.ones(2))
    assert len(calls) == 1


def test_mistakes_are_named():
    with pytest.raises(TypeError, match="`model` is a function without `velocity`"):
        ok.probability_flow(lambda x, t: x)
    with pytest.raises(ValueError, match="`variable` is 'sigma'"):
        ok.probability_flow(gaussian([0.0], 1.0, VP), "sigma")
    with pytest.raises(ValueError, match="`eta` is -1"):
        ok.reverse_sde(gaussian([0.0], 1.0, VP), -1)
