"""Few-step generation: every sampler is a function `(schedule, ts) -> SamplerTable`."""

from odekit.samplers.accelerated import accelerated_ddim
from odekit.samplers.ddim import ddim
from odekit.samplers.deis import deis
from odekit.samplers.denoiser import Denoiser, guided
from odekit.samplers.dpm import dpm, dpmpp
from odekit.samplers.dpm_v3 import dpm_v3
from odekit.samplers.exact import Empirical, GaussianMixture, gaussian
from odekit.samplers.grids import time_grid
from odekit.samplers.pndm import pndm
from odekit.samplers.rk import adams, euler, heun, rf, runge_kutta
from odekit.samplers.sample import sample
from odekit.samplers.singlestep import budget_orders
from odekit.samplers.stochastic import sa
from odekit.samplers.unipc import unipc
from odekit.samplers.v3_statistics import V3Statistics, v3_statistics

TABLES = (accelerated_ddim, adams, ddim, deis, dpm, dpm_v3, dpmpp, euler, heun, pndm, rf, runge_kutta, sa, unipc)
"""Every table builder."""

__all__ = [
    "TABLES",
    "Denoiser",
    "Empirical",
    "GaussianMixture",
    "V3Statistics",
    "accelerated_ddim",
    "adams",
    "budget_orders",
    "ddim",
    "deis",
    "dpm",
    "dpm_v3",
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
    "v3_statistics",
]
