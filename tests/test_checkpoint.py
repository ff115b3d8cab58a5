"""Runs that leave files: killed at any moment they go on to the same bits; what cannot be trusted is refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok
from odekit.checkpoint import fingerprint

START = jnp.array([1.0, 1.0])
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def begin(t1=6.0, y0=START, problem=cases.lotka_volterra, **options):
    return ok.init(problem, y0, 0.0, t1, **(TIGHT | options))


def run(directory, state=None, problem=cases.lotka_volterra, **options):
    state = begin() if state is None else state
    return list(ok.checkpointed(problem, state, directory, **({"every": 20} | options)))


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def same_bits(a, b):
    if isinstance(a, ok.Solution):  # a solve also counts the evaluations of its first step length
        a, b = [(sol.t1, sol.y1, sol.result, sol.stats["accepted"], sol.stats["rejected"]) for sol in (a, b)]
    ones, twos = jax.tree.leaves(a), jax.tree.leaves(b)
    return [np.asarray(x).tobytes() for x in ones] == [np.asarray(x).tobytes() for x in twos]


@pytest.fixture(scope="module")
def whole():
    return ok.solve(cases.lotka_volterra, START, 0.0, 6.0, **TIGHT)


def test_a_run_in_files_is_one_solve_and_leaves_the_last_two(tmp_path, whole):
    states = run(tmp_path / "new" / "run")
    assert [int(state.accepted) for state in states[:4]] == [0, 20, 40, 60]
    assert same_bits(ok.finish(states[-1]), whole)
    last = len(states) - 1
    assert names(tmp_path / "new" / "run") == [f"{last - 1:08d}.safetensors", f"{last:08d}.safetensors"]


def test_an_abandoned_run_goes_on_from_its_newest_file_to_the_same_bits(tmp_path, whole):
    pieces = ok.checkpointed(cases.lotka_volterra, begin(), tmp_path, every=20)
    kept = [next(pieces) for _ in range(4)]
    pieces.close()
    states = run(tmp_path, every=33, keep=1)
    assert same_bits(states[0], kept[-1])
    assert same_bits(ok.finish(states[-1]), whole)
    assert len(names(tmp_path)) == 1


def test_a_finished_run_yields_its_end(tmp_path, whole):
    run(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    (state,) = run(tmp_path)
    assert same_bits(ok.finish(state), whole)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_lanes_share_a_file_and_each_has_its_own_counts(tmp_path):
    rates = jnp.linspace(1.0, 3.0, 5)
    y0 = jnp.linspace(0.5, 1.5, 5)

    def field(t, y, rate):
        return -rate * y + jnp.sin(t)

    def one(y, rate):
        return ok.solve(field, y, 0.0, 4.0, args=rate, **TIGHT)

    fresh = jax.vmap(lambda y, rate: ok.init(field, y, 0.0, 4.0, args=rate, **TIGHT))(y0, rates)
    states = run(tmp_path, fresh, field, args=rates, args_axes=0)
    assert len(states) > 3
    np.testing.assert_array_equal(states[1].accepted, np.full(5, 20))
    assert np.all(np.asarray(states[1].tried) >= 20)
    assert same_bits(ok.finish(states[-1]), jax.vmap(one)(y0, rates))
    (tmp_path / names(tmp_path)[-1]).unlink()
    resumed = run(tmp_path, fresh, field, args=rates, args_axes=0)
    assert same_bits(resumed[-1], states[-1])


def damage(data, kind):
    if kind == "cut":
        return data[: len(data) // 2]
    if kind == "empty":
        return b""
    if kind == "foreign":
        return b"\x80\x04K\x01." * 20
    place = {"bit in the header": 40, "bit in the payload": len(data) - 9}[kind]
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


@pytest.mark.parametrize("kind", ["cut", "empty", "foreign", "bit in the header", "bit in the payload"])
def test_a_damaged_file_is_named_and_the_one_before_it_used(tmp_path, whole, kind):
    states = run(tmp_path)
    newest = tmp_path / names(tmp_path)[-1]
    newest.write_bytes(damage(newest.read_bytes(), kind))
    with pytest.warns(UserWarning, match=rf"{newest.name} is damaged.*; the one before it is used\.") as told:
        again = run(tmp_path)
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert same_bits(again[0], states[-2])
    assert same_bits(ok.finish(again[-1]), whole)
    assert same_bits(run(tmp_path)[0], states[-1])


def test_where_no_file_is_whole_nothing_begins_again_in_silence(tmp_path):
    run(tmp_path)
    for name in names(tmp_path):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match=r"every file in .* is damaged"):
        run(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished")
    run(directory)
    return directory


def harvest(t, y, args):
    return cases.lotka_volterra(t, y, args) - 0.1


@pytest.mark.parametrize(
    ("changed", "problem", "args", "named"),
    [
        ({}, harvest, None, "the vector field differ"),
        ({}, cases.lotka_volterra, (1.5, 1.0, 3.0, 2.0), "the arguments"),
        ({"method": ok.Dopri5()}, cases.lotka_volterra, None, "the method differ"),
        ({"rtol": 1e-8}, cases.lotka_volterra, None, "the controller differ"),
        ({"t1": 7.0}, cases.lotka_volterra, None, "the interval differ"),
        ({"y0": START + 1e-15}, cases.lotka_volterra, None, "the start differ"),
        ({"y0": START.astype(jnp.float32), "rtol": 1e-5, "atol": 1e-5}, cases.lotka_volterra, None, "the vector field"),
    ],
    ids=["field", "args", "method", "controller", "interval", "start", "dtype"],
)
def test_another_run_is_refused_by_what_differs(finished, changed, problem, args, named):
    with pytest.raises(ValueError, match=rf"belongs to another run: .*{named}"):
        run(finished, begin(**changed), problem, args=args)


def test_more_steps_are_no_other_run(tmp_path, whole):
    stopped = run(tmp_path, begin(max_steps=50))
    assert int(stopped[-1].result) == ok.Result.MAX_STEPS
    assert same_bits(ok.finish(run(tmp_path)[-1]), whole)


@pytest.mark.parametrize("options", [{"every": 0}, {"keep": 0}, {"every": 1.5}])
def test_senseless_numbers_are_refused_before_anything_runs(tmp_path, options):
    with pytest.raises(ValueError, match="positive Python int"):
        ok.checkpointed(cases.lotka_volterra, begin(), tmp_path, **options)
    assert names(tmp_path) == []


CHILD = """
import json, sys, jax, jax.numpy as jnp, numpy as np, odekit as ok
from odekit.checkpoint import fingerprint
jax.config.update("jax_enable_x64", True)

