"""Tables against the schedulers of diffusers and the functions of k-diffusion, on their grids and with their noise."""

import numpy as np
import pytest
from cases_diffusers import BETAS, golden, noise, start
from cases_sampling import FM, VE, numpy_view, run_by_hand

from odekit.samplers import adams, ddim, deis, dpm, dpmpp, euler, heun, pndm, unipc
from odekit.schedules import from_betas

SCHEDULES = {"vp": from_betas(np.linspace(*np.sqrt(BETAS), 1000) ** 2), "ve": VE, "flow": FM}


def with_options(build, *args, **options):
    return lambda schedule, ts: build(schedule, ts, *args, **options)


lowered = {"lower_order_final": True, "compat": True}
TABLES = {
    "ddim sd": ddim,
    "ddim trailing": ddim,
    "ddim v": ddim,
    "ddim data": ddim,
    "ddim inverse": ddim,
    "ddim eta=0.5": with_options(ddim, 0.5),
    "ddim eta=1.0": with_options(ddim, 1.0),
    "ddpm fixed_small": with_options(ddim, 1.0),
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
    "heun": heun,
    "kdpm2": with_options(dpm, 2, "singlestep", lower_order_final="last"),
    "flow heun": heun,
    "k heun": heun,
    "k dpm_2": with_options(dpm, 2, "singlestep", lower_order_final="last"),
    "k lms": with_options(adams, 4),
    "k dpmpp_2m": with_options(dpmpp, 2, lower_order_final=False),
}
for algorithm, build in (("dpmsolver++", dpmpp), ("dpmsolver", dpm)):
    for order, variant in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint")):
        for lower in (True, False)[: 1 + (order > 1)]:
            options = {"variant": variant, "lower_order_final": lower, "compat": True}
            TABLES[f"{algorithm} {order} {variant} lower={lower}"] = with_options(build, order, **options)
    for order, variant in ((2, "midpoint"), (2, "heun"), (3, "midpoint"), (3, "heun")):
        # the scheduler's grid holds the stages; the table wants the ends of steps
        TABLES[f"singlestep {algorithm} {order} {variant}"] = lambda s, ts, build=build, order=order, variant=variant: (
            build(s, ts[::order], order, "singlestep", variant=variant, lower_order_final=False)
        )
for order in (1, 2, 3):
    TABLES[f"deis {order}"] = with_options(deis, order - 1, "lam", lower_order_final=True)
for order in (1, 2, 3, 4):
    TABLES[f"lms {order}"] = with_options(adams, order)
for order in (2, 3):
    TABLES[f"dpmsolver++ {order} flow"] = TABLES[f"edm dpmsolver++ {order}"] = with_options(dpmpp, order, **lowered)
for sigmas in ("karras_sigmas", "lu_lambdas", "exponential_sigmas", "beta_sigmas"):
    TABLES[f"dpmsolver++ 2 {sigmas}"] = with_options(dpmpp, 2, **lowered)
for name in ("euler linspace", "euler leading", "euler trailing", "euler karras", "euler v", "edm euler", "flow euler"):
    TABLES[name] = euler
TABLES["k euler"] = euler
for variant in ("bh1", "bh2"):
    for order in (1, 2, 3):
        for view in ("data", "noise"):
            TABLES[f"unipc {variant} {order} {view}"] = with_options(
                unipc, order, variant=variant, view=view, **lowered
            )
    TABLES[f"unip {variant} 2"] = with_options(unipc, 2, variant=variant, corrector=False, **lowered)


def table_of(name):
    run = golden()[name]
    schedule, levels = SCHEDULES[run["kind"]], np.array(run["levels"])
    if run["kind"] == "vp":
        levels = np.array([schedule.t_of_lam(-np.log(level)) if level else 0.0 for level in levels])
    return TABLES[name](schedule, levels), schedule


@pytest.mark.parametrize("name", TABLES)
def test_equal_to_the_scheduler(name):
    (table, schedule), run = table_of(name), golden()[name]
    got = run_by_hand(table, numpy_view(schedule, table.view), start(run["kind"], run["levels"][0]), noise())
    assert np.max(np.abs(got - run["end"])) < 1e-11 * np.max(np.abs(run["end"]))


def test_every_run_is_compared():
    assert set(TABLES) == set(golden())
