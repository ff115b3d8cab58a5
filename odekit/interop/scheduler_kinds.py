"""What each scheduler class of published checkpoints reads, and the table that it amounts to."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from odekit.errors import require_one_of
from odekit.interop import scheduler_grids as grids
from odekit.loops.table import SamplerTable
from odekit.samplers import adams, ancestral, ddim, ddpm, deis, dpm, dpmpp, euler, heun, pndm, sa, seeds, unipc
from odekit.schedules import EDM, FlowMatching, Schedule

Times = Callable[[dict, int, float | None], tuple[Schedule, np.ndarray]]


class Kind(NamedTuple):
    """What a class amounts to: defaults, schedule with times, table, and the values of settings that a table holds."""

    defaults: dict[str, Any]
    times: Times
    table: Callable[[dict, Schedule, np.ndarray], SamplerTable]
    only: dict[str, tuple] = {}


def _by_index(settings: dict, n: int, mu: float | None) -> tuple[Schedule, np.ndarray]:
    schedule = grids.variance_preserving(settings)
    return schedule, grids.index_steps(settings, schedule, n)


def _ddpm_times(settings: dict, n: int, mu: float | None) -> tuple[Schedule, np.ndarray]:
    schedule = grids.variance_preserving(settings)
    return schedule, np.append((np.round(grids.indices(settings, schedule, n, 0)) + 1) / schedule.n, 0.0)


def _by_level(spare: int, final: str | None = None, *, from_one: bool = False) -> Times:
    def times(settings: dict, n: int, mu: float | None) -> tuple[Schedule, np.ndarray]:
        if settings.get("use_flow_sigmas"):
            return FlowMatching(), grids.flow_sigma_times(settings, n, mu, from_one=from_one)
        schedule, last = grids.variance_preserving(settings), settings.get("final_sigmas_type", "zero")
        return schedule, grids.level_times(settings, schedule, n, spare, final or last)

    return times


def _matched(settings: dict, n: int, mu: float | None) -> tuple[Schedule, np.ndarray]:
    return FlowMatching(), grids.flow_times(settings, n, mu)


def _edm(settings: dict, n: int, mu: float | None) -> tuple[Schedule, np.ndarray]:
    return EDM(), grids.edm_times(settings, n)


def _sa(settings: dict, schedule: Schedule, ts: np.ndarray) -> SamplerTable:
    k = settings["num_train_timesteps"] * ts[:-1] - 1
    tau = np.where((k > 199.5) & (k < 800.5), 1.0, 0.0)
    if tau[-1]:
        raise ValueError(f"`n` is {len(tau)}, with which the last step of SASolverScheduler has noise; take 5 or more.")
    order, corrector = settings["predictor_order"], settings["corrector_order"]
    return sa(schedule, ts, order, corrector=corrector, tau=tau, compat=True)


def _plain(build: Callable, *args: Any, **options: Any) -> Callable:
    return lambda settings, schedule, ts: build(schedule, ts, *args, **options)


def _over_steps(build: Callable, schedule: Schedule, steps: np.ndarray) -> SamplerTable:
    """Return the table over (n, 2) steps; where these don't meet, their tables are built one by one and joined."""
    steps = steps[steps[:, 0] != steps[:, 1]]  # the last may start and end at the first training step
    if np.array_equal(steps[1:, 0], steps[:-1, 1]):
        return build(schedule, np.append(steps[:, 0], steps[-1, 1]))
    rows = [build(schedule, step) for step in steps]
    t, states, evals = (jnp.concatenate([getattr(row, name) for row in rows]) for name in ("t", "states", "evals"))
    return dataclasses.replace(rows[0], t=t, states=states, evals=evals, t_state=jnp.append(t, rows[-1].t_state[-1]))


def _ddpm(settings: dict, schedule: Schedule, ts: np.ndarray) -> SamplerTable:
    return ddpm(schedule, ts, settings["variance_type"].removeprefix("fixed_"))


def _ddim(settings: dict, schedule: Schedule, steps: np.ndarray) -> SamplerTable:
    return _over_steps(ddim, schedule, steps)