if sys.argv[2:]:
    w = jnp.arange(4.0).reshape(2, 2)
    f = lambda t, y, a: jax.nn.silu(w @ y) * a["rate"]
    print(json.dumps(fingerprint(f, ok.init(f, jnp.ones(2), 0.0, 1.0, args={"rate": 2.0}), {"rate": 2.0})))

def lorenz(t, y, args):
    return jnp.stack([10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])

state = ok.init(lorenz, jnp.ones(3), 0.0, 30.0, rtol=1e-9, atol=1e-9, max_steps=100_000)
for state in ok.checkpointed(lorenz, state, sys.argv[1], every=10):
    pass
np.save(sys.argv[1] + "/end.npy", np.concatenate([np.ravel(x) for x in jax.tree.leaves((state.lanes.clock, state.y))]))
"""


def child(directory, *more, **options):
    with (directory / "log").open("ab") as log:
        command = [sys.executable, "-W", "error", "-c", CHILD, str(directory), *more]
        return subprocess.Popen(command, stderr=log, **options)


def wait_for_a_new_file(directory, process, seen):
    until = time.monotonic() + 120
    while not {path.name for path in directory.glob("*.safetensors")} - seen:
        assert process.poll() is None, (directory / "log").read_text()[-2000:]
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    process = child(directory, "fingerprint", stdout=subprocess.PIPE, text=True)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, (directory / "log").read_text()[-2000:]
    return (directory / "end.npy").read_bytes(), json.loads(told)


def test_the_fingerprint_is_that_of_another_process(uninterrupted):
    weights = jnp.arange(4.0).reshape(2, 2)

    def field(t, y, a):
        return jax.nn.silu(weights @ y) * a["rate"]

    args = {"rate": 2.0}
    here = fingerprint(field, ok.init(field, jnp.ones(2), 0.0, 1.0, args=args), args)
    assert here == uninterrupted[1]
    weights = weights.at[0, 0].set(1e-9)
    there = fingerprint(field, ok.init(field, jnp.ones(2), 0.0, 1.0, args=args), args)
    assert [name for name in here if here[name] != there[name]] == ["vector field"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))])
def test_a_killed_run_ends_in_the_same_bits(tmp_path, uninterrupted, seed):
    draw = random.Random(seed)
    for how in [signal.SIGKILL, signal.SIGTERM][: 1 + (seed > 0)]:
        seen = {path.name for path in tmp_path.glob("*.safetensors")}
        process = child(tmp_path)
        wait_for_a_new_file(tmp_path, process, seen)
        time.sleep(draw.uniform(0, 0.2))
        os.kill(process.pid, how)
        assert process.wait(60) == -how
        assert not (tmp_path / "end.npy").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert child(tmp_path).wait(120) == 0
    assert (tmp_path / "end.npy").read_bytes() == uninterrupted[0]
