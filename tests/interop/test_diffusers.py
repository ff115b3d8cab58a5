"""Tables against the schedulers of diffusers and the functions of k-diffusion, on their grids and with their noise."""

import dataclasses
import functools
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from cases_diffusers import BETAS, golden, noise, start
from cases_sampling import FM, VE, numpy_view, run_by_hand

from odekit.interop import kdiffusion
from odekit.samplers import adams, ancestral, ddim, ddpm, deis, dpm, dpmpp, euler, heun, pndm, sa, seeds, unipc
from odekit.schedules import from_betas

DOCS = Path(__file__).parents[2] / "docs"
SCHEDULES = {"vp": from_betas(np.linspace(*np.sqrt(BETAS), 1000) ** 2), "ve": VE, "flow": FM}


def with_options(build, *args, **options):
    return lambda schedule, ts: build(schedule, ts, *args, **options)


lowered = {"lower_order_final": True, "compat": True}


def midpoint_stage(build):
    """A step of order 3 as in diffusers, where the second stage too is by the midpoint rule; in the paper it is by the
    exact integral of the line through both evaluations."""

    def table(schedule, ts):
        exact = build(schedule, ts[::3], 3, "singlestep", lower_order_final=False)
        evals = np.array(exact.evals)
        for k in range(1, len(evals), 3):
            evals[k, 0] = np.sum(evals[k, 0]) * (np.arange(3) == k % 3)
        return dataclasses.replace(exact, evals=jnp.asarray(evals))

    return table


def wrong_half(schedule, ts):
    """SDE-DPM-Solver++ 3M as in diffusers, whose weight of the second difference has -1/2 where +1/2 is right (and is
    in k-diffusion): it does not vanish with the step."""
    table = dpmpp(schedule, ts, 3, tau=1.0, **lowered)
    evals, steps, alpha = np.array(table.evals), np.diff(schedule.lam(ts)), schedule.alpha(ts)
    for k in range(2, table.nfe - 2):
        r0, r1 = steps[k - 1] / steps[k], steps[k - 2] / steps[k]
        difference = np.array([1 / r0, -1 / r0 - 1 / r1, 1 / r1]) / (r0 + r1)
        evals[k, 0, (k - np.arange(3)) % 3] -= alpha[k + 1] * difference
    return dataclasses.replace(table, evals=jnp.asarray(evals))


TABLES = {
    "ddim sd": ddim,
    "ddim trailing": ddim,
    "ddim v": ddim,
    "ddim data": ddim,
    "ddim inverse": ddim,
    "ddim eta=0.5": with_options(ddim, 0.5),
    "ddim eta=1.0": with_options(ddim, 1.0),
    "ddpm fixed_small": ddpm,
    "ddpm fixed_large": with_options(ddpm, "large"),
    "pndm prk": with_options(pndm, kind="f"),
    "pndm plms": with_options(pndm, kind="plms"),
    "ipndm": pndm,
    "dpmsolver++ 3 sigma_min": with_options(dpmpp, 3, **lowered),
    "dpmsolver++ 3 long": with_options(dpmpp, 3, lower_order_final="last", compat=True),
    "dpmsolver++ 3 euler_at_final": with_options(dpmpp, 3, lower_order_final="last", compat=True),
    "dpmsolver++ 2 inverse": with_options(dpmpp, 2, **lowered),
    "unipc bh2 3 zero": with_options(unipc, 3, **lowered),
    "unipc bh2 3 long": with_options(unipc, 3, **lowered),
    "unipc bh2 2 flow": with_options(unipc, 2, **lowered),
    "euler ancestral": with_options(ddim, 1.0),
    "kdpm2 ancestral": with_options(ancestral, "noise"),
    "dpm sde": seeds,
    "heun": heun,
    "kdpm2": with_options(dpm, 2, "singlestep", lower_order_final="last"),
    "flow heun": heun,
}
for algorithm, build in (("dpmsolver++", dpmpp), ("dpmsolver", dpm)):
    for order, variant in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint")):
        for lower in (True, False)[: 1 + (order > 1)]:
            options = {"variant": variant, "lower_order_final": lower, "compat": True}
            TABLES[f"{algorithm} {order} {variant} lower={lower}"] = with_options(build, order, **options)
    TABLES[f"singlestep {algorithm} 3 midpoint"] = midpoint_stage(build)
    for order, variant in ((2, "midpoint"), (2, "heun"), (3, "heun")):
        # the scheduler's grid holds the stages; the table wants the ends of steps
        TABLES[f"singlestep {algorithm} {order} {variant}"] = lambda s, ts, build=build, order=order, variant=variant: (
            build(s, ts[::order], order, "singlestep", variant=variant, lower_order_final=False)
        )
for order, variant in ((1, "midpoint"), (2, "midpoint"), (2, "heun")):
    for name, build in (("sde-dpmsolver++", dpmpp), ("sde-dpmsolver", dpm)):
        TABLES[f"{name} {order} {variant}"] = with_options(build, order, variant=variant, tau=1.0, **lowered)
