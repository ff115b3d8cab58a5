"""Run diffusers' schedulers and k-diffusion's functions on the planar mixture in float64; writes diffusers.json.

Run from the repository root, with diffusers 0.42.1, torch and SciPy installed and the file k_diffusion/sampling.py of
k-diffusion at hand: `PYTHONPATH=.:tests python tests/golden/make_diffusers.py path/to/sampling.py`.

Three rules make every run comparable: the model is asked at the scheduler's own noise level, not at its rounded integer
time; states and coefficients are double precision (the name `torch.float32` stands for float64 meanwhile); and the grid
is read out of the scheduler. The noise of evaluation i is `noise()[i]`.
"""

import contextlib
import importlib
import importlib.util
import inspect
import json
import sys
import types

import diffusers.schedulers as zoo
import numpy as np
import torch
from cases_checkpoints import CHECKPOINTS, MU, STEPS
from cases_diffusers import BETAS, GOLDEN, noise, start

WEIGHTS, STDS, MEANS = (
    torch.tensor(values, dtype=torch.float64)
    for values in ([0.3, 0.5, 0.2], [0.30, 0.40, 0.25], [[-1.2, -0.5], [1.0, 0.3], [0.1, 1.4]])
)
SD = {"beta_start": BETAS[0], "beta_end": BETAS[1], "beta_schedule": "scaled_linear"}
SINGLE = torch.float32


@contextlib.contextmanager
def double_precision():
    torch.float32 = torch.float64
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.float32 = SINGLE
        torch.set_default_dtype(SINGLE)


def mixture(x, alpha, sigma):
    """The exact (data, noise) predictions of the mixture of cases_sampling."""
    total = (alpha * STDS) ** 2 + sigma**2
    residual = x[:, None] - alpha * MEANS
    share = torch.softmax(WEIGHTS.log() - total.log() - (residual**2).sum(-1) / (2 * total), -1)[..., None]
    pull = residual / total[:, None]
    return (share * (MEANS + alpha * (STDS**2)[:, None] * pull)).sum(1), sigma * (share * pull).sum(1)


def predict(kind, predicts, x, level):
    """What a network returns for a scheduler's state at its noise level, whatever the scheduler does with it."""
    level = torch.as_tensor(float(level))
    if kind == "flow":
        alpha, sigma = 1 - level, level
    elif kind in ("ve", "edm"):
        alpha, sigma = torch.ones(()), level
    else:
        alpha, sigma = 1 / (1 + level**2) ** 0.5, 1 / (1 + 1 / level**2) ** 0.5
    data, eps = mixture(x, alpha, sigma)
    if kind == "edm":  # inside the preconditioning of Karras et al. with sigma_data = 0.5
        return (data - 0.25 / (level**2 + 0.25) * x) * (level**2 + 0.25) ** 0.5 / (0.5 * level)
    if kind == "ve" and predicts == "v_prediction":  # of the state scaled to unit variance
        return (eps - level * data) / (1 + level**2) ** 0.5
    return {"epsilon": eps, "sample": data, "v_prediction": alpha * eps - sigma * data, "flow_prediction": eps - data}[
        predicts
    ]


def on_one_path(i, start, end):
    """The noise after evaluation i, which at odd i is that of a whole step from `start` to `end` of which noise i - 1
    was the first half; both libraries draw it from a path in sigma, here it is that of the exact SDE."""
    z = torch.tensor(noise())
    if i % 2 == 0:
        return z[i]
    part = (end / start) / (1 + end / start)
    return part**0.5 * z[i - 1] + (1 - part) ** 0.5 * z[i]


KINDS = {"EDM": "edm", "Flow": "flow", "DDIM": "ddpm", "DDPM": "ddpm", "PNDM": "ddpm"}


def checkpoints():
    """Yield (name, the run) of the configs of checkpoints."""
    sigma = ("EulerD", "EulerA", "Heun", "KDPM2", "LMS", "DPMSolverSDE")
    for name, config in CHECKPOINTS.items():
        cls, n = config["_class_name"], STEPS.get(name, 8)
        kind = next((kind for start, kind in KINDS.items() if cls.startswith(start)), "vp")
        kind = "flow" if config.get("use_flow_sigmas") else "ve" if cls.startswith(sigma) else kind
        yield name, run(cls, n, kind, config, mu=MU if config.get("use_dynamic_shifting") else None)


