"""Few-step generation: every sampler is a function `(schedule, ts) -> SamplerTable`."""

from odekit.samplers.ddim import ddim
from odekit.samplers.deis import deis
from odekit.samplers.denoiser import Denoiser, guided
from odekit.samplers.dpm import dpm, dpmpp
from odekit.samplers.exact import Empirical, GaussianMixture, gaussian
from odekit.samplers.grids import time_grid
from odekit.samplers.pndm import pndm
from odekit.samplers.rk import adams, euler, heun, rf, runge_kutta
from odekit.samplers.sample import sample
from odekit.samplers.singlestep import budget_orders
from odekit.samplers.stochastic import sa
from odekit.samplers.unipc import unipc

TABLES = (adams, ddim, deis, dpm, dpmpp, euler, heun, pndm, rf, runge_kutta, sa, unipc)
"""Every table builder."""

__all__ = [
    "TABLES",
    "Denoiser",
    "Empirical",
    "GaussianMixture",
    "adams",
    "budget_orders",
    "ddim",
    "deis",
    "dpm",
    "dpmpp",
    "euler",
    "gaussian",
    "guided",
    "heun",
    "pndm",
    "rf",
    "runge_kutta",
    "sa",
    "sample",
    "time_grid",
    "unipc",
]
