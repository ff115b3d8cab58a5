"""One ensemble over two processes of four devices each: the bits of a single process."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok

COMMON = r"""
def field(t, y, p):
    return jnp.stack([p[0] * y[0] - p[1] * y[0] * y[1], p[3] * y[0] * y[1] - p[2] * y[1]])

def ends(ys, p):
    return jax.vmap(lambda y: ok.solve(field, y, 0.0, 1.0, ok.Bosh3(), p, rtol=1e-4, max_steps=64).y1)(ys)

def loss(ys, p):
    return jnp.sum(ends(ys, p) ** 2)

ys = 1 + np.arange(64.0).reshape(32, 2) / 640
p = jnp.array([1.5, 1.0, 3.0, 1.0])
"""

PROGRAM = (
    r"""
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import odekit as ok

port, process, out = sys.argv[1:]
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
assert jax.device_count() == 8 and jax.local_device_count() == 4
"""
    + COMMON
    + r"""
def rows(x):
    return np.concatenate([s.data for s in sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)])

found = {}
explicit, auto = (jax.make_mesh((8,), ("x",), axis_types=(kind,)) for kind in (AxisType.Explicit, AxisType.Auto))
with jax.set_mesh(explicit):
    split = jax.make_array_from_callback(ys.shape, NamedSharding(explicit, P("x")), lambda i: ys[i])
    found["explicit"] = rows(jax.jit(ends)(split, p))
    slopes, shared = jax.jit(jax.grad(loss, (0, 1)))(split, p)
    found["slopes"], found["shared"] = rows(slopes), np.asarray(shared.addressable_shards[0].data)
split = jax.make_array_from_callback(ys.shape, NamedSharding(auto, P("x")), lambda i: ys[i])
apart = jax.shard_map(ends, mesh=auto, in_specs=(P("x"), P()), out_specs=P("x"))
found["auto"], found["shard_map"] = rows(jax.jit(ends)(split, p)), rows(jax.jit(apart)(split, p))
np.savez(out, **found)
"""
)


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    directory = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    outs = [directory / f"{i}.npz" for i in range(2)]
    logs = [directory / f"{i}.log" for i in range(2)]
    running = []
    try:
        for i in range(2):
            with logs[i].open("wb") as log:
                command = [sys.executable, "-c", PROGRAM, port, str(i), str(outs[i])]
                running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        codes = [process.wait(120) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert codes == [0, 0], "\n".join(log.read_text()[-2000:] for log in logs)
    return [dict(np.load(out)) for out in outs]


@pytest.fixture(scope="module")
def alone():
    scope = {"jax": jax, "jnp": jnp, "np": np, "ok": ok}
    exec(COMMON, scope)
    ys, p = jnp.asarray(scope["ys"]), scope["p"]
    slopes, shared = jax.jit(jax.grad(scope["loss"], (0, 1)))(ys, p)
    return {"ends": jax.jit(scope["ends"])(ys, p), "slopes": slopes, "shared": shared}


@pytest.mark.parametrize("how", ["explicit", "auto", "shard_map"])
def test_two_processes_give_the_bits_of_one(halves, alone, how):
    np.testing.assert_array_equal(np.concatenate([half[how] for half in halves]), alone["ends"])


def test_gradients_over_two_processes_agree(halves, alone):
    np.testing.assert_array_equal(np.concatenate([half["slopes"] for half in halves]), alone["slopes"])
    for half in halves:
        np.testing.assert_allclose(half["shared"], alone["shared"], rtol=1e-13)
