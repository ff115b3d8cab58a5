"""How every table is run where tables are compared: its forms, and the grids that its authors advise.

`settings()` fails on a builder without a row here, so that a new table cannot be left out of the comparisons unnoticed.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

import odekit as ok
from odekit import samplers
from odekit.loops.table import SamplerTable
from odekit.samplers import time_grid
from odekit.schedules import EDM, FlowMatching, Schedule


class Setting(NamedTuple):
    """One form of a table: its builder with arguments, and the spacing of its grid on each kind of schedule.

    Arguments that depend on the model are a function of it and of states to start from; `on` fills them in.
    """

    builder: Callable[..., SamplerTable]
    arguments: Mapping[str, Any] | Callable[[Any, Any], Mapping[str, Any]] = {}
    vp: str = "logsnr"
    ve: str = "karras"
    flow: str = "time"

    def on(self, model: Any, x: Any) -> "Setting":
        """Return the setting for a model, with states to measure it on."""
        return self._replace(arguments=self.arguments(model, x)) if callable(self.arguments) else self

    def build(self, schedule: Schedule, ts: np.ndarray) -> SamplerTable:
        """Return the table on a grid."""
        return self.builder(schedule, ts, **self.arguments)

    def spacing(self, schedule: Schedule) -> str:
        """Return the spacing that suits it on a schedule."""
        return {FlowMatching: self.flow, EDM: self.ve}.get(type(schedule), self.vp)

    def within(self, schedule: Schedule, budget: int, spacing: str | None = None) -> SamplerTable | None:
        """Return the longest table of at most `budget` evaluations; None if there is none."""
        for n in range(budget, 0, -1):
            try:
                table = self.build(schedule, time_grid(schedule, n, spacing or self.spacing(schedule)))
            except (ValueError, IndexError):
                continue  # too few steps for this form, or a start without data where it needs some
            if table.nfe <= budget:
                return table
        return None


def _statistics(model: Any, x: Any) -> dict:
    """What DPM-Solver-v3 measures on a model: exactly in the plane, with one probe a sample on images."""
    key = None if x.shape[-1] == 2 else jax.random.key(4)
    ends = {"start": 0.999, "end": 0.001} if isinstance(model.schedule, FlowMatching) else {}
    return {"statistics": samplers.v3_statistics(model, x, 60 if key is not None else 600, key=key, **ends)}


def _restarts(model: Any, x: Any) -> dict:
    """One way back up, between sigma/alpha of .06 and .30."""
    low, high = model.schedule.t_of_lam(-np.log([0.06, 0.30])).tolist()
    return {"intervals": [(3, 1, low, high)]}


LEFT_OUT: dict[str, str] = {
    "dbim": "a bridge between two images",
    "ddbm": "a bridge between two images",
}
"""Builders that are not compared, and why."""

_SETTINGS = {
    "ddim": Setting(samplers.ddim, vp="quadratic"),
    "euler": Setting(samplers.euler, vp="quadratic"),
    "heun": Setting(samplers.heun, vp="quadratic"),
    "rf": Setting(samplers.rf, vp="quadratic"),
    "rf reuse": Setting(samplers.rf, {"reuse": True}, vp="quadratic"),
    "rk4": Setting(samplers.runge_kutta, {"method": ok.RK4()}, vp="quadratic"),
    "midpoint rho": Setting(samplers.runge_kutta, {"variable": "rho"}, vp="karras"),
    "adams2": Setting(samplers.adams, {"order": 2}, vp="quadratic"),
    "adams3": Setting(samplers.adams, {"order": 3}, vp="quadratic"),
    "adams4": Setting(samplers.adams, {"order": 4}, vp="quadratic"),
    "edm": Setting(samplers.edm, vp="karras"),
    "pndm2 i": Setting(samplers.pndm, {"order": 2}, vp="quadratic"),
    "pndm3 i": Setting(samplers.pndm, {"order": 3}, vp="quadratic"),
    "pndm4 i": Setting(samplers.pndm, vp="quadratic"),
    "pndm2 s": Setting(samplers.pndm, {"order": 2, "kind": "s"}, vp="quadratic"),
    "pndm4 plms": Setting(samplers.pndm, {"order": 4, "kind": "plms"}, vp="quadratic"),
    "pndm4 f": Setting(samplers.pndm, {"order": 4, "kind": "f"}, vp="quadratic"),
    "deis2 tab": Setting(samplers.deis, {"order": 2}, vp="quadratic"),
    "deis3 tab": Setting(samplers.deis, {"order": 3}, vp="quadratic"),
    "deis3 rhoab": Setting(samplers.deis, {"order": 3, "kind": "rhoab"}, vp="quadratic"),
    "deis2 rhork": Setting(samplers.deis, {"order": 2, "kind": "rhork"}, vp="quadratic"),
    "dpm2": Setting(samplers.dpm, {"order": 2}),
    "dpm3": Setting(samplers.dpm, {"order": 3}),
    "dpm2 single": Setting(samplers.dpm, {"order": 2, "kind": "singlestep"}),
    "dpm3 fast": Setting(samplers.dpm, {"order": 3, "kind": "fast"}),
    "dpmpp2": Setting(samplers.dpmpp, {"order": 2}),
    "dpmpp3": Setting(samplers.dpmpp, {"order": 3}),
    "dpmpp3 published": Setting(samplers.dpmpp, {"order": 3, "compat": True}),
    "dpmpp2 single": Setting(samplers.dpmpp, {"order": 2, "kind": "singlestep"}),
    "dpmpp3 fast": Setting(samplers.dpmpp, {"order": 3, "kind": "fast"}),
    "dpm_v3": Setting(samplers.dpm_v3, _statistics),
    "unipc2": Setting(samplers.unipc, {"order": 2}),
    "unipc3": Setting(samplers.unipc, {"order": 3}),
    "unipc3 noise": Setting(samplers.unipc, {"order": 3, "view": "noise"}),
    "er_sde3 ode": Setting(samplers.er_sde, {"noise_scale": "ode"}, vp="karras"),
    "accelerated_ddim": Setting(samplers.accelerated_ddim, vp="time"),
    # exactly invertible
    "bdia": Setting(samplers.bdia),
    "bdia half": Setting(samplers.bdia, {"gamma": 0.5}),
    "belm": Setting(samplers.belm),
    "edict": Setting(samplers.edict),
    "rex euler": Setting(samplers.rex),
    "rex midpoint": Setting(samplers.rex, {"method": ok.Midpoint()}),
    # with noise
    "ddim eta 1": Setting(samplers.ddim, {"eta": 1.0}),
    "ddpm large": Setting(samplers.ddpm, {"variance": "large"}),
    "ddpm midpoint": Setting(samplers.ddpm, {"midpoint_noise": True}),
    "euler_maruyama": Setting(samplers.euler_maruyama, vp="time"),
    "reverse_diffusion": Setting(samplers.reverse_diffusion, vp="time"),
    "flow_dps": Setting(samplers.flow_dps),
    "ancestral": Setting(samplers.ancestral),
    "edm churn": Setting(samplers.edm, {"churn": 5.0, "churn_min": 0.05, "churn_max": 50.0}, vp="karras"),
    "restart": Setting(samplers.restart, _restarts, vp="karras"),
    "dpmpp2 sde": Setting(samplers.dpmpp, {"order": 2, "tau": 1.0}),
    "sa2": Setting(samplers.sa, {"order": 2}),
    "sa2c2": Setting(samplers.sa, {"order": 2, "corrector": 2}),
    "sa3c4": Setting(samplers.sa, {"order": 3, "corrector": 4}),
    "er_sde3": Setting(samplers.er_sde, vp="karras"),
    "seeds2": Setting(samplers.seeds),
}


def settings() -> dict[str, Setting]:
    """Return every form of every table.

    Raises:
        LookupError: a builder of odekit has no row.
    """
    known = {setting.builder.__name__ for setting in _SETTINGS.values()} | LEFT_OUT.keys()
    if missing := [builder.__name__ for builder in samplers.TABLES if builder.__name__ not in known]:
        raise LookupError(f"no row for {', '.join(missing)}; add one to benchmarks/settings.py.")
    return _SETTINGS
