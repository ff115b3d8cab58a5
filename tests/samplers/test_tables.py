"""What holds for every table, whatever its formula."""

import importlib
import inspect
import operator
import pkgutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, law_error, numpy_view, run_by_hand, starts, toy

from odekit import samplers
from odekit.loops.table import SamplerTable, run_table
from odekit.samplers import (
    TABLES,
    Denoiser,
    V3Statistics,
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
    sample,
    seeds,
    time_grid,
    unipc,
)
from odekit.schedules import VE as GeometricVE
from odekit.schedules import FlowMatching, KineticOptimal, Schedule, SubVP, VPCosine
from odekit.solvers.tableaus import Bosh3, Ralston


def within(schedule, ts):
    """The grid with some data in its first point and some noise in its last."""
    if schedule is VP:
        return ts
    first = ts[0] if schedule.alpha(ts[0]) > 0 else ts[0] + 5e-4 * (ts[-1] - ts[0])
    return np.hstack([first, ts[1:-1], ts[-1] if schedule.sigma(ts[-1]) > 0 else ts[-2:].mean()])


PLAIN = V3Statistics(np.linspace(-12.0, 12.0, 5), np.ones(5), np.zeros(5), np.zeros(5))
VARIANTS = {  # every builder, in each of its forms
    "accelerated_ddim": accelerated_ddim,
    "adams2": lambda s, ts: adams(s, ts, 2),
    "adams3": lambda s, ts: adams(s, ts, 3),
    "bdia": bdia,
    "belm": lambda s, ts: belm(s, within(s, ts)),
    "ancestral": lambda s, ts: ancestral(s, ts, lower_order_final=True),
    "ddim": ddim,
    "ddim eta": lambda s, ts: ddim(s, ts, 0.5),
    "ddpm large": lambda s, ts: ddpm(s, ts, "large"),
    "ddpm midpoint": lambda s, ts: ddpm(s, ts, midpoint_noise=True),
    "deis2": lambda s, ts: deis(s, ts, 2),
    "deis2 rhoab": lambda s, ts: deis(s, ts, 2, "rhoab"),
    "dpm2": lambda s, ts: dpm(s, ts, 2, lower_order_final=True),
    "dpmpp1": lambda s, ts: dpmpp(s, ts, 1),
    "dpmpp2": lambda s, ts: dpmpp(s, ts, 2, lower_order_final=True),
    "dpmpp2 sde": lambda s, ts: dpmpp(s, ts, 2, tau=1.0, lower_order_final=True),
    "dpmpp3": lambda s, ts: dpmpp(s, ts, 3, lower_order_final=True),
    "dpmpp3 compat": lambda s, ts: dpmpp(s, ts, 3, lower_order_final=True, compat=True),
    "dpm fast": lambda s, ts: dpm(s, ts, 2, "fast", lower_order_final=True),
    "edict": lambda s, ts: edict(s, within(s, ts)),
    "dpmpp2 single": lambda s, ts: dpmpp(s, ts, 2, "singlestep", lower_order_final=True),
    "dpmpp3 single": lambda s, ts: dpmpp(s, ts, 3, "singlestep", variant="heun", lower_order_final=True),
    "dpm_v3": lambda s, ts: dpm_v3(s, ts, PLAIN, 2, lower_order_final=True),
    "edm churn": lambda s, ts: edm(s, ts, churn=1.0, churn_max=50.0, lower_order_final=True),
    "er_sde3": er_sde,
    "er_sde2 compat": lambda s, ts: er_sde(s, ts, 2, compat=True),
    "euler": euler,
    "euler_maruyama": euler_maruyama,
    "flow_dps": flow_dps,
    "heun": lambda s, ts: heun(s, ts, euler_at_final=True),
    "heun full": lambda s, ts: heun(s, ts, euler_at_final=False),
    "pndm3 f": lambda s, ts: pndm(s, ts, 3, "f"),
    "pndm4": pndm,
    "restart": lambda s, ts: restart(s, ts, [(3, 1, ts[2], ts[1])], lower_order_final=True),
    "rex": lambda s, ts: rex(s, within(s, ts)),
    "rex sde": lambda s, ts: rex(s, within(s, ts), sde=True),
    "reverse_diffusion": reverse_diffusion,
    "rf": rf,
    "rf reuse": lambda s, ts: rf(s, ts, reuse=True),
    "runge_kutta": lambda s, ts: runge_kutta(s, ts, Ralston(), euler_at_final=False),
    "runge_kutta rho": lambda s, ts: runge_kutta(s, ts, Bosh3(), "rho"),
    "sa3": lambda s, ts: sa(s, ts, 3, lower_order_final=True),
    "sa3c4": lambda s, ts: sa(s, ts, 3, corrector=4, lower_order_final=True),
    "sa2c2 compat": lambda s, ts: sa(s, ts, 2, corrector=2, compat=True),
    "sa2c2 ode": lambda s, ts: sa(s, ts, 2, corrector=2, tau=0.0, lower_order_final=True),
    "seeds2": lambda s, ts: seeds(s, ts, 2, tau=np.arange(len(ts) - 1) % 2, lower_order_final=True),
    "unipc2": lambda s, ts: unipc(s, ts, 2, corrector=np.arange(len(ts) - 1) != 1, lower_order_final=True),
    "unipc2 noise": lambda s, ts: unipc(s, ts, 2, view="noise", compat=True, lower_order_final=True),
}
every = pytest.mark.parametrize("name", VARIANTS)
FIRST = {name.split()[0].rstrip("1234"): name for name in reversed(VARIANTS)}  # one form of each builder
every_builder = pytest.mark.parametrize(
    "name", [name if name in FIRST.values() else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
VIEWS = {name: build(VP, [1.0, 0.5, 0.1]).view for name, build in VARIANTS.items()}
NOISY = [name for name, build in VARIANTS.items() if build(VP, [1.0, 0.5, 0.1]).stochastic]
INEXACT = ("ddpm large", "accelerated_ddim")  # by design: too much noise, and steps in alpha that are not exponential
EXACT = [name for name in VARIANTS if not (name in NOISY and VIEWS[name] == "noise") and name not in INEXACT]
KEY = jax.random.key(3)


def key_for(table):
    return KEY if table.stochastic else None


def flow_grid(name, n, spacing="time"):
    """From pure noise, which says nothing in the noise view: there from a little later."""
    return time_grid(FM, n, spacing, start=0.99 if VIEWS[name] == "noise" else None)


def test_every_builder_is_registered():
    found = set()
    for module in pkgutil.iter_modules(samplers.__path__, "odekit.samplers."):
        for name, fn in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction):
            returns = fn.__annotations__.get("return")
            if (
                not name.startswith("_")
                and returns is SamplerTable
                and next(iter(fn.__annotations__.values())) is Schedule
            ):
                found.add(fn)
    assert found == set(TABLES)
    assert all(getattr(samplers, fn.__name__) is fn and fn.__name__ in samplers.__all__ for fn in TABLES)


def test_every_builder_has_a_variant_here():
    names = [build(VP, [1.0, 0.5, 0.1]).name for build in VARIANTS.values()]
    builders = {build.__name__ for build in TABLES}
    assert builders == {max((b for b in builders if name.startswith(b)), key=len, default=name) for name in names}


@every
def test_tables_are_cited(name):
    table = VARIANTS[name](VP, time_grid(VP, 4))
    assert table.name
    assert any(year in table.source for year in map(str, range(1768, 2027)))


@every
def test_the_loop_is_the_definition(name):
    """The scan against NumPy, with the noise that key and row number define."""
    table, x = VARIANTS[name](VP, time_grid(VP, 6, "logsnr")), starts()
    z = [jax.random.normal(jax.random.fold_in(KEY, k), x.shape) for k in range(table.nfe + 1)]  # `draws` picks
    want = run_by_hand(table, lambda x, t: np.tanh(x + t), x, np.asarray(z))
    got = sample(toy(VP, table.view), table, jnp.asarray(x), key=key_for(table))
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@every_builder
def test_row_by_row_is_the_same_to_the_bit(name):
    table, model, x = VARIANTS[name](FM, flow_grid(name, 5)), toy(FM), jnp.asarray(starts())
    state = table.init(x, key_for(table))
    for k in range(table.nfe):
        state = table.step(model, k, state, key_for(table))
    # sums of large numbers of both signs are contracted in another order inside the loop by JAX 0.12
    rounding = 1e-13 if name.startswith("rex") else 0
    np.testing.assert_allclose(state.slots[0], sample(model, table, x, key=key_for(table)), rtol=rounding)


@every_builder
def test_trajectory(name):
    table, model, x = VARIANTS[name](VP, time_grid(VP, 5)), toy(VP), jnp.asarray(starts())
    seen = sample(model, table, x, key=key_for(table), trajectory=True)
    assert seen.shape == (table.nfe + 1, *x.shape)
    assert table.t_state.shape == (table.nfe + 1,)
    np.testing.assert_array_equal(seen[0], table.init(x, key_for(table)).slots[0])
    np.testing.assert_array_equal(seen[-1], sample(model, table, x, key=key_for(table)))
    if name != "edict":  # whose second state asks for the noise that the first had
        np.testing.assert_array_equal(table.t_state[:-1], table.t)
    assert table.t_state[-1] == 1e-3


@pytest.mark.parametrize("name", EXACT)
def test_a_known_point_is_reproduced_exactly(name):
    """Data at one point has a constant data prediction: every table in that view samples its noisy law exactly."""
    constant, x, schedule = np.array([[0.3, -2.0]]), starts(), FM if VIEWS[name] == "velocity" else VP
    ts = time_grid(schedule, 6, "quadratic")
    table, both = VARIANTS[name](schedule, ts), ts[[0, -1]]
    (alpha0, alpha1), (sigma0, sigma1) = VP.alpha(both), VP.sigma(both)
    if table.view == "data":
        assert law_error(table, VP, std=0.0) < 1e-14
    else:  # and in the other views, tables are exact where these are constant
        kept = alpha1 / alpha0 if table.view == "noise" else 1.0
        moved = sigma1 - kept * sigma0 if table.view == "noise" else -1.0
        end = run_by_hand(table, lambda x, t: constant, x, None)
        np.testing.assert_allclose(end, kept * x + moved * constant, rtol=1e-12, atol=1e-12 * abs(kept))


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - set(NOISY)))
def test_float32(name):
    table, x = VARIANTS[name](VP, time_grid(VP, 8)), np.float32(starts())
    single = sample(toy(VP, table.view), table, jnp.asarray(x))
    assert single.dtype == jnp.float32
    want = run_by_hand(table, lambda x, t: np.tanh(x + t), np.float64(x), None)
    np.testing.assert_allclose(single, want, rtol=0, atol=1e-6 * max(1.0, np.max(np.abs(want))))


