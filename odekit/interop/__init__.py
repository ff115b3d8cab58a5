"""Doors to and from other libraries."""

from odekit.interop import solvers
from odekit.interop.diffrax import diffeqsolve
from odekit.interop.method import as_diffrax
from odekit.interop.scheduler_config import from_scheduler_config, timestepped

__all__ = ["as_diffrax", "diffeqsolve", "from_scheduler_config", "solvers", "timestepped"]
