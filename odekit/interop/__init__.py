"""Doors to and from other libraries."""

from odekit.interop import kdiffusion, solvers
from odekit.interop.diffrax import diffeqsolve
from odekit.interop.flax_scheduler import FlaxScheduler
from odekit.interop.method import as_diffrax
from odekit.interop.scheduler_config import from_scheduler_config, timestepped

__all__ = [
    "FlaxScheduler",
    "as_diffrax",
    "diffeqsolve",
    "from_scheduler_config",
    "kdiffusion",
    "solvers",
    "timestepped",
]