def _pndm(settings: dict, schedule: Schedule, steps: np.ndarray) -> SamplerTable:
    return _over_steps(partial(pndm, kind="plms" if settings["skip_prk_steps"] else "f"), schedule, steps)


def _lms(settings: dict, schedule: Schedule, ts: np.ndarray) -> SamplerTable:
    """Adams in sigma / alpha, where the last point is a point like others; the state is multiplied by alpha again."""
    alpha = schedule.alpha(ts)
    table = adams(EDM(), schedule.sigma(ts) / alpha, 4)
    states, evals = table.states * (alpha[1:] / alpha[:-1])[:, None, None], table.evals * alpha[1:, None, None]
    t, t_state = jnp.asarray(ts[:-1]), jnp.asarray(ts)
    return dataclasses.replace(table, t=t, t_state=t_state, states=states, evals=evals, view="noise")


def _lowered(settings: dict, ts: np.ndarray) -> bool | str:
    if settings["lower_order_final"] and len(ts) <= 15:
        return True
    return "last" if settings.get("euler_at_final") else False


def _dpm(settings: dict, schedule: Schedule, ts: np.ndarray) -> SamplerTable:
    algorithm, variant, order = (settings[key] for key in ("algorithm_type", "solver_type", "solver_order"))
    require_one_of(
        "algorithm_type", algorithm, ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis")
    )
    require_one_of("solver_type", variant, ("midpoint", "heun", "logrho", "bh1", "bh2"))
    if algorithm.startswith("sde") and order == 3:
        raise ValueError("`config` has solver_order=3 of an SDE, whose published weights are no solver's; set it to 2.")
    build = dpm if algorithm.endswith("dpmsolver") else dpmpp
    options = {"variant": "heun" if variant == "heun" else "midpoint", "tau": float(algorithm.startswith("sde"))}
    return build(schedule, ts, order, lower_order_final=_lowered(settings, ts), compat=True, **options)


def _deis(settings: dict, schedule: Schedule, ts: np.ndarray) -> SamplerTable:
    return deis(schedule, ts, settings["solver_order"] - 1, "lam", lower_order_final=_lowered(settings, ts))


def _unipc(settings: dict, schedule: Schedule, ts: np.ndarray) -> SamplerTable:
    view, variant = "data" if settings["predict_x0"] else "noise", settings["solver_type"]
    require_one_of("solver_type", variant, ("bh1", "bh2", "midpoint", "heun", "logrho"))
    return unipc(
        schedule,
        ts,
        settings["solver_order"],
        variant="bh1" if variant == "bh1" else "bh2",
        view=view,
        corrector=~np.isin(np.arange(len(ts) - 1), settings["disable_corrector"]),
        lower_order_final=settings["lower_order_final"],
        compat=True,
    )


_TRAINED = {"num_train_timesteps": 1000, "prediction_type": "epsilon"}
_RATES = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": None}
_SPACED = {**_TRAINED, **_RATES, "timestep_spacing": "linspace", "steps_offset": 0}
_SNR = {"rescale_betas_zero_snr": False}
_ENDS = {"final_sigmas_type": "zero"}
_BOUNDS = {"sigma_min": None, "sigma_max": None}
_RESPACED = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_SHIFT = {"use_dynamic_shifting": False, "time_shift_type": "exponential"}

