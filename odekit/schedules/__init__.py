"""Noise schedules: `x_t = alpha(t) data + sigma(t) noise`, with `lam = log(alpha / sigma)` increasing towards data.

Every function takes NumPy values (float64 results on the host, where sampler tables are built) or JAX arrays (traced,
in their dtype, where models are evaluated and grids are trained). Differences of nearly equal numbers are avoided, so
that both ends are as accurate as the middle.
"""

from odekit.schedules.base import Schedule, namespace
from odekit.schedules.bridge import Bridge
from odekit.schedules.discrete import DiscreteVP, betas, from_betas, zero_terminal_snr
from odekit.schedules.flow import FlowMatching, KineticOptimal
from odekit.schedules.interpolant import Interpolant, OneSided
from odekit.schedules.ve import EDM, VE
from odekit.schedules.vp import SubVP, VPCosine, VPLinear

__all__ = [
    "EDM",
    "VE",
    "Bridge",
    "DiscreteVP",
    "FlowMatching",
    "Interpolant",
    "KineticOptimal",
    "OneSided",
    "Schedule",
    "SubVP",
    "VPCosine",
    "VPLinear",
    "betas",
    "from_betas",
    "namespace",
    "zero_terminal_snr",
]
