"""Saved files: equal to the bit, refused when damaged or when they belong to something else."""

import os
import pickle
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odekit.io import load, save
from odekit.loops.table import SamplerTable
from odekit.schedules import FlowMatching, VPLinear
from odekit.solvers.tableaus import Bosh3, Tsit5

DTYPES = ["bool", "int8", "int32", "uint64", "float16", "bfloat16", "float32", "float64", "complex64", "complex128"]


class Pair(NamedTuple):
    left: object
    right: object


def table(n=3, view="data", dtype=jnp.float64):
    values = iter(jax.random.split(jax.random.key(n), 4))
    draw = lambda *shape: jax.random.normal(next(values), shape, dtype)  # noqa: E731
    return SamplerTable(draw(n), draw(n, 2, 2), draw(n, 2, n), None, draw(n + 1), view, "mine", "nobody")


def bits(leaf):
    return np.asarray(leaf).tobytes() if hasattr(leaf, "dtype") else leaf


def equal_to_the_bit(a, b):
    (ones, structure), (twos, other) = jax.tree.flatten(a), jax.tree.flatten(b)
    same = [type(x) is type(y) and bits(x) == bits(y) for x, y in zip(ones, twos, strict=True)]
    return structure == other and all(same)


@pytest.mark.parametrize(
    "tree",
    [
        table(),
        table(dtype=jnp.float32),
        Tsit5(),
        {"table": table(), "schedule": VPLinear(beta_max=19.0), "note": "fitted on digits", "nothing": None},
        Pair((jnp.arange(3), 0.1), [np.float32(2.5), True, 10**30, float("inf")]),
        {},
        jnp.zeros((2, 0, 3)),
        jnp.float64(-0.0),
        eqx.nn.MLP(2, 3, 4, 2, jax.nn.silu, key=jax.random.key(0)),
    ],
    ids=["table", "float32", "method", "dict", "nested", "empty", "no elements", "scalar", "network"],
)
def test_comes_back_to_the_bit(tmp_path, tree):
    save(tmp_path / "a.safetensors", tree)
    assert equal_to_the_bit(load(tmp_path / "a.safetensors", tree), tree)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_nonfinite_value_survives(tmp_path, dtype):
    bits = np.random.default_rng(0).integers(0, 256, 16 * 12, np.uint8)
    values = jnp.asarray(bits % 2 == 0 if dtype == "bool" else bits.view(jnp.dtype(dtype))).reshape(3, -1)
    save(tmp_path / "a.safetensors", values)
    again = load(tmp_path / "a.safetensors", values)
    assert again.dtype == values.dtype
    assert np.asarray(again).tobytes() == np.asarray(values).tobytes()


def test_numbers_come_from_the_file_and_arrays_need_only_shapes(tmp_path):
    tree = {"rate": 0.1, "x": jnp.arange(4.0)}
    save(tmp_path / "a.safetensors", tree)
    like = {"rate": 0.0, "x": jax.ShapeDtypeStruct((4,), jnp.float64)}
    assert equal_to_the_bit(load(tmp_path / "a.safetensors", like), tree)


@pytest.mark.parametrize(
    ("like", "named"),
    [
        (table(4), r"array t is"),
        (table(dtype=jnp.float32), r"array t is .*float64.*float32"),
        (table(view="velocity"), r"static .*view is data.*velocity"),
        ({"evals": table().evals}, r"class the tree"),
        (eqx.tree_at(lambda t: t.noise, table(), jnp.zeros((3, 2)), is_leaf=lambda x: x is None), r"noise"),
    ],
)
def test_refuses_another_table_by_name(tmp_path, like, named):
    save(tmp_path / "a.safetensors", table())
    with pytest.raises(ValueError, match=named):
        load(tmp_path / "a.safetensors", like)


def test_refuses_another_schedule_method_and_kind_of_number(tmp_path):
    path = tmp_path / "a.safetensors"
    save(path, {"table": table(), "schedule": VPLinear()})
    with pytest.raises(ValueError, match="class schedule is VPLinear, but in `like` it is FlowMatching"):
        load(path, {"table": table(), "schedule": FlowMatching()})
    save(path, Tsit5())
    with pytest.raises(ValueError, match="static .order is 5, but in `like` it is 3"):
        load(path, Bosh3())
    save(path, {"a": 1})
    with pytest.raises(ValueError, match="number a is a int, but in `like` it is a float"):
        load(path, {"a": 1.0})
    with pytest.raises(ValueError, match="keys"):
        load(path, {"b": 1})


def test_any_flipped_bit_is_noticed(tmp_path):
    path, tree = tmp_path / "a.safetensors", {"x": jnp.arange(3, dtype=jnp.int16), "rate": 0.1}
    save(path, tree)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="a.safetensors"):
                load(path, tree)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_cut_file_is_refused(tmp_path, length):
    path = tmp_path / "a.safetensors"
    save(path, table())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="damaged"):
        load(path, table())


def test_foreign_files_are_refused_and_nothing_in_them_runs(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="not written by odekit"):
        load(path, {"x": jnp.zeros(3)})

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        load(path, {"x": jnp.zeros(3)})
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_saved_is_named_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(TypeError, match="bad is a set"):
        save(path, {"bad": {1, 2}})
    with pytest.raises(TypeError, match=r"key.*key_data"):
        save(path, {"key": jax.random.key(0)})
    with pytest.raises(ValueError, match=r"\.safetensors"):
        save(tmp_path / "a.pkl", {"a": 1})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_float64_is_not_silently_narrowed(tmp_path):
    save(tmp_path / "a.safetensors", jnp.arange(3.0))
    like = jax.ShapeDtypeStruct((3,), np.float64)
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        load(tmp_path / "a.safetensors", like)