def grid_of(scheduler, kind, n):
    """(levels of the evaluations, levels at the ends of the steps), the latter with repetitions."""
    if kind != "ddpm":
        if hasattr(scheduler, "ets"):  # iPNDM, whose betas are sigmas
            return [(scheduler.betas / scheduler.alphas).tolist()] * 2
        sigmas, name = scheduler.sigmas.tolist(), type(scheduler).__name__
        between = {
            "KDPM2DiscreteScheduler": lambda i: scheduler.sigmas_interpol[i],
            "KDPM2AncestralDiscreteScheduler": lambda i: scheduler.sigmas_interpol[i - 1],
            "DPMSolverSDEScheduler": lambda i: (sigmas[i - 1] * sigmas[i]) ** 0.5,
        }.get(name, lambda i: sigmas[i])
        return [float(between(i)) if i % 2 else s for i, s in enumerate(sigmas)], sigmas
    level = np.sqrt((1 - scheduler.alphas_cumprod.numpy()) / scheduler.alphas_cumprod.numpy())
    steps = np.unique(getattr(scheduler, "_timesteps", scheduler.timesteps.numpy())).astype(int)
    final = float(getattr(scheduler, "final_alpha_cumprod", getattr(scheduler, "initial_alpha_cumprod", 1.0)))
    grid = [*level[steps[::-1]], np.sqrt(1 / final - 1)]
    if "Inverse" in type(scheduler).__name__:  # the network is asked where the state is, not where the step ends
        return grid[::-1], grid[::-1]
    return level[scheduler.timesteps.numpy().astype(int)], grid


def run(name, n, kind, config, *, sigmas=None, mu=None, kwargs=None, predicts=None, **step):
    """One scheduler from start to end. `step` goes to its method `step`; `sigmas` take the place of its own."""
    with double_precision():
        cls = getattr(zoo, name)
        scheduler = cls.from_config(config) if "_class_name" in config else cls(**config, **(kwargs or {}))
        scheduler.set_timesteps(n, **({} if mu is None else {"mu": mu}))
        for key, value in list(vars(scheduler).items()):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and key != "timesteps":
                setattr(scheduler, key, value.double())
        if sigmas is not None:
            scheduler.sigmas = torch.tensor(sigmas)
        at, grid = grid_of(scheduler, kind, n)
        family = {"ddpm": "vp", "edm": "ve"}.get(kind, kind)
        x, now = torch.tensor(start(family, float(grid[0]))), []
        importlib.import_module(type(scheduler).__module__).randn_tensor = lambda *args, **kwargs: now[0]
        scheduler.noise_sampler = lambda *ends: on_one_path(i, *ends)
        scheduler.is_scale_input_called = True
        predicts = predicts or config.get("prediction_type", "flow_prediction" if kind == "flow" else "epsilon")
        for i, t in enumerate(scheduler.timesteps):
            now[:] = [torch.tensor(noise()[i])]
            out = predict("vp" if kind == "ddpm" else kind, predicts, x, at[i])
            x = scheduler.step(out, t, x, **step).prev_sample
    out = entry(family, grid, x)
    return {**out, "times": scheduler.timesteps.tolist()} if "_class_name" in config else out


def entry(kind, grid, x):
    return {"kind": kind, "levels": list(dict.fromkeys(map(float, grid))), "end": x.tolist()}


def schedulers():
    """Yield (name of the run, the run)."""
    leading = {**SD, "steps_offset": 1, "timestep_spacing": "leading"}
    ddim = {**SD, "clip_sample": False, "timestep_spacing": "trailing"}
    for label, config in {
        "sd": {**leading, "set_alpha_to_one": False},
        "trailing": {},
        "v": {"prediction_type": "v_prediction"},
        "data": {"prediction_type": "sample"},
    }.items():
        yield f"ddim {label}", run("DDIMScheduler", 10, "ddpm", {**ddim, **config})
    for eta in (0.5, 1.0):
        yield f"ddim eta={eta}", run("DDIMScheduler", 10, "ddpm", ddim, eta=eta)
    config = {**leading, "set_alpha_to_one": False, "clip_sample": False}
    yield "ddim inverse", run("DDIMInverseScheduler", 10, "ddpm", config)
    for variance in ("fixed_small", "fixed_large"):
        config = {**SD, "clip_sample": False, "variance_type": variance}
        yield f"ddpm {variance}", run("DDPMScheduler", 10, "ddpm", config)
    for skip in (False, True):
        config = {**leading, "set_alpha_to_one": False, "skip_prk_steps": skip}
        yield f"pndm {'plms' if skip else 'prk'}", run("PNDMScheduler", 10, "ddpm", config)
    config = {"trained_betas": [*np.linspace(0.99, 0.05, 10).tolist(), 0.0]}
    yield "ipndm", run("IPNDMScheduler", 10, "vp", config, predicts="v_prediction")
    yield from multistep()
    yield from singlestep_and_kin()
    yield from in_sigma()


