"""Bad input and failing solves, each with a stated outcome. Groups run in processes of their own: a hang is a failure.

A row is a function in this file named in `GROUPS`; it raises where the outcome is not what it should be. The process of
a group prints a row's name before it and its verdict after it, so that a hang is pinned on one row.
"""

import functools
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok
from odekit import Result

LIMIT = 240


def decay(t, y, args):
    return jax.tree.map(jnp.negative, y)


def poisoned(value, when=0.5):
    return lambda t, y, args: jnp.where(t < when, -y, jnp.full_like(y, value))


def run(f, y0=1.0, t0=0.0, t1=1.0, *rest, **options):
    return ok.solve(f, y0, t0, t1, *rest, throw=False, **options)


def expect(sol, code):
    assert sol.result == code, (Result(int(sol.result)).name, float(sol.t1), sol.stats)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(sol.y1)), sol.y1


def refused(kind, match, *arguments, **options):
    with pytest.raises(kind, match=match) as caught:
        ok.solve(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text, text
    return text


# --- non-finite fields and starts


def nan_from_half():
    sol = run(poisoned(jnp.nan))
    expect(sol, Result.NONFINITE)
    assert abs(sol.t1 - 0.5) < 1e-3
    assert sol.stats["accepted"] + sol.stats["rejected"] < 200
    np.testing.assert_allclose(sol.y1, np.exp(-sol.t1), rtol=1e-4)


def infinity_from_half():
    sol = run(poisoned(jnp.inf))
    expect(sol, Result.NONFINITE)
    assert abs(sol.t1 - 0.5) < 1e-3
    assert sol.stats["accepted"] + sol.stats["rejected"] < 200


def nan_with_many_steps_allowed():
    sol = run(poisoned(jnp.nan), max_steps=100_000_000, saveat=None)
    expect(sol, Result.NONFINITE)


def nan_on_a_fixed_grid():
    sol = run(poisoned(jnp.nan), n_steps=10)
    expect(sol, Result.NONFINITE)
    assert 0.4 <= sol.t1 < 0.5
    assert sol.stats["accepted"] == round(float(sol.t1) * 10)


def nan_start():
    for grid in ({}, {"n_steps": 4}):
        try:
            sol = run(decay, jnp.nan, **grid)
        except ValueError as error:
            assert "y0" in str(error)  # noqa: PT017
        else:
            assert sol.result == Result.NONFINITE
            assert sol.t1 == 0
            assert sol.stats["accepted"] == 0
            assert sol.stats["rejected"] <= 1
        code = jax.jit(lambda y0, grid=grid: run(decay, y0, **grid).result)(jnp.array(jnp.nan))
        assert code == Result.NONFINITE


def nan_field_at_the_start():
    sol = run(lambda t, y, args: y * jnp.nan, 1.0)
    expect(sol, Result.NONFINITE)
    assert (sol.t1, sol.y1) == (0, 1)
    assert sol.stats["rejected"] < 60


def pole():
    sol = run(lambda t, y, args: y**2, 1.0, 0.0, 2.0)
    assert sol.result in (Result.UNDERFLOW, Result.NONFINITE)
    assert abs(sol.t1 - 1) < 1e-4
    assert jnp.isfinite(sol.y1)


def pole_with_many_steps_allowed():
    sol = run(lambda t, y, args: y**2, 1.0, 0.0, 2.0, max_steps=100_000_000)
    assert sol.result in (Result.UNDERFLOW, Result.NONFINITE)


def pole_on_a_fixed_grid():
    sol = run(lambda t, y, args: y**2, 1.0, 0.0, 20.0, n_steps=40)
    expect(sol, Result.NONFINITE)
    assert sol.t1 < 20


def sliding():
    """At y = 0 steps up to the tolerance pass, so that it creeps on; one of no tolerance to speak of can not."""
    for atol in (1e-6, 1e-12):
        sol = run(lambda t, y, args: -jnp.sign(y), 0.3, rtol=0.0, atol=atol)
        expect(sol, Result.MAX_STEPS)
        assert abs(sol.y1) < 10 * atol
        assert sol.t1 > 0.299
    with pytest.raises(ok.SolveError, match=r"t=0\.3: .*split the interval there"):
        ok.solve(lambda t, y, args: -jnp.sign(y), 0.3, 0.0, 1.0, rtol=0.0, atol=1e-18)


def jump():
    sol = run(lambda t, y, args: jnp.where(t < 1 / 3, 1.0, -1.0) + 0 * y, 0.0, rtol=1e-6, atol=1e-6)
    expect(sol, Result.SUCCESS)
    assert abs(sol.y1 + 1 / 3) < 1e-4
    assert sol.stats["accepted"] + sol.stats["rejected"] <= 65


def dt_min_flagged():
    pid = ok.PID(1e-10, 1e-10, dt_min=0.1)
    sol = run(lambda t, y, args: 50 * jnp.cos(50 * t) + 0 * y, 0.0, controller=pid)
    expect(sol, Result.UNDERFLOW)


# --- counts, tolerances, times


def max_steps_reached():
    sol = run(lambda t, y, args: -1000 * y, 1.0, 0.0, 10.0, max_steps=50)
    expect(sol, Result.MAX_STEPS)
    assert 0 < sol.t1 < 10
    assert sol.stats["accepted"] + sol.stats["rejected"] == 50
    with pytest.raises(ok.SolveError, match="raise max_steps") as caught:
        ok.solve(lambda t, y, args: -1000 * y, 1.0, 0.0, 10.0, max_steps=50)
    assert len(str(caught.value)) < 250


def max_steps_zero():
    for bad in (0, -3, 2.5):
        refused(ValueError, r"`max_steps` was .*positive", decay, 1.0, 0.0, 1.0, max_steps=bad)


def tolerances_zero():
    refused(ValueError, "`rtol` and `atol` were both 0", decay, 1.0, 0.0, 1.0, rtol=0.0, atol=0.0)


def tolerance_zero_one_of_them():
    expect(run(decay, rtol=1e-6, atol=0.0), Result.SUCCESS)
    expect(run(decay, rtol=0.0, atol=1e-6), Result.SUCCESS)


def tolerance_negative():
    refused(ValueError, "`rtol` was -0.001", decay, 1.0, 0.0, 1.0, rtol=-1e-3)
    refused(ValueError, "`atol` was -0.001", decay, 1.0, 0.0, 1.0, atol=-1e-3)
    refused(ValueError, "`atol` was -1", decay, jnp.ones(2), 0.0, 1.0, atol=jnp.array([1e-6, -1.0]))


def tolerance_not_finite():
    for bad in (jnp.nan, jnp.inf):
        refused(ValueError, "`rtol` must be finite", decay, 1.0, 0.0, 1.0, rtol=bad)
        refused(ValueError, "`atol` must be finite", decay, 1.0, 0.0, 1.0, atol=bad)


def tolerance_below_rounding():
    for dtype in (jnp.float32, jnp.float64):
        y0 = jnp.ones((), dtype)
        with pytest.warns(UserWarning, match="8 eps"):
            sol = run(decay, y0, rtol=1e-20, atol=0.0)
        expect(sol, Result.SUCCESS)
        np.testing.assert_allclose(sol.y1, np.exp(-1), rtol=100 * float(jnp.finfo(dtype).eps))


def tolerance_of_another_structure():
    refused(ValueError, "`atol`", decay, (1.0, 1.0), 0.0, 1.0, atol=(1e-3, 1e-3, 1e-3))
    refused(ValueError, "`rtol`", decay, jnp.ones(2), 0.0, 1.0, rtol=jnp.full(3, 1e-3))


def times_not_finite():
    refused(ValueError, "`t1` must be finite.*nan", decay, 1.0, 0.0, jnp.nan)
    refused(ValueError, "`t1` must be finite.*inf", decay, 1.0, 0.0, jnp.inf)
    refused(ValueError, "`t0` must be finite", decay, 1.0, jnp.nan, 1.0)
    refused(ValueError, "`dt` must be finite", decay, 1.0, 0.0, 1.0, dt=jnp.nan)


def times_not_finite_under_jit():
    for bad in (jnp.nan, jnp.inf):
        code = jax.jit(lambda t1: run(decay, 1.0, 0.0, t1).result)(jnp.array(bad))
        assert code != Result.SUCCESS, bad


def tolerance_not_finite_under_jit():
    code = jax.jit(lambda rtol: run(decay, 1.0, rtol=rtol).result)(jnp.array(jnp.nan))
    assert code != Result.SUCCESS


def times_with_axes():
    refused(ValueError, "`t1` has shape", decay, 1.0, 0.0, jnp.ones(3))


def zero_interval():
    for grid in ({}, {"n_steps": 3}, {"dt": 0.1}):
        sol = run(decay, jnp.ones(2), 1.0, 1.0, saveat=[1.0, 1.0], **grid)
        expect(sol, Result.SUCCESS)
        assert jnp.array_equal(sol.y1, jnp.ones(2))
        assert jnp.array_equal(sol.ys, jnp.ones((2, 2)))


def dt0_refused():
    refused(ValueError, "`dt0` was 0", decay, 1.0, 0.0, 1.0, dt0=0.0)
    refused(ValueError, "`dt0` was -0.1", decay, 1.0, 0.0, 1.0, dt0=-0.1)
    refused(ValueError, "`dt0` must be finite", decay, 1.0, 0.0, 1.0, dt0=jnp.nan)


def dt0_longer_than_the_interval():
    sol = run(decay, 1.0, dt0=100.0)
    expect(sol, Result.SUCCESS)
    assert abs(sol.y1 - np.exp(-1)) < 1e-4


def grids_refused():
    refused(ValueError, "`n_steps` was 0", decay, 1.0, 0.0, 1.0, n_steps=0)
    refused(ValueError, "`n_steps` was 2.5", decay, 1.0, 0.0, 1.0, n_steps=2.5)
    refused(ValueError, "`dt` was 0", decay, 1.0, 0.0, 1.0, dt=0.0)
    refused(ValueError, "both given", decay, 1.0, 0.0, 1.0, dt=0.1, n_steps=10)
    refused(ValueError, "adds up to", decay, 1.0, 0.0, 1.0, dt=jnp.full(3, 0.1))
    refused(ValueError, "no error estimate", decay, 1.0, 0.0, 1.0, ok.RK4())


# --- save times


def save_times_refused():
    refused(
        ValueError, r"`ts` must increase: ts\[2\]=0.4 follows ts\[1\]=0.7", decay, 1.0, 0.0, 1.0, saveat=[0.1, 0.7, 0.4]
    )
    refused(ValueError, "`ts` must decrease", decay, 1.0, 1.0, 0.0, saveat=[0.1, 0.7])
    refused(ValueError, "`ts` must lie between", decay, 1.0, 0.0, 1.0, saveat=[0.1, 1.7])
    refused(ValueError, "`ts` must lie between", decay, 1.0, 0.0, 1.0, saveat=[-0.1, 0.7])
    refused(ValueError, "`ts` must be finite", decay, 1.0, 0.0, 1.0, saveat=[0.1, jnp.nan])
    refused(ValueError, "`ts` has shape", decay, 1.0, 0.0, 1.0, saveat=[])
    refused(ValueError, "`ts` has shape", decay, 1.0, 0.0, 1.0, saveat=[[0.1, 0.2]])


def save_times_repeated():
    sol = run(decay, saveat=[0.0, 0.0, 0.5, 0.5, 1.0, 1.0])
    expect(sol, Result.SUCCESS)
    assert jnp.array_equal(sol.ys[::2], sol.ys[1::2])


def save_times_beyond_a_failure():
    for grid in ({}, {"n_steps": 10}):
        sol = run(poisoned(jnp.nan), saveat=[0.25, 0.75], **grid)
        expect(sol, Result.NONFINITE)
        assert jnp.isfinite(sol.ys[0])
        assert jnp.isnan(sol.ys[1])


def dense_outside_the_range():
    sol = run(decay, saveat=ok.SaveAt(dense=True))
    assert jnp.isnan(sol(1.5))
    assert jnp.isnan(sol(-0.5))
    assert jnp.isfinite(sol(0.0))
    assert jnp.isfinite(sol(1.0))


def dense_not_asked_for():
    sol = run(decay)
    with pytest.raises(ValueError, match="dense=True"):
        sol(0.5)


# --- states


def empty_states():
    for y0 in ({}, (), None, {"a": None}):
        for grid in ({}, {"n_steps": 3}):
            sol = run(decay, y0, **grid)
            expect(sol, Result.SUCCESS)
            assert sol.t1 == 1
            assert jax.tree.structure(sol.y1) == jax.tree.structure(y0)


def array_of_no_entries():
    for grid in ({}, {"n_steps": 3}):
        sol = run(decay, jnp.zeros((0, 3)), **grid)
        expect(sol, Result.SUCCESS)
        assert sol.y1.shape == (0, 3)


def none_leaves():
    sol = run(decay, {"a": jnp.ones(2), "b": None})
    expect(sol, Result.SUCCESS)
    assert sol.y1["b"] is None


def complex_states():
    for dtype in (jnp.complex64, jnp.complex128):
        sol = run(lambda t, y, args: jnp.asarray(1j, y.dtype) * y, jnp.ones(2, dtype))
        expect(sol, Result.SUCCESS)
        assert sol.y1.dtype == dtype
        np.testing.assert_allclose(sol.y1, np.exp(1j), rtol=1e-4)


def whole_numbers():
    for y0 in (1, True, jnp.array([1, 2]), np.array([True, False])):
        sol = run(decay, y0)
        expect(sol, Result.SUCCESS)
        assert sol.y1.dtype == jnp.float64
        np.testing.assert_allclose(sol.y1, np.exp(-1) * np.asarray(y0), rtol=1e-4)


def text_state():
    with pytest.raises(TypeError):
        ok.solve(decay, "y", 0.0, 1.0)


def keys_state():
    refused(TypeError, "`y0` holds a leaf of dtype key", decay, jax.random.key(0), 0.0, 1.0)


def dtypes_kept():
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        for grid in ({}, {"n_steps": 8}):
            sol = run(decay, jnp.ones(2, dtype), rtol=1e-2, atol=1e-2, saveat=[0.5, 1.0], **grid)
            expect(sol, Result.SUCCESS)
            assert sol.y1.dtype == sol.ys.dtype == dtype
            assert sol.ts.dtype == sol.t1.dtype == jnp.float32
            eps = float(jnp.finfo(dtype).eps)
            np.testing.assert_allclose(sol.y1.astype(jnp.float32), np.exp(-1), rtol=1e-2 + 8 * eps)


def dtypes_mixed():
    y0 = {"a": jnp.ones(2, jnp.float16), "b": jnp.ones((), jnp.float32), "c": jnp.ones(1, jnp.complex64)}
    for grid in ({}, {"n_steps": 8}):
        sol = run(decay, y0, rtol=1e-3, atol=1e-3, **grid)
        expect(sol, Result.SUCCESS)
        assert jax.tree.map(jnp.result_type, sol.y1) == jax.tree.map(jnp.result_type, y0)


# --- vector fields


def field_of_another_shape():
    for wrong in (jnp.ones(1), jnp.ones(3), jnp.ones(())):
        for grid in ({}, {"n_steps": 3}):
            text = refused(ValueError, r"shape", lambda t, y, args, w=wrong: w, jnp.ones(2), 0.0, 1.0, **grid)
            assert str(wrong.shape) in text
            assert "(2,)" in text


def field_of_another_shape_names_the_leaf():
    y0 = {"q": jnp.ones(2), "p": jnp.ones(3)}
    refused(ValueError, "leaf .*'p'", lambda t, y, args: {"q": y["q"], "p": y["q"]}, y0, 0.0, 1.0)


def field_of_another_tree():
    for wrong in (lambda y: (y,), lambda y: {"a": y}, lambda y: None):
        refused(TypeError, "structure", lambda t, y, args, w=wrong: w(y), jnp.ones(2), 0.0, 1.0)


def field_of_another_dtype():
    refused(TypeError, "complex128", lambda t, y, args: y.astype(complex), jnp.ones(2), 0.0, 1.0)
    refused(TypeError, "float64", lambda t, y, args: y.astype(jnp.float64), jnp.ones(2, jnp.float32), 0.0, 1.0)
    refused(TypeError, "int", lambda t, y, args: jnp.zeros(2, int), jnp.ones(2), 0.0, 1.0)


def field_that_raises():
    def f(t, y, args):
        raise KeyError("mine")

    for grid in ({}, {"n_steps": 3}):
        with pytest.raises(KeyError, match="mine"):
            ok.solve(f, 1.0, 0.0, 1.0, **grid)


def field_that_is_no_function():
    refused(TypeError, "give a function", 3.0, 1.0, 0.0, 1.0)
    refused(TypeError, r"order is solve\(problem, y0", decay, ok.Tsit5(), 0.0, 1.0, 0.1)


def method_that_is_none():
    refused(TypeError, "`method` was str", decay, 1.0, 0.0, 1.0, "tsit5")
    refused(TypeError, "`method`", decay, 1.0, 0.0, 1.0, ok.Tsit5)


def methods_for_other_problems():
    refused(TypeError, "SDE", decay, 1.0, 0.0, 1.0, ok.EulerMaruyama(), n_steps=3)
    refused(TypeError, "SemiLinear", decay, 1.0, 0.0, 1.0, ok.ETDRK4(), n_steps=3)
    sde = ok.SDE(decay, lambda t, y, args: 0.1 * y)
    refused(TypeError, "knows no noise", sde, 1.0, 0.0, 1.0, ok.Tsit5(), key=jax.random.key(0))
    refused(ValueError, "`key` was None", sde, 1.0, 0.0, 1.0, n_steps=3)


def arguments_that_are_no_data():
    refused(TypeError, "`args` or `problem`", lambda t, y, args: -y, 1.0, 0.0, 1.0, args=[set()])


# --- float32


def far_from_zero_in_float32():
    sol = run(lambda t, y, args: jnp.cos(t) * y, jnp.ones((), jnp.float32), 1e8, 1e8 + 64)
    expect(sol, Result.UNDERFLOW)
    assert "shift t to start near 0" in sol.message()
    assert sol.stats["accepted"] + sol.stats["rejected"] < 200


def far_from_zero_in_float32_on_a_fixed_grid():
    sol = run(lambda t, y, args: jnp.ones_like(y), jnp.zeros((), jnp.float32), 1e8, 1e8 + 64, n_steps=2)
    expect(sol, Result.SUCCESS)
    np.testing.assert_allclose(sol.y1, 64, rtol=1e-6)


def interval_that_float32_cannot_hold():
    sol = run(decay, jnp.ones((), jnp.float32), 1e8, 1e8 + 1)
    assert sol.result == Result.UNDERFLOW or sol.t1 == jnp.float32(1e8 + 1)


# --- many lanes and derivatives


def lane_of_nan():
    rates = jnp.array([-1.0, jnp.nan, -2.0])
    solve = jax.vmap(lambda rate: run(lambda t, y, args: args * y, 1.0, args=rate))
    sol = solve(rates)
    assert sol.result.tolist() == [Result.SUCCESS, Result.NONFINITE, Result.SUCCESS]
    assert sol.stats["rejected"][1] + sol.stats["accepted"][1] < 60
    assert sol.y1[1] == 1
    alone = solve(rates[::2])
    assert jnp.array_equal(sol.y1[::2], alone.y1)
    with pytest.raises(ok.SolveError, match="1 of 3 lanes.*Lane 1 .*non-finite"):
        ok.check(sol)


def throw_inside_jit():
    f = poisoned(jnp.nan)
    assert jax.jit(lambda y0: ok.solve(f, y0, 0.0, 1.0).result)(jnp.array(1.0)) == Result.NONFINITE
    with pytest.raises(Exception, match="did not reach t1"):
        jax.block_until_ready(jax.jit(lambda y0: ok.solve(f, y0, 0.0, 1.0, throw="traced").y1)(jnp.array(1.0)))


def gradient_with_a_bad_lane():
    def total(rates):
        sol = jax.vmap(lambda rate: run(lambda t, y, args: args * y, 1.0, args=rate, max_steps=64))(rates)
        return jnp.sum(jnp.where(sol.result == 0, sol.y1, 0.0))

    slopes = jax.grad(total)(jnp.array([-1.0, jnp.inf, -2.0]))
    np.testing.assert_allclose(slopes[::2], np.exp([-1.0, -2.0]), rtol=1e-4)


def gradient_of_every_kind_at_zero():
    for grid in ({"max_steps": 64}, {"n_steps": 8}):
        slope = jax.grad(lambda y0, grid=grid: jnp.sum(run(decay, y0, **grid).y1))(jnp.zeros(2))
        np.testing.assert_allclose(slope, np.exp(-1.0), rtol=1e-3)


def forward_mode():
    out = jax.jvp(lambda y0: run(decay, y0, adjoint=ok.adjoint.Forward()).y1, (1.0,), (1.0,))
    np.testing.assert_allclose(out, np.exp(-1.0), rtol=1e-4)


def forward_mode_through_the_default_adjoint():
    with pytest.raises(TypeError, match="forward-mode|custom_vjp|jvp"):
        jax.jvp(lambda y0: run(decay, y0).y1, (1.0,), (1.0,))


GROUPS = {
    "nonfinite": (
        nan_from_half, infinity_from_half, nan_with_many_steps_allowed, nan_on_a_fixed_grid, nan_start,
        nan_field_at_the_start,
    ),
    "poles": (pole, pole_with_many_steps_allowed, pole_on_a_fixed_grid, sliding, jump, dt_min_flagged),
    "tolerances": (
        max_steps_reached, max_steps_zero, tolerances_zero, tolerance_zero_one_of_them, tolerance_negative,
        tolerance_not_finite, tolerance_below_rounding, tolerance_of_another_structure,
    ),
    "times": (
        times_not_finite, times_not_finite_under_jit, tolerance_not_finite_under_jit, times_with_axes, zero_interval,
        dt0_refused, dt0_longer_than_the_interval, grids_refused,
    ),
    "saving": (
        save_times_refused, save_times_repeated, save_times_beyond_a_failure, dense_outside_the_range,
        dense_not_asked_for,
    ),
    "states": (
        empty_states, array_of_no_entries, none_leaves, complex_states, whole_numbers, text_state, keys_state,
        dtypes_kept, dtypes_mixed,
    ),
    "fields": (
        field_of_another_shape, field_of_another_shape_names_the_leaf, field_of_another_tree, field_of_another_dtype,
        field_that_raises, field_that_is_no_function, method_that_is_none, methods_for_other_problems,
        arguments_that_are_no_data,
    ),
    "float32": (
        far_from_zero_in_float32, far_from_zero_in_float32_on_a_fixed_grid, interval_that_float32_cannot_hold,
    ),
    "lanes": (
        lane_of_nan, throw_inside_jit, gradient_with_a_bad_lane, gradient_of_every_kind_at_zero, forward_mode,
        forward_mode_through_the_default_adjoint,
    ),
}  # fmt: skip


@functools.cache
def verdicts(group):
    """What every row of a group came to: "ok", what it raised, or that it hung or never ran."""
    here = Path(__file__)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(here.parent.parent), str(here.parent)))}
    command = [sys.executable, "-W", "error", str(here), group]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, env=environment)
        printed, complaint = ended.stdout, ended.stderr
    except subprocess.TimeoutExpired as late:
        printed, complaint = (late.stdout or b"").decode(), f"no answer within {LIMIT} s"
    seen = dict.fromkeys((row.__name__ for row in GROUPS[group]), "never ran: " + complaint[-2000:])
    for line in printed.splitlines():
        name, verdict = line.split("\t")
        seen[name] = complaint[-2000:] if verdict == "..." else verdict
    return seen


@pytest.mark.parametrize(
    ("group", "row"), [(group, row.__name__) for group, rows in GROUPS.items() for row in rows], ids=lambda x: x
)
def test_outcome(group, row):
    assert verdicts(group)[row] == "ok"


def main(group):
    import conftest  # noqa: F401  the settings of every test

    warnings.simplefilter("error")
    for row in GROUPS[group]:
        print(row.__name__, "...", sep="\t", flush=True)
        try:
            row()
            verdict = "ok"
        except BaseException as error:  # noqa: BLE001  a verdict, whatever it was
            verdict = repr(error).replace("\t", " ").replace("\n", " ")[:500]
        print(row.__name__, verdict, sep="\t", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
