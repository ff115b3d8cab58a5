"""How every table is run where tables are compared: its forms, and the grids that its authors advise.

`settings()` fails on a builder without a row here, so that a new table cannot be left out of the comparisons unnoticed.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from odekit.loops.table import SamplerTable
from odekit.samplers import TABLES, adams, ddim, dpmpp, euler, heun, sa, time_grid
from odekit.schedules import EDM, FlowMatching, Schedule


class Setting(NamedTuple):
    """One form of a table: its builder with arguments, and the spacing of its grid on each kind of schedule."""

    builder: Callable[..., SamplerTable]
    arguments: Mapping[str, Any] = {}
    vp: str = "logsnr"
    ve: str = "karras"
    flow: str = "time"

    def build(self, schedule: Schedule, ts: np.ndarray) -> SamplerTable:
        """Return the table on a grid."""
        return self.builder(schedule, ts, **self.arguments)

    def spacing(self, schedule: Schedule) -> str:
        """Return the spacing that suits it on a schedule."""
        return {FlowMatching: self.flow, EDM: self.ve}.get(type(schedule), self.vp)

    def within(self, schedule: Schedule, budget: int, spacing: str | None = None) -> SamplerTable | None:
        """Return the longest table of at most `budget` evaluations; None if the shortest has more."""
        for n in range(budget, 0, -1):
            try:
                table = self.build(schedule, time_grid(schedule, n, spacing or self.spacing(schedule)))
            except ValueError:
                continue  # too few steps for this form
            if table.nfe <= budget:
                return table
        return None


LEFT_OUT: dict[Callable, str] = {}
"""Builders that are not compared, and why."""

_SETTINGS = {
    "ddim": Setting(ddim),
    "ddim eta 1": Setting(ddim, {"eta": 1.0}),
    "euler": Setting(euler, vp="quadratic"),
    "heun": Setting(heun, vp="quadratic"),
    "adams2": Setting(adams, {"order": 2}, vp="quadratic"),
    "adams3": Setting(adams, {"order": 3}, vp="quadratic"),
    "dpmpp2": Setting(dpmpp, {"order": 2}),
    "dpmpp3": Setting(dpmpp, {"order": 3}),
    "sa2c2 ode": Setting(sa, {"order": 2, "corrector": 2, "tau": 0.0}),
    "sa3c4 ode": Setting(sa, {"order": 3, "corrector": 4, "tau": 0.0}),
    "sa2": Setting(sa, {"order": 2}),
    "sa3c4": Setting(sa, {"order": 3, "corrector": 4}),
}


def settings() -> dict[str, Setting]:
    """Return every form of every table.

    Raises:
        LookupError: a builder of odekit has no row.
    """
    known = {setting.builder for setting in _SETTINGS.values()} | LEFT_OUT.keys()
    if missing := [builder.__name__ for builder in TABLES if builder not in known]:
        raise LookupError(f"no row for {', '.join(missing)}; add one to benchmarks/settings.py.")
    return _SETTINGS