@every
def test_a_last_point_without_noise(name):
    for schedule, ts in ((VE, time_grid(VE, 6, "karras", end="zero")), (FM, flow_grid(name, 6, "logsnr"))):
        table, z = VARIANTS[name](schedule, ts), np.random.RandomState(0).standard_normal((24, 64, 2))
        if name == "heun full" and schedule is VE:
            continue  # asks for a velocity where only a network that predicts it has one
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(table))
        end = run_by_hand(table, numpy_view(schedule, table.view), schedule.sigma(ts[0]) * starts(), z)
        assert np.all(np.isfinite(end))


SCHEDULES = {
    "VP": VP,
    "cosine": VPCosine(),
    "sub-VP": SubVP(),
    "VE": GeometricVE(),
    "FM": FM,
    "FM up": FlowMatching(data_at=1),
    "circle": KineticOptimal(0.0),
    "kinetic up": KineticOptimal(0.4, data_at=1),
}
# Time or alpha itself enters these, as time does everything in the velocity view; BDIA and EDICT mix two times.
BOUND = (
    "ddpm large",
    "deis2",
    "edm churn",
    "euler_maruyama",
    "pndm3 f",
    "reverse_diffusion",
    "seeds2",
    "bdia",
    "edict",
)
IN_LAM = [name for name in VARIANTS if name not in BOUND and VIEWS[name] != "velocity"]


