"""Saved tables, solvers and networks: arrays with flat names in safetensors, everything else as JSON, no pickle."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odekit.errors import DamagedError
from odekit.typing import PyTree

FORMAT = 1
_ROOT = "value"  # name of an array that is the whole tree
_KNOWN = (bool, int, float, str, type(None))
# safetensors has no bfloat16 or complex128 for NumPy: such arrays travel as the integers and floats they consist of.
_CARRIER = {"bfloat16": np.uint16, "complex128": np.float64}


def save(path: str | os.PathLike, tree: PyTree) -> None:
    """Write a pytree to one file, bit for bit and with a checksum.

    Arrays are stored under flat names such as `table.states`; Python numbers, strings, class names and static fields
    are stored as text, so that `load` can refuse a file that belongs to something else. The file appears whole or not
    at all. Nothing is pickled: opening a file runs no code from it.

    Args:
        path: a file name that ends in `.safetensors`.
        tree: modules, dictionaries, tuples and lists of arrays, numbers and strings; functions are recorded by name.

    Raises:
        ValueError: the suffix is another one.
        TypeError: the tree holds something that cannot be written safely.
        ImportError: the safetensors package is missing.

    Example:
        >>> ok.save("table.safetensors", table)  # doctest: +SKIP
        >>> table = ok.load("table.safetensors", like=table)  # doctest: +SKIP

    Source: the safetensors format, https://huggingface.co/docs/safetensors.
    """
    library, path = safetensors_library(), _checked(path)
    arrays, facts = _describe(tree)
    host = {name: np.asarray(leaf) for name, leaf in arrays.items()}
    facts |= {f"{name}:array": [str(a.dtype), list(a.shape)] for name, a in host.items()}
    stored = {name or _ROOT: np.ascontiguousarray(_to_carrier(a)) for name, a in host.items()}
    text = json.dumps({"format": FORMAT, "facts": facts, "made with": _versions()}, sort_keys=True)
    metadata = {"odekit": text, "sha256": _checksum(text, stored)}
    scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        library.save_file(stored, scratch, metadata=metadata)
        _flush(scratch)
        os.replace(scratch, path)
        _flush(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def load(path: str | os.PathLike, like: PyTree) -> PyTree:
    """Read a pytree written by `save` into the structure of `like`.

    Args:
        path: a file name that ends in `.safetensors`.
        like: a tree with the expected structure; its arrays may be `jax.ShapeDtypeStruct`. Arrays and Python numbers
            come from the file, functions and static fields from `like` after comparison.

    Returns:
        The tree, equal to the saved one to the bit.

    Raises:
        ValueError: the file is damaged, not odekit's, or differs from `like`; the message names the first difference.
        FileNotFoundError: there is no such file.
        ImportError: the safetensors package is missing.

    Example:
        >>> table = ok.load("table.safetensors", like=table)  # doctest: +SKIP
    """
    path = _checked(path)
    return build(path, like, *read(path))


def build(path: Path, like: PyTree, stored: dict[str, np.ndarray], facts: dict[str, Any]) -> PyTree:
    """Return the tree of a file that `read` has opened, in the structure of `like`; raises as `load` does."""
    arrays, expected = _describe(like)
    expected |= {f"{name}:array": [str(leaf.dtype), list(leaf.shape)] for name, leaf in arrays.items()}
    for name in dict.fromkeys([*expected, *facts]):  # in the order of `like`, containers before what they hold
        _compare(path, name, expected, facts)
    return jax.tree_util.tree_map_with_path(lambda at, leaf: _restored(leaf, _name(at), stored, facts), like)


def safetensors_library() -> Any:
    """Return the module that reads and writes NumPy arrays, or say how to get it."""
    try:
        import safetensors.numpy as library
    except ImportError as error:
        raise ImportError("saving and loading need safetensors; install odekit[demo].") from error
    return library


def _versions() -> dict[str, str]:
    """Return the installed versions that may matter to a reader; nothing compares them."""
    found = {"jax": jax.__version__}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["odekit"] = importlib.metadata.version("odekit")
    return found


def _flush(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk before going on."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checked(path: str | os.PathLike) -> Path:
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"`path` is {os.fspath(path)!r}; give a name that ends in .safetensors.")
    return Path(path)


def _to_carrier(array: np.ndarray) -> np.ndarray:
    carrier = _CARRIER.get(str(array.dtype))
    return array if carrier is None else array.reshape(-1).view(carrier)


def _from_carrier(array: np.ndarray, fact: list) -> np.ndarray:
    dtype, shape = fact
    return array.view(jnp.dtype(dtype)).reshape(shape)


def _checksum(text: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and facts of a file whose checksum is right; `DamagedError` if it is not."""
    library = safetensors_library()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        stored = library.load_file(path)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"{path} is damaged or no safetensors file ({error}); use another copy.") from error
    if set(metadata) != {"odekit", "sha256"}:
        raise DamagedError(f"{path} is damaged or was not written by odekit; use a file from ok.save.")
    if _checksum(metadata["odekit"], stored) != metadata["sha256"]:
        raise DamagedError(f"{path} is damaged: its checksum is wrong; use another copy.")
    record = json.loads(metadata["odekit"])
    if record["format"] != FORMAT:
        raise ValueError(f"{path} has format {record['format']}, but this odekit reads {FORMAT}; update odekit.")
    return stored, record["facts"]


