"""The sums that diffusers' own tests expect, of configs read without torch, for their network x n / (n + 1)."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import run_by_hand

from odekit.interop import from_scheduler_config, timestepped
from odekit.samplers import Denoiser, adams, dpm, euler, heun, sample
from odekit.schedules import EDM

BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}
LATER = {**BETAS, "num_train_timesteps": 1100}
RAMP = np.moveaxis(np.arange(768).reshape(3, 8, 8, 4) / 768, -1, 0)
"""The start: (4, 3, 8, 8)."""


def network(x, t, total):
    n = total * t - 1
    return x * n / (n + 1)


def samples(config, scaled):
    """Ten steps of the scheduler from the ramp, times sigma if scaled."""
    schedule, _, table = from_scheduler_config(config, 10)
    total, t0 = config["num_train_timesteps"], float(table.t[0])

    def view(x, t):
        noise, alpha, sigma = network(x, t, total), schedule.alpha(t), schedule.sigma(t)
        return noise if table.view == "noise" else (x - sigma * noise) / alpha

    return run_by_hand(table, view, RAMP * (schedule.sigma(t0) if scaled else 1.0), None)


@pytest.mark.parametrize(
    ("expected", "settings"),
    [
        (172.0067, {}),
        (52.5302, {"prediction_type": "v_prediction"}),
        (149.8295, {"beta_start": 0.01}),
        (149.0784, {"beta_start": 0.01, "set_alpha_to_one": False}),
    ],
)
def test_ddim_with_clipped_data(expected, settings):
    """diffusers clips the data but not the noise, so that the two no longer make up the state: here the view of a row
    is the one data prediction that moves the state where those two move it."""
    config = {"_class_name": "DDIMScheduler", **BETAS, "clip_sample": False, **settings}
    schedule, predicts, table = from_scheduler_config(config, 10)
    ends = dict(zip(np.asarray(table.t), np.asarray(table.t_state[1:]), strict=True))

    def view(x, t):
        out, (alpha, sigma), (alpha1, sigma1) = (
            network(x, t, 1000),
            *((schedule.alpha(s), schedule.sigma(s)) for s in (t, ends[t])),
        )
        data, noise = (
            ((x - sigma * out) / alpha, out)
            if predicts == "noise"
            else (alpha * x - sigma * out, alpha * out + sigma * x)
        )
        keep = sigma1 / sigma
        return (alpha1 * np.clip(data, -1, 1) + sigma1 * noise - keep * x) / (alpha1 - alpha * keep)

    assert np.sum(np.abs(run_by_hand(table, view, RAMP, None))) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize(
    ("name", "expected", "settings"),
    [
        ("PNDM", 198.1318 / 768, {}),
        ("DPMSolverMultistep", 0.3301, {"lower_order_final": False, "final_sigmas_type": "sigma_min"}),
        ("DEISMultistep", 0.23916, {}),
        ("UniPCMultistep", 0.2464, {"final_sigmas_type": "sigma_min"}),
    ],
)
def test_means(name, expected, settings):
    config = {"_class_name": f"{name}Scheduler", **BETAS, **settings}
    assert np.mean(np.abs(samples(config, scaled=False))) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "expected", "karras"),
    [
        ("EulerDiscrete", 168.0516, False),
        ("EulerDiscrete", 156.6845, True),
        ("HeunDiscrete", 244.6025, False),
        ("LMSDiscrete", 191.1941, False),
    ],
)
def test_sums_of_schedulers_in_sigma(name, expected, karras):
    config = {"_class_name": f"{name}Scheduler", **LATER, "use_karras_sigmas": karras}
    assert np.sum(np.abs(samples(config, scaled=True))) == pytest.approx(expected, rel=2e-6)


def test_sum_of_a_preconditioned_network():
    config = {"_class_name": "EDMEulerScheduler"}
    schedule, predicts, table = from_scheduler_config(config, 10)
    model = Denoiser(timestepped(lambda x, t, cond: x * t / (t + 1), config), schedule, predicts)
    end = sample(model, table, jnp.asarray(RAMP) * np.hypot(80.0, 1.0))
    assert np.sum(np.abs(end)) == pytest.approx(34.1855, rel=2e-6)


def overwritten(table, alpha):
    """The table of a loop that puts the scaled input of the network in the place of the state, before each row."""
    scale = np.append(alpha[1:], 1.0)
    closes = np.any(np.asarray(table.evals)[:, -1] != 0, axis=1)  # rows that move the anchor of a step too
    scales = np.stack([scale, np.where(closes, scale, 1.0)], axis=1)[:, : table.states.shape[1], None]
    return dataclasses.replace(table, states=table.states * scales, evals=table.evals * scales)


@pytest.mark.parametrize(
    ("name", "expected", "build"),
    [
        ("EulerDiscrete", 10.0807, euler),
        ("HeunDiscrete", 0.1233, heun),
        ("LMSDiscrete", 1006.388, lambda schedule, ts: adams(schedule, ts, 4)),
        ("KDPM2Discrete", 20.4125, lambda schedule, ts: dpm(schedule, ts, 2, "singlestep", lower_order_final="last")),
    ],
)
def test_sums_of_loops_that_overwrite_the_state(name, expected, build):
    """diffusers' tests of these classes do that, so their sums are not those of a trajectory."""
    schedule, _, by_euler = from_scheduler_config({"_class_name": "EulerDiscreteScheduler", **LATER}, 10)
    ts = np.asarray(by_euler.t_state)
    table = build(EDM(), schedule.sigma(ts) / schedule.alpha(ts))
    times = schedule.t_of_lam(-np.log(np.asarray(table.t)))
    at = dict(zip(np.asarray(table.t), times, strict=True))
    x = RAMP * float(schedule.sigma(ts[0]))
    end = run_by_hand(overwritten(table, schedule.alpha(times)), lambda x, t: network(x, at[t], 1100), x, None)
    assert np.sum(np.abs(end)) == pytest.approx(expected, rel=2e-5, abs=5e-5)
