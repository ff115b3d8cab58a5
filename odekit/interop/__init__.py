"""Doors to and from other libraries."""

from odekit.interop import solvers
from odekit.interop.diffrax import diffeqsolve
from odekit.interop.method import as_diffrax

__all__ = ["as_diffrax", "diffeqsolve", "solvers"]
