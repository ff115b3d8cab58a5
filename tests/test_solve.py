"""The front door: what is saved, how steps are chosen, tolerances, statistics, many solves at once."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok
from odekit import SaveAt


def decay(t, y, args):
    return jax.tree.map(lambda x: -x, y)


def forced(t, y, args):
    rate = 1.0 if args is None else args
    return jnp.cos(t) - rate * y


def forced_solution(t, y0=1.0):
    return (y0 - 0.5) * np.exp(-t) + (np.cos(t) + np.sin(t)) / 2


TIGHT = {"rtol": 1e-10, "atol": 1e-10}


# --- what is saved


@pytest.mark.parametrize("grid", [TIGHT, {"n_steps": 200}], ids=["adaptive", "fixed"])
def test_save_times_with_repeats_and_both_ends(grid):
    ts = np.array([0.0, 0.0, 0.3, 0.3, 1.234567, 2.9, 3.0, 3.0])
    sol = ok.solve(forced, 1.0, 0.0, 3.0, saveat=ts, **grid)
    np.testing.assert_array_equal(sol.ts, ts)
    np.testing.assert_allclose(sol.ys, forced_solution(ts), rtol=0, atol=2e-9)
    assert sol.ys[0] == 1.0
    assert sol.ys[-1] == sol.ys[-2] == sol.y1


@pytest.mark.parametrize("grid", [TIGHT, {"n_steps": 200}], ids=["adaptive", "fixed"])
def test_save_times_backward(grid):
    ts = np.array([3.0, 2.5, 2.5, 0.7, 0.0])
    sol = ok.solve(forced, forced_solution(3.0), 3.0, 0.0, saveat=ts, **grid)
    np.testing.assert_allclose(sol.ys, forced_solution(ts), rtol=0, atol=3e-8)
    assert (sol.t1, sol.ys[-1]) == (0.0, sol.y1)


@pytest.mark.parametrize("grid", [{}, {"n_steps": 7}], ids=["adaptive", "fixed"])
def test_every_step_is_saved(grid):
    sol = ok.solve(forced, 1.0, 0.0, 3.0, saveat=SaveAt(t0=True, steps=True), max_steps=50, **grid)
    n = int(sol.stats["accepted"])
    ts, ys = np.asarray(sol.ts), np.asarray(sol.ys)
    assert np.all(np.diff(ts[: n + 1]) > 0)
    assert (ts[0], ts[n], ys[n]) == (0.0, 3.0, sol.y1)
    np.testing.assert_allclose(ys[: n + 1], forced_solution(ts[: n + 1]), rtol=0, atol=1e-3)
    assert np.all(np.isinf(ts[n + 1 :]))
    assert np.all(np.isnan(ys[n + 1 :]))
    assert len(ts) == (8 if grid else 51)


def test_dense_output_takes_times_of_any_shape():
    sol = ok.solve(forced, jnp.ones(2), 0.0, 3.0, saveat=SaveAt(dense=True, t1=True), **TIGHT)
    ts = np.linspace(0.0, 3.0, 12).reshape(3, 2, 2)
    ys = sol(ts)
    assert ys.shape == (3, 2, 2, 2)
    np.testing.assert_allclose(ys, forced_solution(ts)[..., None] * np.ones(2), rtol=0, atol=2e-9)
    assert sol(1.5).shape == (2,)
    np.testing.assert_array_equal(sol(1.5), sol(jnp.array([1.5]))[0])
    np.testing.assert_array_equal(sol(3.0), sol.y1)


def test_dense_output_agrees_with_save_times():
    ts = jnp.linspace(0.0, 3.0, 7)
    saved = ok.solve(forced, 1.0, 0.0, 3.0, saveat=ts)
    dense = ok.solve(forced, 1.0, 0.0, 3.0, saveat=SaveAt(dense=True))(ts)
    np.testing.assert_allclose(dense, saved.ys, rtol=1e-14, atol=1e-15)  # the same sums, compiled apart


def test_start_times_and_end_come_in_order():
    sol = ok.solve(forced, 1.0, 0.0, 3.0, saveat=SaveAt([1.0, 2.0], t0=True, t1=True), **TIGHT)
    np.testing.assert_array_equal(sol.ts, [0.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(sol.ys, forced_solution(np.arange(4.0)), rtol=0, atol=1e-9)
    only_start = ok.solve(forced, 1.0, 0.0, 3.0, saveat=SaveAt(t0=True))
    np.testing.assert_array_equal(only_start.ys, [1.0])
    by_default = ok.solve(forced, 1.0, 0.0, 3.0)
    np.testing.assert_array_equal(by_default.ts, [3.0])
    np.testing.assert_array_equal(by_default.ys, by_default.y1[None])


def test_a_function_is_saved_in_place_of_the_state():
    saveat = SaveAt([0.5, 1.0], fn=lambda t, y, args: {"square": y["a"] ** 2, "time": t, "args": args})
    sol = ok.solve(decay, {"a": jnp.ones(2)}, 0.0, 1.0, args=jnp.array(7.0), saveat=saveat, **TIGHT)
    np.testing.assert_allclose(sol.ys["square"], np.exp([[-1.0] * 2, [-2.0] * 2]), rtol=1e-8)
    np.testing.assert_array_equal(sol.ys["time"], sol.ts)
    np.testing.assert_array_equal(sol.ys["args"], [7.0, 7.0])
    assert sol.y1["a"].shape == (2,)


def test_saving_changes_no_step():
    plain = ok.solve(forced, 1.0, 0.0, 3.0)
    saving = ok.solve(forced, 1.0, 0.0, 3.0, saveat=np.linspace(0, 3, 100))
    assert plain.y1 == saving.y1
    assert jax.tree.map(int, plain.stats) == jax.tree.map(int, saving.stats)


# --- how steps are chosen


def test_fixed_grids_by_number_length_and_lengths_are_the_same_grid():
    by_number = ok.solve(forced, 1.0, 0.0, 2.0, n_steps=8)
    by_length = ok.solve(forced, 1.0, 0.0, 2.0, dt=0.25)
    by_lengths = ok.solve(forced, 1.0, 0.0, 2.0, dt=jnp.full(8, 0.25))
    assert by_number.y1 == by_length.y1
    np.testing.assert_allclose(by_lengths.y1, by_number.y1, rtol=1e-15)


def test_a_last_step_is_shortened_to_the_end():
    sol = ok.solve(forced, 1.0, 0.0, 1.0, dt=0.3, saveat=SaveAt(steps=True))
    np.testing.assert_allclose(sol.ts, [0.3, 0.6, 0.9, 1.0], rtol=1e-15)
    assert sol.stats["accepted"] == 4


def test_uneven_lengths_are_taken_as_given():
    lengths = np.array([0.1, 0.4, 0.2, 0.3])
    for sign in (1, -1):
        sol = ok.solve(forced, 1.0, 0.0, sign * 1.0, ok.Euler(), dt=jnp.asarray(lengths), saveat=SaveAt(steps=True))
        t, y = 0.0, 1.0
        for h in sign * lengths:
            t, y = t + h, y + h * (np.cos(t) - y)
        np.testing.assert_allclose(sol.ts, sign * np.cumsum(lengths), rtol=1e-14)
        np.testing.assert_allclose(sol.y1, y, rtol=1e-14)


def test_a_first_length_is_taken_as_given():
    first = ok.solve(forced, 1.0, 0.0, 1.0, dt0=0.01, saveat=SaveAt(steps=True)).ts[0]
    assert first == 0.01
    backward = ok.solve(forced, 1.0, 1.0, 0.0, dt0=0.01, saveat=SaveAt(steps=True)).ts[0]
    np.testing.assert_allclose(backward, 0.99, rtol=1e-15)
    too_long = ok.solve(cases.lorenz, jnp.ones(3), 0.0, 1.0, dt0=1.0, **TIGHT)
    assert too_long.stats["rejected"] > 0
    np.testing.assert_allclose(too_long.y1, ok.solve(cases.lorenz, jnp.ones(3), 0.0, 1.0, **TIGHT).y1, rtol=1e-6)


@pytest.mark.parametrize(
    "gains",
    [
        {"pcoeff": 0.4, "icoeff": 0.3},
        {"pcoeff": 1 / 3, "icoeff": 1 / 3},
        {"pcoeff": 1 / 9, "icoeff": 1 / 18, "dcoeff": 1 / 18},
    ],
    ids=["PI3040", "PI3333", "H312PID"],
)
def test_gains_control_the_error(gains):
    case = cases.VAN_DER_POL
    errors = []
    for tol in (1e-6, 1e-8):
        pid = ok.PID(tol, tol, **gains)
        sol = ok.solve(case.f, jnp.asarray(case.y0), case.t0, case.t1, controller=pid)
        assert 4 * sol.stats["rejected"] < sol.stats["accepted"]
        errors.append(np.max(np.abs(sol.y1 - case.y1)))
    assert errors[0] < 2e-4
    assert errors[1] < errors[0] / 30


def test_a_longest_step_is_kept():
    sol = ok.solve(
        forced, 1.0, 0.0, 1.0, controller=ok.PID(1e-3, 1e-3, dt_max=0.05), saveat=SaveAt(t0=True, steps=True)
    )
    n = int(sol.stats["accepted"])
    assert n >= 20
    assert np.max(np.diff(np.asarray(sol.ts)[: n + 1])) <= 0.05 * (1 + 0.011)


def test_the_vector_field_is_never_evaluated_beyond_the_end():
    """The field is NaN outside of the interval; a stage there would end the solve."""
    for t0, t1 in ((0.0, 1.0), (1.0, 0.0)):

        def f(t, y, args):
            return jnp.where((t < 0) | (t > 1), jnp.nan, -y)

        assert jnp.isfinite(ok.solve(f, 1.0, t0, t1).y1)


# --- tolerances


def test_tighter_tolerances_cost_more_and_err_less():
    runs = [ok.solve(forced, 1.0, 0.0, 3.0, rtol=tol, atol=tol) for tol in (1e-4, 1e-7, 1e-10)]
    steps = [int(run.stats["accepted"]) for run in runs]
    errors = [abs(float(run.y1) - forced_solution(3.0)) for run in runs]
    assert steps == sorted(steps)
    assert all(b < a / 30 for a, b in zip(errors, errors[1:], strict=False))


def test_tolerances_for_each_entry():
    """The fast entry is let go: the slow one alone sets the steps."""

    def f(t, y, args):
        return jnp.stack([-y[0], 40 * jnp.cos(40 * t) + 0 * y[1]])

    y0 = jnp.array([1.0, 0.0])
    strict = ok.solve(f, y0, 0.0, 3.0, rtol=0.0, atol=1e-8)
    loose = ok.solve(f, y0, 0.0, 3.0, rtol=0.0, atol=jnp.array([1e-8, 1e6]))
    assert 5 * loose.stats["accepted"] < strict.stats["accepted"]
    np.testing.assert_allclose(loose.y1[0], np.exp(-3), atol=1e-7)


def test_tolerances_for_each_leaf():
    def f(t, y, args):
        return {"a": -y["a"], "b": jnp.full(2, 40.0) * jnp.cos(40 * t)}

    y0 = {"a": jnp.array(1.0), "b": jnp.zeros(2)}
    strict = ok.solve(f, y0, 0.0, 3.0, rtol=0.0, atol={"a": 1e-8, "b": 1e-8})
    loose = ok.solve(f, y0, 0.0, 3.0, rtol=0.0, atol={"a": 1e-8, "b": jnp.array([1e6, 1e6])})
    same = ok.solve(f, y0, 0.0, 3.0, rtol=0.0, atol=1e-8)
    assert 5 * loose.stats["accepted"] < strict.stats["accepted"]
    assert jax.tree.map(int, strict.stats) == jax.tree.map(int, same.stats)


# --- statistics and messages


def test_statistics_count_evaluations():
    """A host counter beside the compiled count, for Tsit5: two to start, six an attempt."""
    calls = []

    def counted(t, y, args):
        jax.debug.callback(lambda: calls.append(1))
        return forced(t, y, args)

    sol = ok.solve(counted, 1.0, 0.0, 3.0)
    jax.effects_barrier()
    attempts = int(sol.stats["accepted"] + sol.stats["rejected"])
    assert sol.stats["evaluations"] == 2 + 6 * attempts
    assert len(calls) == sol.stats["evaluations"]
    fixed = ok.solve(forced, 1.0, 0.0, 3.0, ok.RK4(), n_steps=5)
    assert jax.tree.map(int, fixed.stats) == {"accepted": 5, "rejected": 0, "evaluations": 21}


def test_check_returns_what_is_well_and_refuses_what_is_traced():
    sol = ok.solve(forced, 1.0, 0.0, 3.0)
    assert ok.check(sol) is sol
    assert sol.message() == "The solve reached t1."
    with pytest.raises(ValueError, match="traced"):
        jax.jit(lambda: ok.check(ok.solve(forced, 1.0, 0.0, 3.0)).y1)()


def test_a_failing_eager_call_raises_with_time_and_cause():
    with pytest.raises(ok.SolveError, match=r"^The solve stopped at t=\d.*max_steps"):
        ok.solve(forced, 1.0, 0.0, 3.0, rtol=1e-12, atol=1e-12, max_steps=10)


def test_defaults_are_tsit5():
    default, named = (ok.solve(forced, 1.0, 0.0, 3.0, method) for method in (None, ok.Tsit5()))
    assert default.y1 == named.y1
    assert default.method == named.method == "Tsit5"


def test_lanes_padded_with_nan_times_save_nan_there_and_pass_no_gradient_back():
    ts = jnp.array([[0.2, 0.7, 1.0], [0.5, jnp.nan, jnp.nan], [jnp.nan] * 3])

    def saved(rate, ts):
        return ok.solve(lambda t, y, args: -args * y, 1.0, 0.0, 1.0, args=rate, saveat=ts, max_steps=64, throw=False)

    def loss(rates):
        ys = jax.vmap(saved)(rates, ts).ys
        return jnp.sum(jnp.where(jnp.isnan(ts), 0.0, ys))

    rates = jnp.array([1.0, 2.0, 3.0])
    sol = jax.vmap(saved)(rates, ts)
    np.testing.assert_array_equal(np.isnan(sol.ys), np.isnan(ts))
    np.testing.assert_allclose(sol.ys, np.exp(-np.asarray(rates)[:, None] * ts), rtol=1e-4)
    assert np.all(sol.result == ok.Result.SUCCESS)
    at = np.asarray(ts)
    want = np.nansum(-at * np.exp(-np.asarray(rates)[:, None] * at), axis=1)
    np.testing.assert_allclose(jax.grad(loss)(rates), want, rtol=1e-3, atol=1e-12)


def test_saved_functions_of_the_state_under_vmap_and_grad():
    def energy(t, y, scale):
        return {"energy": scale * jnp.sum(y**2), "t": t}

    def saved(y0, scale):
        saveat = ok.SaveAt(ts=[0.5, 1.0], fn=energy)
        return ok.solve(lambda t, y, args: -y, y0, 0.0, 1.0, args=scale, saveat=saveat, max_steps=256, **TIGHT).ys

    y0s = jnp.array([[1.0, 2.0], [0.5, 0.0]])
    ys = jax.vmap(saved, in_axes=(0, None))(y0s, jnp.array(3.0))
    want = 3.0 * np.sum(np.asarray(y0s) ** 2, axis=1)[:, None] * np.exp([-1.0, -2.0])
    np.testing.assert_allclose(ys["energy"], want, rtol=1e-7)
    np.testing.assert_array_equal(ys["t"], [[0.5, 1.0]] * 2)
    slopes = jax.grad(lambda y0, scale: jnp.sum(saved(y0, scale)["energy"]), argnums=(0, 1))(y0s[0], jnp.array(3.0))
    np.testing.assert_allclose(slopes[0], 6.0 * y0s[0] * np.sum(np.exp([-1.0, -2.0])), rtol=1e-7)
    np.testing.assert_allclose(slopes[1], 5.0 * np.sum(np.exp([-1.0, -2.0])), rtol=1e-7)