TABLES["sde-dpmsolver++ 3 midpoint"] = wrong_half
for order in (1, 2, 3):
    TABLES[f"deis {order}"] = with_options(deis, order - 1, "lam", lower_order_final=True)
for order in (1, 2, 3, 4):
    TABLES[f"lms {order}"] = with_options(adams, order)
for order in (2, 3):
    TABLES[f"dpmsolver++ {order} flow"] = TABLES[f"edm dpmsolver++ {order}"] = with_options(dpmpp, order, **lowered)
for order, corrector, tau in ((1, 2, 0), (2, 2, 1), (3, 3, 0), (3, 4, 1)):
    taus = tau * np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 0])  # training steps 200 to 800
    TABLES[f"sa {order} {corrector} tau={tau}"] = with_options(sa, order, corrector=corrector, tau=taus, **lowered)
for sigmas in ("karras_sigmas", "lu_lambdas", "exponential_sigmas", "beta_sigmas"):
    TABLES[f"dpmsolver++ 2 {sigmas}"] = with_options(dpmpp, 2, **lowered)
for name in ("euler linspace", "euler leading", "euler trailing", "euler karras", "euler v", "edm euler", "flow euler"):
    TABLES[name] = euler
for variant in ("bh1", "bh2"):
    for order in (1, 2, 3):
        for view in ("data", "noise"):
            TABLES[f"unipc {variant} {order} {view}"] = with_options(
                unipc, order, variant=variant, view=view, **lowered
            )
    TABLES[f"unip {variant} 2"] = with_options(unipc, 2, variant=variant, corrector=False, **lowered)


for name, build in kdiffusion.TABLES.items():
    TABLES[f"k {name}"] = build
churn = {"s_churn": 3.0, "s_tmin": 0.5, "s_tmax": 10.0, "s_noise": 1.003}
for name in ("euler", "heun"):
    TABLES[f"k {name} churn"] = with_options(kdiffusion.TABLES[name], **churn)
TABLES["k euler_ancestral eta=0.5"] = with_options(kdiffusion.TABLES["euler_ancestral"], eta=0.5)
TABLES["k dpmpp_2m_sde heun"] = with_options(kdiffusion.TABLES["dpmpp_2m_sde"], solver_type="heun")
TABLES["k dpmpp_2m_sde eta=0.5"] = with_options(kdiffusion.TABLES["dpmpp_2m_sde"], eta=0.5)
TABLES["k dpmpp_3m_sde eta=0"] = with_options(kdiffusion.TABLES["dpmpp_3m_sde"], eta=0.0)


def table_of(name):
    """The table on the grid of a run, and the schedule of the latter."""
    run = golden()[name]
    schedule, levels = SCHEDULES[run["kind"]], np.array(run["levels"])
    if run["kind"] == "vp":
        levels = np.array([schedule.t_of_lam(-np.log(level)) if level else 0.0 for level in levels])
    return TABLES[name](schedule, levels), schedule


@functools.cache
def difference(name):
    """The largest difference of a table's samples from the run's, relative to the largest number there."""
    (table, schedule), run = table_of(name), golden()[name]
    z = np.concatenate([noise()[: table.nfe], noise()[-1:]])  # noise before the first evaluation is the last of all
    got = run_by_hand(table, numpy_view(schedule, table.view), start(run["kind"], run["levels"][0]), z)
    return np.max(np.abs(got - run["end"])) / np.max(np.abs(run["end"]))


IN_SINGLE = ("kdpm2", "kdpm2 ancestral")
"""Runs whose scheduler computes its stages in single precision, whatever the states are in."""


@pytest.mark.parametrize("name", TABLES)
def test_equal_to_the_scheduler(name):
    assert difference(name) < (1e-7 if name in IN_SINGLE else 1e-13)


def test_every_run_is_compared():
    assert sorted(TABLES) == sorted(name for name in golden() if not name.startswith("checkpoint"))


