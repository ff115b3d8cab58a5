"""Few-step generation: every sampler is a function `(schedule, ts) -> SamplerTable`."""

from odekit.loops.table import TableState
from odekit.samplers.accelerated import accelerated_ddim
from odekit.samplers.adaptive import adaptive_sample, by_larger, gotta_go_fast
from odekit.samplers.ancestral import ancestral, ddpm, euler_maruyama, reverse_diffusion
from odekit.samplers.bridges import dbim, ddbm
from odekit.samplers.continuous import probability_flow, reverse_sde
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
from odekit.samplers.likelihood import log_prob
from odekit.samplers.pairs import DPM12, DPM23
from odekit.samplers.parallel import sample_parallel
from odekit.samplers.pndm import pndm
from odekit.samplers.reversible import bdia, belm, edict
from odekit.samplers.rex import rex
from odekit.samplers.rk import adams, euler, heun, rf, runge_kutta
from odekit.samplers.sample import sample
from odekit.samplers.singlestep import budget_orders
from odekit.samplers.skipping import sada
from odekit.samplers.steps import amplification, inverse
from odekit.samplers.stochastic import sa, seeds
from odekit.samplers.unipc import unipc
from odekit.samplers.v3_statistics import V3Statistics, v3_statistics

TABLES = (
    accelerated_ddim,
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
    "DPM12",
    "DPM23",
    "TABLES",
    "Denoiser",
    "Empirical",
    "GaussianMixture",
    "Inversion",
    "Reflected",
    "TableState",
    "V3Statistics",
    "accelerated_ddim",
    "adams",
    "adaptive_sample",
    "amplification",
    "ancestral",
    "bdia",
    "belm",
    "budget_orders",
    "by_larger",
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
    "gotta_go_fast",
    "guided",
    "guided_by",
    "heun",
    "hooked",
    "inpainted",
    "inverse",
    "invert",
    "log_prob",
    "pndm",
    "predictor_corrector",
    "probability_flow",
    "reflect",
    "replaced",
    "restart",
    "reverse_diffusion",
    "reverse_sde",
    "rex",
    "rf",
    "runge_kutta",
    "sa",
    "sada",
    "sample",
    "sample_parallel",
    "seeds",
    "slerp",
    "thresholded",
    "time_grid",
    "translate",
    "under",
    "unipc",
    "v3_statistics",
]
