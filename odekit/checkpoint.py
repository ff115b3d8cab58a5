"""Long runs in pieces: each piece ends in a file, and a run that was killed goes on to the same bits."""

import hashlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from odekit.errors import DamagedError, Result
from odekit.io import build, read, safetensors_library, save
from odekit.problem import as_problem
from odekit.stepping import State, step
from odekit.tracing import split
from odekit.typing import PyTree


def checkpointed(
    problem: Any,
    state: State,
    directory: str | Path,
    *,
    args: PyTree = None,
    args_axes: PyTree = None,
    every: int = 1000,
    keep: int = 2,
) -> Iterator[State]:
    """Run a solve piece by piece, each piece ending in a file; begin with the newest file that is whole.

    A run that was killed, at any moment, ends in the bits of one that was not. Every state is yielded once its file is
    written, so that the body of the loop can keep snapshots or tell the progress; the first one is where the run
    begins, which after a kill is the last one of the run before. The files of a directory belong to one run.

    Args:
        problem: the one given to `init`.
        state: from `init`, also under `vmap`: all lanes share one file.
        directory: where the files are; made if it is missing.
        args: the ones given to `init`.
        args_axes: which axis of `args` the lanes are, as `in_axes` of `jax.vmap`; None where lanes share them.
        every: accepted steps between two files.
        keep: how many files stay.

    Returns:
        An iterator of states; the last one goes to `finish`.

    Raises:
        ValueError: `every` or `keep` is not positive; the files belong to another run (the message says what differs);
            none of them is whole; the state is spread over several processes.
        TypeError: the vector field doesn't fit the state.
        ImportError: the safetensors package is missing.

    Example:
        >>> import tempfile, odekit as ok
        >>> state = ok.init(lambda t, y, args: -y, 1.0, 0.0, 1.0)
        >>> *_, state = checkpointed(lambda t, y, args: -y, state, tempfile.mkdtemp())
        >>> bool(state.done)
        True

    Source: Young, Commun. ACM 17 (1974), 530-531, for how often to write.
    """
    for name, value in (("every", every), ("keep", keep)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` was {value!r}; give a positive Python int.")
    if not all(x.is_fully_addressable for x in jax.tree.leaves(state)):
        raise ValueError("`state` is spread over several processes; let each one run its own lanes.")
    safetensors_library()
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    identity = fingerprint(problem, state, args, args_axes)
    index, state = _newest(directory, identity, state)

    def pieces(index: int, state: State) -> Iterator[State]:
        yield state
        ahead = _over_lanes(state.t0.ndim, args_axes, every)
        while np.any(np.asarray(state.result) == Result.UNFINISHED):
            state, index = ahead(problem, state, args), index + 1
            save(_path(directory, index), {"run": identity, "state": jax.tree.leaves(state)})
            for old in _files(directory):
                if int(old.stem) <= index - keep:
                    old.unlink(missing_ok=True)
            yield state

    return pieces(index, state)


def fingerprint(problem: Any, state: State, args: PyTree = None, args_axes: PyTree = None) -> dict[str, str]:
    """Return what tells a run from another: a checksum for each part of it.

    Args:
        problem: the one given to `init`.
        state: from `init`.
        args: the ones given to `init`.
        args_axes: as for `checkpointed`.

    Returns:
        Checksums by name: of the arguments, the controller, the events (their names and directions), the interval, the
        method, the start, and the vector field (its program, with shapes and dtypes, and the arrays that it closes
        over).

    Raises:
        TypeError: `problem` is not callable.

    Example:
        >>> import odekit as ok
        >>> sorted(fingerprint(lambda t, y, args: -y, ok.init(lambda t, y, args: -y, 1.0, 0.0, 1.0)))
        ['arguments', 'controller', 'events', 'interval', 'method', 'start', 'vector field']
    """
    field = as_problem(problem)
    for _ in range(state.t0.ndim):
        field = jax.vmap(field, (0, 0, args_axes))
    leaves, static = split(args, numbers=True)
    traced = jax.make_jaxpr(lambda leaves, t, y: field(t, y, static.join(leaves)))(leaves, state.t0, state.y)
    return {
        "arguments": _digest(static, leaves),
        "controller": _digest(state.control, state.control_arrays),
        "events": _digest(state.events, state.event_arrays),
        "interval": _digest("", [state.t0, state.t1]),
        "method": _digest(state.method, state.method_arrays),
        "start": _digest("", [state.lanes.clock[..., :2], *jax.tree.leaves(state.y)]),
        "vector field": _digest(traced.jaxpr, traced.consts),
    }


def _digest(text: Any, arrays: list[Any]) -> str:
    digest = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(text)).encode())  # addresses differ from run to run
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _over_lanes(axes: int, args_axes: PyTree, every: int) -> Any:
    """Return one compiled step `(problem, state, args) -> state` over the axes that `vmap` has added to the state."""

    def ahead(problem: Any, state: State, args: PyTree) -> State:
        def one(state: State, args: PyTree) -> State:
            return step(problem, state, n=every, args=args)

        for _ in range(axes):
            one = jax.vmap(one, (0, args_axes))
        return one(state, args)

    return eqx.filter_jit(ahead)


def _path(directory: Path, index: int) -> Path:
    return directory / f"{index:08d}.safetensors"


def _files(directory: Path) -> list[Path]:
    """Return the files of a run, oldest first."""
    return sorted(path for path in directory.glob("*.safetensors") if path.stem.isdecimal())


def _newest(directory: Path, identity: dict[str, str], state: State) -> tuple[int, State]:
    """Return the number and the state of the newest file that is whole; 0 and `state` where there is none."""
    files = _files(directory)
    for path in reversed(files):
        try:
            stored, facts = read(path)
        except DamagedError as error:
            warnings.warn(f"{str(error).rpartition(';')[0]}; the one before it is used.", stacklevel=3)
            continue
        different = [name for name, value in identity.items() if facts.get(f"run.{name}:value") != value]
        if different:
            raise ValueError(
                f"{path} belongs to another run: the {', the '.join(different)} differ; give another directory."
            )
        leaves, structure = jax.tree.flatten(state)
        found = build(path, {"run": identity, "state": leaves}, stored, facts)["state"]
        placed = [jax.device_put(new, old.sharding) for new, old in zip(found, leaves, strict=True)]
        return int(path.stem), jax.tree.unflatten(structure, placed)
    if files:
        raise ValueError(f"every file in {directory} is damaged ({len(files)}); remove them to begin again.")
    return 0, state