def multistep():
    name, both = "DPMSolverMultistepScheduler", (True, False)
    for algorithm in ("dpmsolver++", "dpmsolver"):
        final = "zero" if algorithm == "dpmsolver++" else "sigma_min"
        for order, solver in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint")):
            for lower in both if order > 1 else (True,):
                config = {**SD, "algorithm_type": algorithm, "solver_order": order, "solver_type": solver}
                config |= {"lower_order_final": lower, "final_sigmas_type": final}
                yield f"{algorithm} {order} {solver} lower={lower}", run(name, 10, "vp", config)
    third = {**SD, "solver_order": 3}
    yield "dpmsolver++ 3 sigma_min", run(name, 10, "vp", {**third, "final_sigmas_type": "sigma_min"})
    yield "dpmsolver++ 3 long", run(name, 16, "vp", third)
    config = {**third, "euler_at_final": True, "final_sigmas_type": "sigma_min"}
    yield "dpmsolver++ 3 euler_at_final", run(name, 16, "vp", config)
    for sigmas in ("karras_sigmas", "lu_lambdas", "exponential_sigmas", "beta_sigmas"):
        yield f"dpmsolver++ 2 {sigmas}", run(name, 10, "vp", {**SD, f"use_{sigmas}": True})
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    for order in (2, 3):
        yield f"dpmsolver++ {order} flow", run(name, 10, "flow", {**flow, "solver_order": order})
    for order, solver in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint")):
        config = {**SD, "algorithm_type": "sde-dpmsolver++", "solver_order": order, "solver_type": solver}
        yield f"sde-dpmsolver++ {order} {solver}", run(name, 10, "vp", config)
        if order < 3:
            config |= {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}
            yield f"sde-dpmsolver {order} {solver}", run(name, 10, "vp", config)
    yield "dpmsolver++ 2 inverse", run("DPMSolverMultistepInverseScheduler", 10, "vp", SD)


def singlestep_and_kin():
    uniform = np.geomspace(12.0, 0.03, 11).tolist()  # in lam, where the stages of single steps fall on the grid
    for algorithm in ("dpmsolver++", "dpmsolver"):
        for order, solver, n in ((2, "midpoint", 10), (2, "heun", 10), (3, "midpoint", 9), (3, "heun", 9)):
            config = {**SD, "algorithm_type": algorithm, "solver_order": order, "solver_type": solver}
            config |= {"lower_order_final": False, "final_sigmas_type": "sigma_min"}
            end = run("DPMSolverSinglestepScheduler", n, "vp", config, sigmas=uniform[: n + 1])
            yield f"singlestep {algorithm} {order} {solver}", end
    for order in (1, 2, 3):
        yield f"deis {order}", run("DEISMultistepScheduler", 10, "vp", {**SD, "solver_order": order}, sigmas=uniform)
    unipc, end = "UniPCMultistepScheduler", {**SD, "final_sigmas_type": "sigma_min"}
    for solver in ("bh1", "bh2"):
        for order in (1, 2, 3):
            for data in (True, False):
                config = {**end, "solver_type": solver, "solver_order": order, "predict_x0": data}
                yield f"unipc {solver} {order} {'data' if data else 'noise'}", run(unipc, 10, "vp", config)
        config = {**end, "solver_type": solver, "disable_corrector": list(range(10))}
        yield f"unip {solver} 2", run(unipc, 10, "vp", config)
    yield "unipc bh2 3 zero", run(unipc, 10, "vp", {**SD, "solver_order": 3})
    yield "unipc bh2 3 long", run(unipc, 16, "vp", {**end, "solver_order": 3})
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    yield "unipc bh2 2 flow", run(unipc, 10, "flow", flow)
    for predictor, corrector, tau in ((1, 2, 0), (2, 2, 1), (3, 3, 0), (3, 4, 1)):
        config = {**SD, "predictor_order": predictor, "corrector_order": corrector}
        own = {} if tau else {"tau_func": lambda t: 0.0}  # by default 1 between training steps 200 and 800
        yield f"sa {predictor} {corrector} tau={tau}", run("SASolverScheduler", 10, "vp", config, kwargs=own)


