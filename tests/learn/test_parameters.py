"""Families of tables: started exactly at a named table, with constraints that no numbers can break."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_mixture import SCHEDULES, noise
from hypothesis import given, settings
from hypothesis import strategies as st

from odekit import samplers
from odekit.learn import Family, free_grid, free_rows, from_rows, normal_form
from odekit.loops.table import run_table
from odekit.schedules import FlowMatching, VPLinear

BUILDERS = {
    "euler": samplers.euler,
    "ddim": samplers.ddim,
    "heun": samplers.heun,
    "dpmpp2": samplers.dpmpp,
    "dpmpp3": functools.partial(samplers.dpmpp, order=3),
    "adams2": samplers.adams,
    "adams4": functools.partial(samplers.adams, order=4),
}


GRID = eqx.filter_jit(lambda make, free: make(free))


def build(builder, schedule, n=6):
    return BUILDERS[builder](SCHEDULES[schedule], samplers.time_grid(SCHEDULES[schedule], n))


@eqx.filter_jit
def ends(schedule, *tables):
    """What the tables make of one small network; tables are compared on it because it is no solver's special case."""
    model = samplers.Denoiser(lambda x, t, cond: jnp.tanh(2 * x + t) + x[:, ::-1], SCHEDULES[schedule], "velocity")
    x = jnp.linspace(-2, 2, 12).reshape(4, 3)
    return [run_table(table, model, x) for table in tables]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("builder", BUILDERS)
def test_normal_forms_and_families_start_as_the_same_solver(builder, schedule):
    table = build(builder, schedule)
    views = {"flow": ("data", "velocity"), "vp": ("data", "velocity", "noise")}[schedule]
    families = [free_rows(table), free_rows(table, consistent=True)]
    forms = [normal_form(table), *(normal_form(table, SCHEDULES[schedule], view) for view in views)]
    want, *got = ends(schedule, table, *(family.table() for family in families), *forms)
    for end in got:
        # data rows are differences of velocities times 1/alpha, which is 152 on VP, and so is their round-off
        np.testing.assert_allclose(end, want, rtol=0, atol=1e-11)
    for family in families:
        np.testing.assert_allclose(family.table().t, table.t, rtol=0, atol=4e-16)


def test_equal_solvers_have_equal_normal_forms_and_different_ones_do_not():
    flow = FlowMatching()
    euler, ddim, heun = (normal_form(build(name, "flow", 4), flow, "velocity") for name in ("euler", "ddim", "heun"))
    np.testing.assert_allclose(euler.states, ddim.states, rtol=0, atol=1e-14)
    np.testing.assert_allclose(euler.evals, ddim.evals, rtol=0, atol=1e-14)
    assert heun.evals.shape != euler.evals.shape
    midpoint_rows = normal_form(build("adams2", "flow", 4), flow, "velocity")
    assert np.abs(np.asarray(midpoint_rows.evals - euler.evals)).max() > 0.1


def test_euler_on_a_flow_is_known_in_closed_form():
    form = normal_form(build("euler", "flow", 4))
    np.testing.assert_allclose(form.states[:, 0], [[0, 1]] * 4, rtol=0, atol=0)
    np.testing.assert_allclose(form.evals[:, 0], -0.25 * np.tril(np.ones((4, 4))), rtol=0, atol=1e-16)


@pytest.mark.parametrize(("consistent", "count"), [(False, 6 + 21 + 6), (True, 6 + 15 + 6)])
def test_the_free_numbers_are_counted(consistent, count):
    free = free_rows(build("euler", "flow"), consistent=consistent).free
    assert sum(leaf.size for leaf in jax.tree.leaves(free)) == count


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.floats(-60, 60), min_size=6, max_size=6))
def test_any_numbers_give_times_in_the_interval(logits):
    family = free_rows(build("euler", "vp"), interval=(1e-3, 1.0))
    times = eqx.tree_at(lambda f: f.free["times"], family, jnp.asarray(logits)).table().t
    assert np.all((np.asarray(times) >= 1e-3) & (np.asarray(times) <= 1.0))


def test_a_time_at_the_end_of_the_interval_can_leave_it():
    family = free_rows(build("euler", "flow"))
    slope = jax.jacobian(lambda free: family.make(free).t)(family.free)["times"]
    assert np.all(np.abs(np.diag(slope)) > 5e-3)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.floats(-30, 30), min_size=6, max_size=6))