@pytest.mark.parametrize("name", IN_LAM)
def test_samplers_in_lam_do_not_depend_on_the_schedule(name):
    """On one grid in lam, x / alpha is the same whatever the schedule, and whichever way its time runs."""
    lam, z = np.linspace(-4.0, 4.0, 9), np.random.RandomState(0).standard_normal((40, 64, 2))

    def scaled(schedule):
        ts = schedule.t_of_lam(lam)
        alpha, table = schedule.alpha(ts), VARIANTS[name](schedule, ts)

        def view(x, t):
            data = numpy_view(VE, "data")(x / schedule.alpha(t), np.exp(-schedule.lam(t)))
            return data if table.view == "data" else (x - schedule.alpha(t) * data) / schedule.sigma(t)

        return run_by_hand(table, view, np.exp(4.0) * alpha[0] * starts(), z) / alpha[-1]

    want = scaled(VE)
    for schedule in SCHEDULES.values():
        np.testing.assert_allclose(scaled(schedule), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "seeds2"])  # whose tau is a function of time
def test_a_flow_may_run_either_way(name):
    """Time counted from the noise instead of from the data: the same samples, the velocity with the other sign."""
    ts, up, x = time_grid(FM, 5, "quadratic", start=0.95), FlowMatching(data_at=1), starts()[:3]
    z = np.random.RandomState(0).standard_normal((40, 3, 2))
    table, other = VARIANTS[name](FM, ts), VARIANTS[name](up, 1 - ts)
    sign = -1 if table.view == "velocity" else 1
    want = run_by_hand(table, lambda x, t: np.tanh(x + t), x, z)
    got = run_by_hand(other, lambda x, t: sign * np.tanh(x + 1 - t), x, z)
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


