"""Few-step generation: every sampler is a function `(schedule, ts) -> SamplerTable`."""

from odekit.samplers.adaptive import adaptive_sample, by_larger, gotta_go_fast
from odekit.samplers.continuous import probability_flow, reverse_sde
from odekit.samplers.ddim import ddim
from odekit.samplers.deis import deis
from odekit.samplers.denoiser import Denoiser, guided
from odekit.samplers.dpm import dpm, dpmpp
from odekit.samplers.exact import Empirical, GaussianMixture, gaussian
from odekit.samplers.grids import time_grid
from odekit.samplers.likelihood import log_prob
from odekit.samplers.pairs import DPM12, DPM23
from odekit.samplers.parallel import sample_parallel
from odekit.samplers.pndm import pndm
from odekit.samplers.rk import adams, euler, heun, rf, runge_kutta
from odekit.samplers.sample import sample
from odekit.samplers.singlestep import budget_orders
from odekit.samplers.skipping import sada
from odekit.samplers.stochastic import sa
from odekit.samplers.unipc import unipc

TABLES = (adams, ddim, deis, dpm, dpmpp, euler, heun, pndm, rf, runge_kutta, sa, unipc)
"""Every table builder."""

__all__ = [
    "DPM12",
    "DPM23",
    "Denoiser",
    "Empirical",
    "GaussianMixture",
    "TABLES",
    "adams",
    "adaptive_sample",
    "budget_orders",
    "by_larger",
    "ddim",
    "deis",
    "dpm",
    "dpmpp",
    "euler",
    "gaussian",
    "gotta_go_fast",
    "guided",
    "heun",
    "log_prob",
    "pndm",
    "probability_flow",
    "reverse_sde",
    "rf",
    "runge_kutta",
    "sa",
    "sada",
    "sample",
    "sample_parallel",
    "time_grid",
    "unipc",
]
