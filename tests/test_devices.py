"""Ensembles over eight simulated devices: equal results, and no collective of the state."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = r"""
import json, re
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import odekit as ok

def field(t, y, p):
    return jnp.stack([p[0] * y[0] - p[1] * y[0] * y[1], p[3] * y[0] * y[1] - p[2] * y[1]])

def end(y, p):
    return ok.solve(field, y, 0.0, 5.0, args=p, rtol=1e-6, atol=1e-6, max_steps=256).y1

def forward(ys, p):
    return jax.vmap(end, (0, None))(ys, p)

p = jnp.array([1.5, 1.0, 3.0, 1.0])
ys = 1 + 0.1 * jnp.arange(128.0).reshape(64, 2) / 128
out = {}

def compare(name, run, ys, p):
    def loss(ys, p):
        return jnp.sum(run(ys, p) ** 2)

    for kind, fn in (("forward", run), ("gradient", jax.grad(loss, (0, 1)))):
        compiled = jax.jit(fn).lower(ys, p).compile()
        got = jax.device_get(compiled(ys, p))
        same = jax.tree.leaves(jax.tree.map(lambda a, b: float(abs(a - b).max()), got, want[kind]))
        names = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
        moved = re.findall(rf"= (\S+?)(?:\{{\S*)? (?:{names})", compiled.as_text())
        out[f"{name} {kind}"] = [max(same), moved]

def loss(ys, p):
    return jnp.sum(forward(ys, p) ** 2)

want = {"forward": forward, "gradient": jax.grad(loss, (0, 1))}
want = {name: jax.device_get(jax.jit(fn)(ys, p)) for name, fn in want.items()}

auto = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
split = jax.device_put(ys, NamedSharding(auto, P("x")))
compare("auto", forward, split, p)
compare("shard_map", jax.shard_map(forward, mesh=auto, in_specs=(P("x"), P()), out_specs=P("x")), split, p)
with jax.set_mesh(jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))):
    compare("explicit", forward, jax.device_put(ys, P("x")), p)
exported = jax.export.export(jax.jit(forward))(ys, p)
again = jax.export.deserialize(exported.serialize())
out["export forward"] = [float(abs(jax.device_get(again.call(ys, p)) - want["forward"]).max()), []]
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


@pytest.mark.parametrize("how", ["auto", "explicit", "shard_map", "export"])
def test_lanes_over_devices_give_the_same_ends(outcome, how):
    difference, moved = outcome[f"{how} forward"]
    assert difference == 0
    # Under one program for all devices the loop's condition is shared; the state never moves.
    assert set(moved) <= ({"pred[]"} if how in ("auto", "explicit") else set())


@pytest.mark.parametrize("how", ["auto", "explicit", "shard_map"])
def test_gradients_over_devices_agree(outcome, how):
    difference, moved = outcome[f"{how} gradient"]
    assert difference < 1e-11
    # Shared parameters are summed over devices once, at the end.
    assert set(moved) <= {"pred[]", "s32[]", "f64[4]"}
    assert moved.count("f64[4]") == 1