@every_builder
def test_a_grid_being_trained_gives_the_same_numbers_and_their_derivatives(name):
    """A random weighting of all numbers: traced and on the host, its gradient against central differences there."""
    ts, build = time_grid(VP, 5), VARIANTS[name]
    draw, leaves = np.random.RandomState(0).standard_normal, jax.tree.leaves(build(VP, ts))
    weights, step = [draw(leaf.shape) for leaf in leaves], 1e-6

    def total(ts, xp):
        table = build(VP, ts)
        return sum(xp.sum(w * xp.asarray(leaf)) for w, leaf in zip(weights, jax.tree.leaves(table), strict=True)), table

    (_, traced), slopes = jax.jit(jax.value_and_grad(lambda ts: total(ts, jnp), has_aux=True))(jnp.asarray(ts))
    for a, b in zip(leaves, jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-12)
    for k in range(6):
        up, down = (total(ts + by * np.eye(6)[k], np)[0] for by in (step, -step))
        np.testing.assert_allclose((up - down) / (2 * step), slopes[k], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ddim eta", "heun full", "sa3c4"])
def test_gradients_reach_the_numbers_of_a_table(name):
    """Straight to entries of the table through the loop, against central differences."""
    x, step = jnp.asarray(starts()[:4]), 1e-6
    table = VARIANTS[name](VP, time_grid(VP, 4))
    fields = [field for field in ("states", "evals", "noise") if getattr(table, field) is not None]
    where = {field: tuple(np.argwhere(getattr(table, field))[-1]) for field in fields}

    def loss(shift):
        moved = table
        for field in fields:
            get = operator.attrgetter(field)
            moved = eqx.tree_at(get, moved, get(moved).at[where[field]].add(shift[field]))
        return jnp.sum(jnp.sin(run_table(moved, toy(VP), x, key_for(table))))

    value_and_slopes = jax.jit(jax.value_and_grad(loss))
    at = dict.fromkeys(fields, jnp.array(0.0))
    _, slopes = value_and_slopes(at)
    for field in fields:
        up, down = (value_and_slopes({**at, field: jnp.array(by)})[0] for by in (step, -step))
        np.testing.assert_allclose((up - down) / (2 * step), slopes[field], rtol=2e-6, atol=1e-8)


def test_pytree_states_are_sampled_leaf_by_leaf():
    def fn(x, t, cond):
        return jax.tree.map(lambda leaf: jnp.tanh(leaf) * t.astype(leaf.dtype), x)

    model, table = Denoiser(fn, VP, "data"), VARIANTS["sa2c2 ode"](VP, time_grid(VP, 5))
    x = {"a": jnp.asarray(starts()[:3]), "b": jnp.asarray(starts()[3:8, 0])}
    got = sample(model, table, x)
    for name, leaf in x.items():
        np.testing.assert_allclose(got[name], sample(model, table, leaf), rtol=1e-13)