def in_sigma():
    karras = {**SD, "use_karras_sigmas": True}
    for spacing in ("linspace", "leading", "trailing"):
        yield f"euler {spacing}", run("EulerDiscreteScheduler", 10, "ve", {**SD, "timestep_spacing": spacing})
    yield "euler karras", run("EulerDiscreteScheduler", 10, "ve", karras)
    yield "euler v", run("EulerDiscreteScheduler", 10, "ve", {**SD, "prediction_type": "v_prediction"})
    yield "heun", run("HeunDiscreteScheduler", 10, "ve", karras)
    yield "kdpm2", run("KDPM2DiscreteScheduler", 10, "ve", karras)
    yield "euler ancestral", run("EulerAncestralDiscreteScheduler", 10, "ve", SD)
    yield "kdpm2 ancestral", run("KDPM2AncestralDiscreteScheduler", 10, "ve", karras)
    for order in (1, 2, 3, 4):
        yield f"lms {order}", run("LMSDiscreteScheduler", 10, "ve", SD, order=order)
    yield "dpm sde", run("DPMSolverSDEScheduler", 10, "ve", karras)
    yield "edm euler", run("EDMEulerScheduler", 10, "edm", {})
    for order in (2, 3):
        yield f"edm dpmsolver++ {order}", run("EDMDPMSolverMultistepScheduler", 10, "edm", {"solver_order": order})
    yield "flow euler", run("FlowMatchEulerDiscreteScheduler", 10, "flow", {"shift": 3.0})
    yield "flow heun", run("FlowMatchHeunDiscreteScheduler", 10, "flow", {"shift": 3.0})


def k_diffusion(path):
    """Yield the same for functions of k-diffusion, of which only the file sampling.py is loaded."""
    package, absent = types.ModuleType("k_diffusion"), types.ModuleType("absent")
    package.__path__ = []
    package.utils = types.ModuleType("k_diffusion.utils")
    package.utils.append_dims = lambda x, ndim: x.reshape(x.shape + (1,) * (ndim - x.ndim))
    absent.odeint = absent.trange = absent.tqdm = None
    names = {"k_diffusion": package, "k_diffusion.utils": package.utils}
    sys.modules |= names | dict.fromkeys(("torchdiffeq", "torchsde", "tqdm", "tqdm.auto"), absent)
    absent.trange = lambda n, disable: range(n)
    spec = importlib.util.spec_from_file_location("k_diffusion.sampling", path)
    sampling = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sampling)

    def run(name, n=10, **options):
        with double_precision():
            sigmas, calls = sampling.get_sigmas_karras(n, 0.02, 20.0), []

            def model(x, sigma):
                calls.append(sigma)
                return mixture(x, torch.ones(()), sigma[0])[0]

            def draw(*args):  # follows the last evaluation; before the first it is the last of all
                return torch.tensor(noise()[len(calls) - 1])

            torch.randn_like = draw
            if name == "sample_dpmpp_sde":
                options["noise_sampler"] = lambda *ends: on_one_path(len(calls) - 1, *ends)
            elif "noise_sampler" in inspect.signature(getattr(sampling, name)).parameters:
                options["noise_sampler"] = draw
            x = getattr(sampling, name)(model, torch.tensor(start("ve", 20.0)), sigmas, **options)
        return entry("ve", sigmas.tolist(), x)

    for name in ("euler", "heun", "dpm_2", "lms", "dpmpp_2m"):
        yield name, run(f"sample_{name}")
    churn = {"s_churn": 3.0, "s_tmin": 0.5, "s_tmax": 10.0, "s_noise": 1.003}
    for name in ("euler", "heun"):
        yield f"{name} churn", run(f"sample_{name}", **churn)
    for name in (
        "euler_ancestral",
        "dpm_2_ancestral",
        "dpmpp_2s_ancestral",
        "dpmpp_sde",
        "dpmpp_2m_sde",
        "dpmpp_3m_sde",
    ):
        yield name, run(f"sample_{name}")
    yield "euler_ancestral eta=0.5", run("sample_euler_ancestral", eta=0.5)
    yield "dpmpp_2m_sde heun", run("sample_dpmpp_2m_sde", solver_type="heun")
    yield "dpmpp_2m_sde eta=0.5", run("sample_dpmpp_2m_sde", eta=0.5)
    yield "dpmpp_3m_sde eta=0", run("sample_dpmpp_3m_sde", eta=0.0)


if __name__ == "__main__":
    out = dict(schedulers())
    out |= {f"checkpoint {name}": result for name, result in checkpoints()}
    out |= {f"k {name}": result for name, result in k_diffusion(sys.argv[1])}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(result)}" for name, result in out.items())
    GOLDEN.write_text(f"{{\n{lines}\n}}\n")
