"""Few-step generation: every sampler is a function `(schedule, ts) -> SamplerTable`."""

from odekit.samplers.ddim import ddim
from odekit.samplers.denoiser import Denoiser, under
from odekit.samplers.dpm import dpmpp
from odekit.samplers.exact import Empirical, GaussianMixture, Reflected, gaussian
from odekit.samplers.flow_dps import consistent, descent, flow_dps
from odekit.samplers.grids import discrete_grid, flow_shift, time_grid
from odekit.samplers.guidance import guided, guided_by
from odekit.samplers.hooks import clipped, hooked, inpainted, reflect, replaced, thresholded
from odekit.samplers.rk import adams, euler, heun
from odekit.samplers.sample import sample
from odekit.samplers.stochastic import sa

TABLES = (adams, ddim, dpmpp, euler, flow_dps, heun, sa)
"""Every table builder."""

__all__ = [
    "TABLES",
    "Denoiser",
    "Empirical",
    "GaussianMixture",
    "Reflected",
    "adams",
    "clipped",
    "consistent",
    "ddim",
    "descent",
    "discrete_grid",
    "dpmpp",
    "euler",
    "flow_dps",
    "flow_shift",
    "gaussian",
    "guided",
    "guided_by",
    "heun",
    "hooked",
    "inpainted",
    "reflect",
    "replaced",
    "sa",
    "sample",
    "thresholded",
    "time_grid",
    "under",
]