_INDEX = {**_SPACED, "timestep_spacing": "leading"}
_CLIPPED = {"clip_sample": True, "thresholding": False, **_SNR}
_LEVEL = {**_SPACED, **_RESPACED}
_LATENT = {**_LEVEL, "beta_start": 0.00085, "beta_end": 0.012}
_EULER = {**_LEVEL, **_SNR, **_ENDS, **_BOUNDS, "interpolation_type": "linear", "timestep_type": "discrete"}
_FLOW = {"use_flow_sigmas": False, "flow_shift": 1.0, **_SHIFT}
_HISTORY = {"solver_order": 2, "lower_order_final": True, "thresholding": False}
_SOLVER = {**_HISTORY, **_ENDS, "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "euler_at_final": False}
_LAM = {"use_lu_lambdas": False, "lambda_min_clipped": -np.inf, "variance_type": None}
_UNIPC = {"predict_x0": True, "solver_type": "bh2", "disable_corrector": [], "solver_p": None, "shift_terminal": None}
_SA = {"predictor_order": 2, "corrector_order": 2, "tau_func": None, "thresholding": False, "lower_order_final": True}
_SA |= {"algorithm_type": "data_prediction"}
_SA_ONLY = {"lower_order_final": (True,), "algorithm_type": ("data_prediction",), "use_flow_sigmas": (False,)}
_EDM = {**_TRAINED, **_ENDS, "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "sigma_schedule": "karras"}
_EDM |= {"rho": 7.0}
_MATCHED = {"num_train_timesteps": 1000, "shift": 1.0}
_MATCHED_EULER = {**_MATCHED, **_SHIFT, **_RESPACED, "shift_terminal": None, "invert_sigmas": False}

KINDS = {
    "DDIMScheduler": Kind({**_INDEX, **_CLIPPED, "set_alpha_to_one": True}, _by_index, _ddim),
    "DDPMScheduler": Kind({**_INDEX, **_CLIPPED, "variance_type": "fixed_small"}, _ddpm_times, _ddpm),
    "PNDMScheduler": Kind(
        {**_INDEX, "skip_prk_steps": False, "set_alpha_to_one": False},
        _by_index,
        _pndm,
        {"timestep_spacing": ("leading",)},
    ),
    "EulerDiscreteScheduler": Kind(_EULER, _by_level(0), _plain(ddim)),
    "EulerAncestralDiscreteScheduler": Kind({**_SPACED, **_SNR}, _by_level(0), _plain(ddim, 1.0)),
    "HeunDiscreteScheduler": Kind({**_LATENT, "clip_sample": False}, _by_level(0), _plain(deis, 1, "rhork")),
    "KDPM2DiscreteScheduler": Kind(_LATENT, _by_level(0), _plain(dpm, 2, "singlestep", lower_order_final="last")),
    "KDPM2AncestralDiscreteScheduler": Kind(_LATENT, _by_level(0), _plain(ancestral, "noise")),
    "DPMSolverSDEScheduler": Kind(_LATENT, _by_level(0), _plain(seeds)),
    "LMSDiscreteScheduler": Kind(_LEVEL, _by_level(0), _lms),
    "DPMSolverMultistepScheduler": Kind({**_LEVEL, **_SOLVER, **_LAM, **_FLOW, **_SNR}, _by_level(1), _dpm),
    "DEISMultistepScheduler": Kind(
        {**_LEVEL, **_HISTORY, **_FLOW, "algorithm_type": "deis", "solver_type": "logrho"},
        _by_level(1, "sigma_min"),
        _deis,
        {"use_flow_sigmas": (False,)},
    ),
    "SASolverScheduler": Kind({**_LEVEL, **_SA, **_LAM, **_FLOW}, _by_level(1, "sigma_min"), _sa, _SA_ONLY),
    "UniPCMultistepScheduler": Kind(
        {**_LEVEL, **_HISTORY, **_UNIPC, **_ENDS, **_FLOW, **_BOUNDS, **_SNR}, _by_level(1, from_one=True), _unipc
    ),
    "EDMEulerScheduler": Kind(_EDM, _edm, _plain(ddim), {"final_sigmas_type": ("zero",)}),
    "EDMDPMSolverMultistepScheduler": Kind({**_EDM, **_SOLVER}, _edm, _dpm, {"final_sigmas_type": ("zero",)}),
    "FlowMatchEulerDiscreteScheduler": Kind({**_MATCHED_EULER, "stochastic_sampling": False}, _matched, _plain(euler)),
    "FlowMatchHeunDiscreteScheduler": Kind(_MATCHED, _matched, _plain(heun, euler_at_final=True)),
}
"""Every class that can be read, by name."""
