"""The scheduler_config.json of a published checkpoint as a schedule, a prediction and a table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.errors import require_one_of
from odekit.interop.scheduler_kinds import KINDS, Kind
from odekit.loops.table import SamplerTable
from odekit.samplers.denoiser import fitted
from odekit.schedules import EDM, FlowMatching, Schedule
from odekit.trees import add
from odekit.typing import PyTree

PREDICTS = {"epsilon": "noise", "sample": "data", "v_prediction": "v", "flow_prediction": "velocity"}

INERT = {
    *("_class_name", "_diffusers_version", "_use_default_values", "noise_sampler_seed"),
    *("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"),  # used by what is refused alone
    *("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"),  # make `mu`, outside the scheduler
    *("clip_sample", "set_alpha_to_one", "skip_prk_steps", "steps_offset"),  # written for classes that don't read them
    *("interpolation_type", "variance_type", "prediction_type", "rescale_betas_zero_snr", "timestep_type"),
}
"""Keys of published files that change nothing here, unless the class in question reads them."""

ONLY = {
    "clip_sample": (False,),
    "thresholding": (False,),
    "interpolation_type": ("linear",),
    "solver_p": (None,),
    "tau_func": (None,),
    "invert_sigmas": (False,),
    "stochastic_sampling": (False,),
    "variance_type": (None, "fixed_small", "fixed_large"),
}
"""Values that a table can express, of keys that also have others."""

FLAX = {"DDIMScheduler": {"clip_sample": False}, "DPMSolverMultistepScheduler": {"final_sigmas_type": "sigma_min"}}
"""Defaults of classes whose Flax version, `FlaxDDIMScheduler` and so on, had others."""

HOOKS = {"clip_sample": " and sample `clipped(model)`", "thresholding": " and sample `thresholded(model)`"}
"""What does the same to the model."""


def from_scheduler_config(
    config: dict | str | Path, n: int, *, start: int = 0, mu: float | None = None
) -> tuple[Schedule, str, SamplerTable]:
    """Return schedule, prediction and table of a published checkpoint, as its scheduler would sample it in n steps.

    States are those of the path that the network was trained on, also where the scheduler keeps them divided by alpha:
    start from `sigma(t_0) z`. Networks take time in other units: see `timestepped`.

    Args:
        config: the dictionary, the file, or the folder that holds it.
        n: number of steps.
        start: steps to leave out at the noisy end, for editing an image from its noised state.
        mu: shift of the times by image size, for configs with `use_dynamic_shifting`.

    Returns:
        `(schedule, predicts, table)`, the first two for a `Denoiser`.

    Raises:
        ValueError: the class is not known, a key is not known to it, or no table expresses a value; nothing is ignored
            but the keys in `scheduler_config.INERT`. `mu` is wanted and missing.

    Example:
        >>> config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
        >>> from_scheduler_config(config, 4)[2].t.round(3).tolist()
        [1.0, 0.858, 0.602, 0.009]

    Source: the sampler's own, `table.source`.
    """
    kind, settings = read(config)
    schedule, ts = kind.times(settings, n, mu)
    return schedule, predicted(settings, schedule), kind.table(settings, schedule, ts[start:])


def _loaded(path: Path) -> dict:
    return json.loads((path / "scheduler_config.json" if path.is_dir() else path).read_text())


def predicted(settings: dict, schedule: Schedule) -> str:
    """Return what the network predicts, in the words of `Denoiser`."""
    predicts, flow = settings.get("prediction_type", "flow_prediction"), isinstance(schedule, FlowMatching)
    require_one_of("prediction_type", predicts, [key for key in PREDICTS if flow or key != "flow_prediction"])
    return "data" if isinstance(schedule, EDM) else PREDICTS[predicts]


def read(config: dict | str | Path) -> tuple[Kind, dict]:
    """Return the kind of scheduler and all its settings, given or default."""
    given = config if isinstance(config, dict) else _loaded(Path(config))
    full_name = given.get("_class_name", "")
    name = full_name.removeprefix("Flax")
    require_one_of("_class_name", name, tuple(KINDS))
    kind = KINDS[name]
    if unknown := sorted(given.keys() - kind.defaults.keys() - INERT):
        raise ValueError(f"`config` has the keys {unknown}, which {name} does not read here; drop what has no effect.")
    defaults = kind.defaults | (FLAX.get(name, {}) if name != full_name else {})
    settings = {**defaults, **{key: value for key, value in given.items() if key in kind.defaults}}
    for key, values in (ONLY | kind.only).items():
        if key in settings and settings[key] not in values:
            raise ValueError(
                f"`config` has {key}={settings[key]!r}, which no table expresses; set it to {values[0]!r}"
                f"{HOOKS.get(key, '')}."
            )
    return kind, settings


def timestepped(fn: Callable, config: dict | str | Path) -> Callable:
    """Return a network that takes the time of training, `fn(x, timestep, cond)`, as one that takes odekit's time.

    The timestep is `1000 t - 1` for networks trained on 1000 discrete steps, `1000 t` for flows, and the logarithm of
    sigma / 4 for those that take a continuous one. EDM networks also get their input scaled, and their output as the
    data prediction.

    Args:
        fn: the network.
        config: as for `from_scheduler_config`.

    Returns:
        `fn(x, t, cond)` for a `Denoiser`, a pytree if fn is one.

    Example:
        >>> config = {"_class_name": "PNDMScheduler"}
        >>> float(timestepped(lambda x, n, cond: n, config)(None, jnp.array(0.5), None))
        499.0

    Source: Ho et al., NeurIPS 2020 (arXiv 2006.11239); Karras et al., NeurIPS 2022, table 1 (arXiv 2206.00364).
    """
    kind, settings = read(config)
    schedule, _ = kind.times(settings, 2, 0.0)
    if isinstance(schedule, EDM):
        sign = 1.0 if settings["prediction_type"] == "epsilon" else -1.0
        return _Preconditioned(fn, settings["sigma_data"], sign)
    continuous = settings.get("timestep_type") == "continuous" and settings["prediction_type"] == "v_prediction"
    unit = "log" if continuous else "flow" if isinstance(schedule, FlowMatching) else "index"
    return Timestepped(fn, schedule, unit, settings["num_train_timesteps"])


class Timestepped(eqx.Module):
    """A network that takes the time of training, called with odekit's; and the translation of either into the other."""

    fn: Callable
    schedule: Schedule
    unit: str = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    def __call__(self, x: PyTree, t: Array, cond: Any) -> PyTree:
        """Return what the network says at the time of training that is `t`."""
        return self.fn(x, self.timestep(t), cond)

    def timestep(self, t: Any) -> Any:
        """Return the time of training."""
        return -self.schedule.lam(t) / 4 if self.unit == "log" else self.steps * t - self._first

    def time(self, timestep: Any) -> Any:
        """Return odekit's time."""
        if self.unit == "log":
            return self.schedule.t_of_lam(-4 * timestep)
        return (timestep + self._first) / self.steps

    @property
    def _first(self) -> float:
        return 1.0 if self.unit == "index" else 0.0  # training steps are counted from 0, times from no noise at all


class _Preconditioned(eqx.Module):
    """The data prediction of a network that answers inside the preconditioning of Karras et al."""

    fn: Callable
    sigma_data: float = eqx.field(static=True)
    sign: float = eqx.field(static=True)

    def __call__(self, x: PyTree, t: Array, cond: Any) -> PyTree:
        norm = jnp.sqrt(t**2 + self.sigma_data**2)
        skip, out = (self.sigma_data / norm) ** 2, self.sign * self.sigma_data * t / norm

        def weighed(c: Array, x: PyTree) -> PyTree:
            return jax.tree.map(lambda x: fitted(c, x) * x, x)

        return add(weighed(skip, x), weighed(out, self.fn(weighed(1 / norm, x), jnp.log(t) / 4, cond)))