def _compare(path: Path, name: str, expected: dict[str, Any], facts: dict[str, Any]) -> None:
    place, _, kind = name.rpartition(":")
    place = place or "the tree"
    if name not in facts:
        raise ValueError(f"{path} has no {kind} {place}, which `like` has; give the `like` that was saved.")
    if name not in expected:
        raise ValueError(f"{path} has the {kind} {place}, which `like` has not; give the `like` that was saved.")
    # The value of a Python number comes from the file; everything else has to be what `like` says.
    if kind != "number" and facts[name] != expected[name]:
        raise ValueError(f"{path}: {kind} {place} is {facts[name]}, but in `like` it is {expected[name]}.")


def _children(tree: Any) -> list[tuple[str, Any]] | None:
    """Return the named parts of a container, None for a leaf."""
    if isinstance(tree, eqx.Module):
        fields = dataclasses.fields(tree)
        return [(f.name, getattr(tree, f.name)) for f in fields if not f.metadata.get("static", False)]
    if isinstance(tree, dict):
        return [(str(key), tree[key]) for key in sorted(tree)]
    if isinstance(tree, tuple | list):
        return list(zip(getattr(tree, "_fields", map(str, range(len(tree)))), tree, strict=True))
    return None


def _describe(tree: Any, name: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return arrays by flat name, and facts about everything else by `name:kind`."""
    kind = type(tree)
    parts = _children(tree)
    if parts is not None:
        arrays, facts = {}, {f"{name}:class": kind.__qualname__}
        facts |= {f"{name}.{field}:static": value for field, value in _statics(tree)}
        facts |= {f"{name}:keys": [key for key, _ in parts]}
        for key, part in parts:
            below, about = _describe(part, f"{name}.{key}" if name else key)
            arrays, facts = arrays | below, facts | about
        return arrays, facts
    if isinstance(tree, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        if not isinstance(tree.dtype, np.dtype):
            raise TypeError(f"{name or 'the tree'} is a {tree.dtype} array; save jax.random.key_data of a key.")
        return {name: tree}, {}
    if kind in _KNOWN:
        exact = isinstance(tree, bool | float | int) and tree is not None
        return {}, {f"{name}:number": [kind.__name__, _exact(tree)]} if exact else {f"{name}:value": tree}
    if callable(tree):
        return {}, {f"{name}:function": _named(tree)}
    raise TypeError(f"{name or 'the tree'} is a {kind.__name__}, which cannot be saved; keep arrays and numbers only.")


def _exact(value: bool | int | float) -> str:
    return value.hex() if isinstance(value, float) else repr(value)


def _named(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)


def _statics(tree: Any) -> list[tuple[str, Any]]:
    """Return static fields in a form that JSON keeps; objects that are not plain are known by their class."""
    if not isinstance(tree, eqx.Module):
        return []
    fields = [f for f in dataclasses.fields(tree) if f.metadata.get("static", False)]
    return [(f.name, _plain(getattr(tree, f.name))) for f in fields]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value.hex()
    return value if isinstance(value, _KNOWN) else _named(value)


def _restored(like: Any, name: str, stored: dict[str, np.ndarray], facts: dict[str, Any]) -> Any:
    """Return the leaf called `name`, from the file unless it is no array or number."""
    if f"{name}:number" in facts:
        kind, text = facts[f"{name}:number"]
        if kind != type(like).__name__:
            raise ValueError(f"number {name} is a {kind}, but in `like` it is a {type(like).__name__}.")
        return float.fromhex(text) if kind == "float" else text == "True" if kind == "bool" else int(text)
    if f"{name}:array" not in facts:
        return like
    array = _from_carrier(stored[name or _ROOT], facts[f"{name}:array"])
    if isinstance(like, np.ndarray | np.generic):
        return array if isinstance(like, np.ndarray) else array[()]
    restored = jnp.asarray(array)
    if restored.dtype != array.dtype:
        raise ValueError(f"array {name} is {array.dtype}, which needs jax_enable_x64; switch it on.")
    return restored


def _name(path: tuple) -> str:
    """Return the flat name of a leaf: attribute names, keys and positions joined by dots."""
    parts = [next(getattr(key, kind) for kind in ("name", "key", "idx") if hasattr(key, kind)) for key in path]
    return ".".join(map(str, parts))
