"""Published scheduler configs give the times and the samples that diffusers makes of them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_checkpoints import CHECKPOINTS, MU, PUBLISHED, STEPS
from cases_diffusers import golden, noise, start
from cases_sampling import mixture, numpy_view, run_by_hand

from odekit.interop import from_scheduler_config, timestepped
from odekit.interop.scheduler_config import INERT, KINDS
from odekit.samplers import Denoiser, sample

SINGLE = 1e-6
"""Levels are rounded to single precision in diffusers, 6e-8 relative, and the samples follow."""
LOOSE = {"DPM++ 2M, zero terminal SNR": 5e-5}
"""Where diffusers puts alpha**2 = 2**-24 in the place of 0."""
CUT = ("Karras", "SA-Solver", "KDPM2", "Sana", "Wan", "UniPC")
"""Whose fractional timesteps are cut or rounded to integers before the network sees them."""


def read(name):
    config = CHECKPOINTS[name]
    return from_scheduler_config(config, STEPS.get(name, 8), mu=MU if config.get("use_dynamic_shifting") else None)


def ends(name, schedule, table):
    """Start and end of the golden run, as states of the path that the network was trained on."""
    run = golden()[f"checkpoint {name}"]
    x, end = start(run["kind"], run["levels"][0]), np.array(run["end"])
    if run["kind"] != "ve":
        return x, end
    return tuple(y * schedule.alpha(float(t)) for y, t in ((x, table.t_state[0]), (end, table.t_state[-1])))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_samples_of_the_scheduler(name):
    schedule, _, table = read(name)
    x, end = ends(name, schedule, table)
    z = np.concatenate([noise()[: table.nfe], noise()[-1:]])
    got = run_by_hand(table, numpy_view(schedule, table.view), x, z)
    assert np.max(np.abs(got - end)) < LOOSE.get(name, SINGLE) * np.max(np.abs(end))


@pytest.mark.parametrize(
    "name", [name for name in CHECKPOINTS if not CHECKPOINTS[name]["_class_name"].startswith("EDM")]
)
def test_timesteps_of_the_scheduler(name):
    _, _, table = read(name)
    network = timestepped(lambda x, timestep, cond: timestep, CHECKPOINTS[name])
    got = np.array([network(None, t, None) for t in np.asarray(table.t)])
    want = golden()[f"checkpoint {name}"]["times"]
    np.testing.assert_allclose(got, want, atol=1.0 if any(part in name for part in CUT) else 0.02)


@pytest.mark.parametrize(
    "name", ["Stable Diffusion 1.5", "Stable Diffusion 2.1", "Playground 2.5", "Stable Diffusion 3"]
)
def test_networks_in_the_units_of_their_training(name):
    """From a network of timesteps to the samples, with nothing in between but the documented calls."""
    schedule, predicts, table = read(name)
    exact = mixture(schedule)

    def network(x, timestep, cond):
        if predicts == "data":  # inside the preconditioning, whose input is scaled
            sigma = jnp.exp(4 * timestep)
            norm = jnp.sqrt(sigma**2 + 0.25)
            y = x * norm
            return (exact.data(y, sigma) - 0.25 / norm**2 * y) * norm / (0.5 * sigma)
        t = timestep / 1000 if predicts == "velocity" else (timestep + 1) / 1000
        if predicts == "v":
            return schedule.alpha(t) * exact.noise(x, t) - schedule.sigma(t) * exact.data(x, t)
        return getattr(exact, predicts)(x, t)

    x, end = ends(name, schedule, table)
    got = sample(Denoiser(timestepped(network, CHECKPOINTS[name]), schedule, predicts), table, jnp.asarray(x))
    np.testing.assert_allclose(got, end, rtol=1e-9, atol=1e-9)


def test_a_file_and_a_folder(tmp_path):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(PUBLISHED["PixArt-alpha"]))  # with -Infinity, as these files have it
    want = from_scheduler_config(PUBLISHED["PixArt-alpha"], 5)[2]
    for where in (path, str(path), tmp_path):
        for a, b in zip(jax.tree.leaves(from_scheduler_config(where, 5)[2]), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(a, b)


def test_flax_schedulers_have_their_own_defaults():
    """Those of DDIM did not clip, those of DPM-Solver ended at the first training step."""
    config = {key: value for key, value in PUBLISHED["DiT"].items() if key != "clip_sample"}
    table = from_scheduler_config({**config, "_class_name": "FlaxDDIMScheduler"}, 5)[2]
    np.testing.assert_array_equal(table.evals, from_scheduler_config(PUBLISHED["DiT"], 5)[2].evals)
    config = {"_class_name": "FlaxDPMSolverMultistepScheduler"}
    assert float(from_scheduler_config(config, 5)[2].t_state[-1]) == 1e-3


def test_start_leaves_out_the_noisiest_steps():
    whole, part = (from_scheduler_config(PUBLISHED["Stable Diffusion XL"], 8, start=k)[2] for k in (0, 3))
    np.testing.assert_array_equal(part.t_state, whole.t_state[3:])


def test_unknown_keys_are_refused():
    said = r"the keys \['gamma', 'solver_order'\], which DDIMScheduler does not read here"
    with pytest.raises(ValueError, match=said):
        from_scheduler_config({**PUBLISHED["DiT"], "solver_order": 2, "gamma": 1.0}, 5)


def test_keys_without_effect_are_named():
    """Every one of them leaves every class alone that does not read it, and no class reads these."""
    assert {"_class_name", "_diffusers_version", "sample_max_value", "dynamic_thresholding_ratio"} <= INERT
    for kind in KINDS.values():
        assert not {key for key in kind.defaults if key.startswith("_") or key.endswith(("max_value", "_ratio"))}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"_class_name": "LCMScheduler"}, "`_class_name` is 'LCMScheduler'; it must be 'DDIMScheduler'"),
        (
            {"_class_name": "DDIMScheduler"},
            "clip_sample=True, which no table expresses; set it to False and sample `clipped",
        ),
        ({**PUBLISHED["PixArt-alpha"], "thresholding": True}, "thresholding=True, which no table"),
        ({**PUBLISHED["PixArt-alpha"], "variance_type": "learned_range"}, "variance_type='learned_range'"),
        ({**PUBLISHED["PixArt-alpha"], "algorithm_type": "sde-dpmsolver++", "solver_order": 3}, "set it to 2"),
        ({**PUBLISHED["PixArt-alpha"], "prediction_type": "flow_prediction"}, "`prediction_type` is 'flow_prediction'"),
        ({**PUBLISHED["PixArt-alpha"], "beta_schedule": "sigmoid"}, "`beta_schedule` is 'sigmoid'; it must be"),
        (
            {**PUBLISHED["Stable Diffusion 1.5"], "timestep_spacing": "trailing"},
            "timestep_spacing='trailing', which no table",
        ),
        (PUBLISHED["FLUX.1 dev"], "`mu` is None, but the config shifts by image size"),
        ({**PUBLISHED["Wan 2.1"], "final_sigmas_type": "sigma_min"}, "flow sigmas that end before 0"),
        ({"_class_name": "EDMEulerScheduler", "final_sigmas_type": "sigma_min"}, "set it to 'zero'"),
        ({**PUBLISHED["Wan 2.1"], "solver_p": {}}, "solver_p={}, which no table"),
        (
            {**PUBLISHED["PixArt-alpha"], "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
            "ends with a step of length zero",
        ),
    ],
)
def test_what_cannot_be_expressed_is_refused(config, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_scheduler_config(config, 5)