ROWS = {  # page: (theirs, ours, the runs that show it)
    "coming_from_diffusers.md": [
        ("`DDIMScheduler`, `step(eta=)`", "`ddim(schedule, ts, eta)`", "ddim [^i]"),
        ("`DDIMInverseScheduler`", "`ddim(schedule, ts[::-1])`", "ddim i"),
        (
            '`DDPMScheduler(variance_type="fixed_small")`, `"fixed_large"`',
            '`ddpm(schedule, ts, "small")`, `"large"`',
            "ddpm",
        ),
        ("`PNDMScheduler(skip_prk_steps=True)`, `False`", '`pndm(schedule, ts, kind="plms")`, `"f"`', "pndm"),
        ("`IPNDMScheduler`", "`pndm(schedule, ts)`", "ipndm"),
        (
            '`DPMSolverMultistepScheduler("dpmsolver++")`, order 1 to 3',
            "`dpmpp(schedule, ts, order, variant=, compat=True)`",
            r"dpmsolver\+\+ . [^fi]",
        ),
        ('`"dpmsolver"`', "`dpm(schedule, ts, order, variant=, compat=True)`", "dpmsolver . "),
        (
            '`"sde-dpmsolver++"`, `"sde-dpmsolver"`, order 1 and 2',
            "`dpmpp(..., tau=1)`, `dpm(..., tau=1)`",
            r"sde-dpmsolver(\+\+)? [12]",
        ),
        ("`DPMSolverMultistepInverseScheduler`", "`dpmpp(schedule, ts[::-1])`", r"dpmsolver\+\+ . i"),
        (
            "`DPMSolverSinglestepScheduler`, on a grid uniform in lam",
            '`dpmpp(schedule, ts[::order], order, "singlestep")`, `dpm`',
            r"singlestep .*(2|heun)",
        ),
        ("`DEISMultistepScheduler`", '`deis(schedule, ts, order - 1, "lam")`', "deis"),
        (
            '`UniPCMultistepScheduler("bh1")`, `"bh2"`, order 1 to 3',
            "`unipc(schedule, ts, order, variant=, view=, corrector=, compat=True)`",
            "unipc? ... . ?[^f]*$",
        ),
        ("`SASolverScheduler`", "`sa(schedule, ts, order, corrector=, tau=, compat=True)`", "sa "),
        (
            "`EulerDiscreteScheduler`, `EDMEulerScheduler`",
            "`euler(EDM(), sigmas)`, `ddim(schedule, ts)`",
            "(edm )?euler [^a]?",
        ),
        ("`EulerAncestralDiscreteScheduler`", "`ddim(schedule, ts, 1.0)`", "euler ancestral"),
        ("`HeunDiscreteScheduler`", '`heun(EDM(), sigmas)`, `deis(schedule, ts, 1, "rhork")`', "heun"),
        ("`KDPM2DiscreteScheduler`", '`dpm(schedule, ts, 2, "singlestep")`', "kdpm2$"),
        ("`KDPM2AncestralDiscreteScheduler`", '`ancestral(schedule, ts, "noise")`', "kdpm2 a"),
        ("`LMSDiscreteScheduler`", "`adams(EDM(), sigmas, order)`", "lms"),
        ("`DPMSolverSDEScheduler`", "`seeds(schedule, ts)`", "dpm sde"),
        ("`EDMDPMSolverMultistepScheduler`", "`dpmpp(EDM(), sigmas, order, compat=True)`", "edm dpm"),
        ("`FlowMatchEulerDiscreteScheduler`", "`euler(FlowMatching(), ts)`", "flow euler"),
        ("`FlowMatchHeunDiscreteScheduler`", "`heun(FlowMatching(), ts)`", "flow heun"),
        (
            "multistep schedulers with `use_flow_sigmas=True`",
            "`dpmpp(FlowMatching(), ts, order)`, `unipc(FlowMatching(), ts, order)`",
            ".* flow$",
        ),
    ],
    "coming_from_kdiffusion.md": [
        ("`sample_euler`", "`euler(EDM(), sigmas)`, `edm(EDM(), sigmas, 1, churn=)`", "k euler( churn)?$"),
        ("`sample_euler_ancestral`", "`ddim(EDM(), sigmas, eta)`", "k euler_a"),
        ("`sample_heun`", "`heun(EDM(), sigmas)`, `edm(EDM(), sigmas, churn=)`", "k heun( churn)?$"),
        ("`sample_lms`", "`adams(EDM(), sigmas, order)`", "k lms"),
        ("`sample_dpm_2`", '`dpm(EDM(), sigmas, 2, "singlestep")`', "k dpm_2$"),
        ("`sample_dpm_2_ancestral`", '`ancestral(EDM(), sigmas, "noise")`', "k dpm_2_a"),
        ("`sample_dpmpp_2s_ancestral`", "`ancestral(EDM(), sigmas)`", "k dpmpp_2s"),
        ("`sample_dpmpp_sde`", "`seeds(EDM(), sigmas, tau=)`", "k dpmpp_sde"),
        ("`sample_dpmpp_2m`", "`dpmpp(EDM(), sigmas, lower_order_final=False)`", "k dpmpp_2m$"),
        ("`sample_dpmpp_2m_sde`", "`dpmpp(EDM(), sigmas, tau=, variant=, lower_order_final=False)`", "k dpmpp_2m_sde"),
        (
            "`sample_dpmpp_3m_sde`",
            "`dpmpp(EDM(), sigmas, 3, tau=, lower_order_final=False, compat=True)`",
            "k dpmpp_3m_sde",
        ),
    ],
}


@pytest.mark.parametrize("page", ROWS)
def test_the_table_in_the_docs_is_what_was_measured(page):
    """The lines to put there are what the failure prints."""
    lines = [f"| {page[12:-3].replace('kd', 'k-d')} | odekit | difference |", "|---|---|---|"]
    for theirs, ours, pattern in ROWS[page]:
        runs = [name for name in TABLES if re.match(pattern, name)]
        assert runs, pattern
        worst = 10.0 ** np.ceil(np.log10(max(1e-13, *map(difference, runs))))
        lines.append(f"| {theirs} | {ours} | {worst:.0e} |")
    text = (DOCS / page).read_text()
    shown = text[text.index("<!-- equivalences -->") : text.index("<!-- end -->")].split("\n\n")[1]
    assert shown.splitlines() == lines, "\n".join(lines)
