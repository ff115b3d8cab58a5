"""Few-step generation: every sampler is a function `(schedule, ts) -> SamplerTable`."""

from odekit.samplers.ddim import ddim
from odekit.samplers.denoiser import Denoiser, guided, under
from odekit.samplers.dpm import dpmpp
from odekit.samplers.exact import Empirical, GaussianMixture, gaussian
from odekit.samplers.grids import discrete_grid, flow_shift, time_grid
from odekit.samplers.rk import adams, euler, heun
from odekit.samplers.sample import sample
from odekit.samplers.stochastic import sa

TABLES = (adams, ddim, dpmpp, euler, heun, sa)
"""Every table builder."""

__all__ = [
    "TABLES",
    "Denoiser",
    "Empirical",
    "GaussianMixture",
    "adams",
    "ddim",
    "discrete_grid",
    "dpmpp",
    "euler",
    "flow_shift",
    "gaussian",
    "guided",
    "heun",
    "sa",
    "sample",
    "time_grid",
    "under",
]
