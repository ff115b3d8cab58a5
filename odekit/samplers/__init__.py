"""Few-step generation: every sampler is a function `(schedule, ts) -> SamplerTable`."""

from odekit.loops.table import TableState
from odekit.samplers.bridges import dbim, ddbm
from odekit.samplers.ddim import ddim
from odekit.samplers.deis import deis
from odekit.samplers.denoiser import Denoiser, guided
from odekit.samplers.dpm import dpm, dpmpp
from odekit.samplers.editing import controlled, encode_noise, slerp, translate
from odekit.samplers.exact import Empirical, GaussianMixture, gaussian
from odekit.samplers.grids import time_grid
from odekit.samplers.inversion import Inversion, invert
from odekit.samplers.pndm import pndm
from odekit.samplers.reversible import bdia, belm, edict
from odekit.samplers.rex import rex
from odekit.samplers.rk import adams, euler, heun, rf, runge_kutta
from odekit.samplers.sample import sample
from odekit.samplers.singlestep import budget_orders
from odekit.samplers.steps import amplification, inverse
from odekit.samplers.stochastic import sa
from odekit.samplers.unipc import unipc

TABLES = (adams, bdia, belm, ddim, deis, dpm, dpmpp, edict, euler, heun, pndm, rex, rf, runge_kutta, sa, unipc)
"""Every table builder."""

__all__ = [
    "Denoiser",
    "Empirical",
    "GaussianMixture",
    "Inversion",
    "TableState",
    "TABLES",
    "adams",
    "amplification",
    "bdia",
    "belm",
    "budget_orders",
    "controlled",
    "dbim",
    "ddbm",
    "ddim",
    "deis",
    "dpm",
    "dpmpp",
    "edict",
    "encode_noise",
    "euler",
    "gaussian",
    "guided",
    "heun",
    "inverse",
    "invert",
    "pndm",
    "rex",
    "rf",
    "runge_kutta",
    "sa",
    "sample",
    "slerp",
    "time_grid",
    "translate",
    "unipc",
]