def test_any_numbers_give_an_ordered_grid(shares):
    family = free_grid(samplers.euler, FlowMatching(), np.linspace(1, 0, 7))
    grid = GRID(family.make, jnp.asarray(shares)).t_state
    assert np.all(np.diff(grid) <= 0)
    np.testing.assert_allclose(grid[jnp.array([0, -1])], [1, 0], rtol=0, atol=0)


@pytest.mark.parametrize("builder", ["euler", "ddim", "adams2", "heun"])
def test_grids_start_exactly_at_the_builders_table(builder):
    ts = samplers.time_grid(FlowMatching(), 6, "logsnr")
    family, table = free_grid(BUILDERS[builder], FlowMatching(), ts), BUILDERS[builder](FlowMatching(), ts)
    for one, two in zip(jax.tree.leaves(GRID(family.make, family.free)), jax.tree.leaves(table), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=2e-14)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_consistent_rows_stay_exact_for_constant_predictions(schedule):
    class Constant(eqx.Module):
        value: jax.Array

        def data(self, x, t, cond):
            return jnp.broadcast_to(self.value, x.shape)

    table = build("ddim", schedule)
    family, free_family = free_rows(table, consistent=True), free_rows(table)
    moved, loose = (
        Family(f.make, jax.tree.map(lambda a: a + jnp.sin(jnp.arange(a.size, dtype=a.dtype)), f.free)).table()
        for f in (family, free_family)
    )
    model, x = Constant(jnp.linspace(-1, 1, 8)[None]), noise(4, 5)
    at, (t0, t1) = SCHEDULES[schedule], (table.t_state[0], table.t_state[-1])
    keep = at.sigma(t1) / at.sigma(t0)
    want = keep * x + (at.alpha(t1) - at.alpha(t0) * keep) * model.value
    np.testing.assert_allclose(run_table(moved, model, x), want, rtol=0, atol=1e-12)
    assert np.abs(np.asarray(run_table(loose, model, x) - want)).max() > 0.1


def test_families_run_under_vmap():
    family = free_rows(build("euler", "flow"))
    many = Family(family.make, jax.tree.map(lambda a: jnp.stack([a, a + 0.1]), family.free))
    axes = Family(jax.tree.map(lambda _: None, family.make), jax.tree.map(lambda _: 0, family.free))
    x = noise(3, 4)
    model = samplers.Denoiser(lambda x, t, cond: jnp.tanh(2 * x + t), FlowMatching(), "velocity")
    both = eqx.filter_jit(eqx.filter_vmap(lambda f: run_table(f.table(), model, x), in_axes=(axes,)))(many)
    np.testing.assert_allclose(both[0], run_table(family.table(), model, x), rtol=0, atol=1e-13)
    assert np.abs(np.asarray(both[1] - both[0])).max() > 1e-3


def test_rows_are_read_as_written():
    table = from_rows(jnp.array([1.0, 2.0]), jnp.array([[3.0, 0.0], [4.0, 5.0]]), jnp.ones(2), jnp.ones(3), "data")
    seen = []

    class Spy:
        def data(self, x, t, cond):
            return x + 1

    y1 = 1 * 10.0 + 3 * 11.0
    seen.append(2 * 10.0 + 4 * 11.0 + 5 * (y1 + 1))
    np.testing.assert_allclose(run_table(table, Spy(), jnp.array([10.0])), seen, rtol=1e-15)


def test_bad_choices_are_refused_in_a_sentence():
    table = build("euler", "flow")
    with pytest.raises(ValueError, match=r"`train` is \('weights',\); name one or both"):
        free_rows(table, train=("weights",))
    with pytest.raises(ValueError, match="name one or both"):
        free_rows(table, train=())
    with pytest.raises(ValueError, match=r"`interval` is \(0.0, 0.5\)"):
        free_rows(table, (0.0, 0.5))
    with pytest.raises(ValueError, match="`table` has noise rows"):
        normal_form(samplers.ddim(VPLinear(), [1.0, 0.5, 0.1], eta=1.0))
    with pytest.raises(ValueError, match="`view` is 'noise', which row 0"):
        normal_form(table, FlowMatching(), "noise")
    with pytest.raises(ValueError, match="`schedule` is needed"):
        normal_form(table, view="data")
    with pytest.raises(ValueError, match="`ts` must be strictly monotone"):
        free_grid(samplers.euler, FlowMatching(), [1.0, 0.5, 0.5, 0.0])
