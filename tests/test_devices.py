"""Ensembles over eight simulated devices: equal results, and no collective of the state."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = r"""
import json, re
import jax, jax.numpy as jnp
from jax import lax
jax.config.update("jax_enable_x64", True)
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import odekit as ok

def field(t, y, p):
    return jnp.stack([p[0] * y[0] - p[1] * y[0] * y[1], p[3] * y[0] * y[1] - p[2] * y[1]])

def end(y, p):
    return ok.solve(field, y, 0.0, 1.0, ok.Bosh3(), p, rtol=1e-4, atol=1e-4, max_steps=64).y1

def forward(ys, p):
    return jax.vmap(end, (0, None))(ys, p)

def loss(ys, p):
    return jnp.sum(forward(ys, p) ** 2)

def compare(name, run, ys, p, want):
    compiled = jax.jit(run).lower(ys, p).compile()
    text, got = compiled.as_text(), jax.device_get(compiled(ys, p))
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    out[name] = {
        "difference": max(jax.tree.leaves(jax.tree.map(lambda a, b: float(abs(a - b).max()), got, want))),
        "moved": re.findall(rf"= (\S+?)(?:\{{\S*)? (?:{kinds})", text),
        "blocks": "f64[2,64]" in text,
    }

p = jnp.array([1.5, 1.0, 3.0, 1.0])
ys = 1 + 0.1 * jnp.arange(9216.0).reshape(4608, 2) / 9216  # 576 lanes a device: more than eight blocks
out = {}
gradient = jax.grad(loss, (0, 1))
ends, slopes = jax.device_get((jax.jit(forward)(ys, p), jax.jit(gradient)(ys, p)))
compare("one of eight forward", forward, ys, p, ends)

auto = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
split = jax.device_put(ys, NamedSharding(auto, P("x")))
compare("auto forward", forward, split, p, ends)
compare("auto gradient", gradient, split, p, slopes)
own = jax.shard_map(forward, mesh=auto, in_specs=(P("x"), P()), out_specs=P("x"))
compare("shard_map forward", own, split, p, ends)
compare("shard_map gradient", jax.grad(lambda ys, p: jnp.sum(own(ys, p) ** 2), (0, 1)), split, p, slopes)

explicit = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
split = jax.device_put(ys, NamedSharding(explicit, P("x")))
compare("explicit without context forward", forward, split, p, ends)
with jax.set_mesh(explicit):
    compare("explicit forward", forward, split, p, ends)
    compare("explicit gradient", gradient, split, p, slopes)

def ends_of(field):
    return lambda ys, ts: jax.vmap(lambda y, t: ok.solve(field, y, 0.0, t, ok.Bosh3(), rtol=1e-4).y1)(ys, ts)

def busy(t, y, args):
    bent = lax.cond(t > 0.5, lambda: -y, lambda: -2 * y) + jnp.where(y > 1, 0.0, t * t)
    return bent + jax.jit(lambda y: y / (1 + y * y))(y) * jnp.arange(2.0)

few, ts, weights = ys[:16], jnp.linspace(0.5, 1.0, 16), jnp.eye(2) / 4
grid = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
with jax.set_mesh(grid):
    want = jax.device_get(jax.jit(ends_of(busy))(few, ts))
    compare("branches forward", ends_of(busy), *jax.device_put((few, ts), P(("x", "y"))), want)
    linear = lambda weights: lambda t, y, args: jax.jit(lambda y: weights @ y)(y) - y
    want = jax.device_get(jax.jit(ends_of(linear(weights)))(few, ts))
    on_mesh = linear(jax.device_put(weights, P()))
    compare("closed over forward", ends_of(on_mesh), *jax.device_put((few, ts), P("x")), want)
    wide = jax.device_put(few.reshape(4, 8), P("x", "y"))
    decay = lambda t, y, args: -y * args
    cool = lambda ys, p: jax.vmap(lambda y: ok.solve(decay, y, 0.0, 1.0, ok.Bosh3(), p, rtol=1e-4).y1)(ys)
    compare("split states forward", cool, wide, p[0], jax.device_get(cool(few.reshape(4, 8), p[0])))

exported = jax.export.deserialize(jax.export.export(jax.jit(forward))(ys, p).serialize())
compare("export forward", exported.call, ys, p, ends)
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def outcome():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


APART = ["explicit", "explicit without context", "shard_map", "branches", "one of eight", "export"]
TOGETHER = ["auto", "closed over"]


@pytest.mark.parametrize("how", APART)
def test_each_device_runs_its_own_lanes(outcome, how):
    told = outcome[f"{how} forward"]
    assert told["difference"] == 0
    assert told["moved"] == []


@pytest.mark.parametrize("how", TOGETHER)
def test_devices_that_cannot_be_told_apart_share_only_the_condition(outcome, how):
    told = outcome[f"{how} forward"]
    assert told["difference"] == 0
    assert set(told["moved"]) == {"pred[]"}


def test_split_states_share_only_sums(outcome):
    told = outcome["split states forward"]
    assert told["difference"] < 1e-14
    assert set(told["moved"]) <= {"pred[]", "f64[1]"}


@pytest.mark.parametrize("how", ["explicit", "shard_map", "one of eight"])
def test_lanes_of_a_device_run_in_blocks(outcome, how):
    assert outcome[f"{how} forward"]["blocks"]


def test_lanes_split_in_a_way_no_type_tells_are_not_gathered_into_blocks(outcome):
    assert not outcome["auto forward"]["blocks"]


@pytest.mark.parametrize("how", ["auto", "explicit", "shard_map"])
def test_gradients_over_devices_agree(outcome, how):
    told = outcome[f"{how} gradient"]
    assert told["difference"] < 1e-10
    # Shared parameters are summed over devices once, at the end.
    assert set(told["moved"]) <= {"f64[4]", "pred[]", "s32[]"} if how == "auto" else {"f64[4]"}
    assert told["moved"].count("f64[4]") == 1
