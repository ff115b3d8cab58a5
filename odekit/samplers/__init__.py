"""Few-step generation: every sampler is a function `(schedule, ts) -> SamplerTable`."""

from odekit.samplers.adaptive import DPM12, DPM23, adaptive_sample, by_larger, gotta_go_fast
from odekit.samplers.continuous import probability_flow, reverse_sde
from odekit.samplers.ddim import ddim
from odekit.samplers.denoiser import Denoiser, guided
from odekit.samplers.dpm import dpmpp
from odekit.samplers.exact import GaussianMixture, gaussian
from odekit.samplers.grids import time_grid
from odekit.samplers.likelihood import log_prob
from odekit.samplers.parallel import sample_parallel
from odekit.samplers.rk import adams, euler, heun
from odekit.samplers.sample import sample
from odekit.samplers.skipping import sada
from odekit.samplers.stochastic import sa

TABLES = (adams, ddim, dpmpp, euler, heun, sa)
"""Every table builder."""

__all__ = [
    "DPM12",
    "DPM23",
    "TABLES",
    "Denoiser",
    "GaussianMixture",
    "adams",
    "adaptive_sample",
    "by_larger",
    "ddim",
    "dpmpp",
    "euler",
    "gaussian",
    "gotta_go_fast",
    "guided",
    "heun",
    "log_prob",
    "probability_flow",
    "reverse_sde",
    "sa",
    "sada",
    "sample",
    "sample_parallel",
    "time_grid",
]
