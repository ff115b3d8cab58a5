"""Few-step generation: every sampler is a function `(schedule, ts) -> SamplerTable`."""

from odekit.samplers.ancestral import ancestral, ddpm, euler_maruyama, reverse_diffusion
from odekit.samplers.ddim import ddim
from odekit.samplers.deis import deis
from odekit.samplers.denoiser import Denoiser, guided
from odekit.samplers.dpm import dpm, dpmpp
from odekit.samplers.edm import edm, restart
from odekit.samplers.er_sde import er_sde
from odekit.samplers.exact import Empirical, GaussianMixture, gaussian
from odekit.samplers.grids import time_grid
from odekit.samplers.pndm import pndm
from odekit.samplers.rk import adams, euler, heun, rf, runge_kutta
from odekit.samplers.sample import sample
from odekit.samplers.singlestep import budget_orders
from odekit.samplers.stochastic import sa, seeds
from odekit.samplers.unipc import unipc

TABLES = (
    adams,
    ancestral,
    ddim,
    ddpm,
    deis,
    dpm,
    dpmpp,
    edm,
    er_sde,
    euler,
    euler_maruyama,
    heun,
    pndm,
    restart,
    reverse_diffusion,
    rf,
    runge_kutta,
    sa,
    seeds,
    unipc,
)
"""Every table builder."""

__all__ = [
    "TABLES",
    "Denoiser",
    "Empirical",
    "GaussianMixture",
    "adams",
    "ancestral",
    "budget_orders",
    "ddim",
    "ddpm",
    "deis",
    "dpm",
    "dpmpp",
    "edm",
    "er_sde",
    "euler",
    "euler_maruyama",
    "gaussian",
    "guided",
    "heun",
    "pndm",
    "restart",
    "reverse_diffusion",
    "rf",
    "runge_kutta",
    "sa",
    "sample",
    "seeds",
    "time_grid",
    "unipc",
]
