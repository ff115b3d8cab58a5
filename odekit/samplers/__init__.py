"""Few-step generation: every sampler is a function `(schedule, ts) -> SamplerTable`."""

from odekit.loops.table import TableState
from odekit.samplers.ancestral import ancestral, ddpm, euler_maruyama, reverse_diffusion
from odekit.samplers.bridges import dbim, ddbm
from odekit.samplers.ddim import ddim
from odekit.samplers.deis import deis
from odekit.samplers.denoiser import Denoiser, under
from odekit.samplers.discrete import discrete_grid
from odekit.samplers.dpm import dpm, dpmpp
from odekit.samplers.dpm_v3 import dpm_v3
from odekit.samplers.editing import controlled, encode_noise, slerp, translate
from odekit.samplers.edm import edm, restart
from odekit.samplers.er_sde import er_sde
from odekit.samplers.exact import Empirical, GaussianMixture, Reflected, gaussian
from odekit.samplers.flow_dps import consistent, descent, flow_dps
from odekit.samplers.grids import flow_shift, time_grid
from odekit.samplers.guidance import guided, guided_by
from odekit.samplers.hooks import clipped, hooked, inpainted, reflect, replaced, thresholded
from odekit.samplers.inversion import Inversion, invert
from odekit.samplers.langevin import predictor_corrector
from odekit.samplers.pndm import pndm
from odekit.samplers.reversible import bdia, belm, edict
from odekit.samplers.rex import rex
from odekit.samplers.rk import adams, euler, heun, rf, runge_kutta
from odekit.samplers.sample import sample
from odekit.samplers.singlestep import budget_orders
from odekit.samplers.steps import amplification, inverse
from odekit.samplers.stochastic import sa, seeds
from odekit.samplers.unipc import unipc
from odekit.samplers.v3_statistics import V3Statistics, v3_statistics

TABLES = (
    adams,
    ancestral,
    bdia,
    belm,
    ddim,
    ddpm,
    deis,
    dpm,
    dpm_v3,
    dpmpp,
    edict,
    edm,
    er_sde,
    euler,
    euler_maruyama,
    flow_dps,
    heun,
    pndm,
    restart,
    reverse_diffusion,
    rex,
    rf,
    runge_kutta,
    sa,
    seeds,
    unipc,
)
"""Every table builder."""

__all__ = [
    "Denoiser",
    "Empirical",
    "GaussianMixture",
    "Inversion",
    "Reflected",
    "TABLES",
    "TableState",
    "V3Statistics",
    "adams",
    "amplification",
    "ancestral",
    "bdia",
    "belm",
    "budget_orders",
    "clipped",
    "consistent",
    "controlled",
    "dbim",
    "ddbm",
    "ddim",
    "ddpm",
    "deis",
    "descent",
    "discrete_grid",
    "dpm",
    "dpm_v3",
    "dpmpp",
    "edict",
    "edm",
    "encode_noise",
    "er_sde",
    "euler",
    "euler_maruyama",
    "flow_dps",
    "flow_shift",
    "gaussian",
    "guided",
    "guided_by",
    "heun",
    "hooked",
    "inpainted",
    "inverse",
    "invert",
    "pndm",
    "predictor_corrector",
    "reflect",
    "replaced",
    "restart",
    "reverse_diffusion",
    "rex",
    "rf",
    "runge_kutta",
    "sa",
    "sample",
    "seeds",
    "slerp",
    "thresholded",
    "time_grid",
    "translate",
    "under",
    "unipc",
    "v3_statistics",
]
