"""Single-step DPM-Solver and DPM-Solver++: stages inside each step, no history."""

from typing import Any

from odekit.loops.table import SamplerTable
from odekit.schedules import Schedule


def singlestep(
    view: str, schedule: Schedule, ts: Any, order: int, variant: str, lower_order_final: Any, **about: str
) -> SamplerTable:
    """Return the single-step table of `dpm` (view "noise") or `dpmpp` (view "data"); `about` is its name and source."""
    raise ValueError("`kind` is 'singlestep'; only 'multistep' can be built so far.")


def rhork(schedule: Schedule, ts: Any, order: int, **about: str) -> Any:
    """Return the table of `deis` with kind "rhork", a Runge-Kutta rule on `dy/drho = noise`; `about` names it."""
    raise ValueError("`kind` is 'rhork'; only 'tab', 'rhoab' and 'lam' can be built so far.")
