"""Result codes, and every sentence that a user can see when something is wrong."""

import enum
from itertools import repeat
from typing import Any

import jax
import numpy as np
from jax.core import Tracer


class Result(enum.IntEnum):
    """How a lane ended. `SUCCESS` is 0; the sentence of any other code names the cure.

    Example:
        >>> int(Result.SUCCESS)
        0
    """

    SUCCESS = 0
    MAX_STEPS = 1
    UNDERFLOW = 2
    NONFINITE = 3
    UNFINISHED = 4
    NO_EVENT = 5


_CAUSES = {
    Result.SUCCESS: "reached t1",
    Result.MAX_STEPS: "used up max_steps; raise max_steps, loosen rtol and atol, or try a method for stiff problems",
    Result.UNDERFLOW: (
        "needed steps below what its time can resolve (a discontinuity, a pole, a tolerance below round-off, or an "
        "interval too short beside |t0|); loosen the tolerances, split the interval there, or shift t to start near 0"
    ),
    Result.NONFINITE: "met a non-finite vector field or state; check the field there or end the interval before it",
    Result.UNFINISHED: "was not run to t1; call step again",
    Result.NO_EVENT: "met no event that ends it; give a finite t1, or check where the event's function changes sign",
}


class SolveError(RuntimeError):
    """A solve ended before t1; its message names lanes, times and causes."""


class DamagedError(ValueError):
    """A file is cut, changed or foreign; its message names it."""


def sentence(code: int, t: float, lane: str = "The solve", event: int = -1) -> str:
    """Return what happened to one lane, in words."""
    cause = _CAUSES[Result(int(code))]
    if event >= 0:
        return f"{lane} was ended by event {event} at t={t:.6g}."
    return f"{lane} {cause}." if code == Result.SUCCESS else f"{lane} stopped at t={t:.6g}: it {cause}."


def summary(codes: np.ndarray, ts: np.ndarray) -> str:
    """Return the worst lanes of many in a few sentences: how many failed, which first, where and why."""
    if codes.ndim == 0:
        return sentence(int(codes), float(ts))
    bad = np.argwhere(codes != Result.SUCCESS)
    counts = {
        Result(int(c)).name: int(n) for c, n in zip(*np.unique(codes[codes != 0], return_counts=True), strict=True)
    }
    lines = [f"{len(bad)} of {codes.size} lanes did not reach t1 ({counts})."]
    for index in bad[:3]:
        where = tuple(int(i) for i in index)
        name = f"Lane {where[0] if len(where) == 1 else where}"
        lines.append(sentence(int(codes[where]), float(ts[where]), name))
    return " ".join(lines)


def concrete(x: Any) -> np.ndarray | None:
    """Return `x` as a NumPy array where its values are known now, else None."""
    return None if isinstance(x, Tracer) else np.asarray(x)


def known(*arrays: Any) -> bool:
    """Return whether the values of all arrays are known now, outside of any transformation."""
    return not any(isinstance(x, Tracer) for x in arrays)


def require_one_of(name: str, value: Any, options: Any) -> None:
    """Raise unless argument `name` is one of `options`, in their words."""
    if value not in options:
        *others, last = map(repr, options)
        raise ValueError(f"`{name}` is {value!r}; it must be {', '.join(others)} or {last}.")


def require_finite(name: str, x: Any, cure: str) -> None:
    """Raise ValueError where known values of `x` are not finite."""
    values = concrete(x)
    if values is not None and not np.all(np.isfinite(values)):
        bad = np.asarray(values)[~np.isfinite(values)].ravel()[0]
        raise ValueError(f"`{name}` must be finite: it holds {bad}; {cure}.")


def check_tolerance(name: str, tol: Any, y: Any) -> None:
    """Raise where a tolerance is neither one for all leaves of the state nor one for each, of a fitting shape."""
    structure = jax.tree.structure(y)
    if jax.tree.structure(tol) != structure and not jax.tree_util.all_leaves([tol]):
        raise ValueError(
            f"`{name}` has the structure {jax.tree.structure(tol)}, y0 has {structure}; give a number, or one a leaf."
        )
    one_each = jax.tree.structure(tol) == structure
    for leaf, part in zip(jax.tree.leaves(y), jax.tree.leaves(tol) if one_each else repeat(tol), strict=False):
        given, want = np.shape(part), np.shape(leaf)
        if len(given) > len(want) or any(a not in (1, b) for a, b in zip(given[::-1], want[::-1], strict=False)):
            raise ValueError(f"`{name}` has shape {given}, a leaf of y0 has {want}; give a number, or one an entry.")


def check_field(y: Any, dy: Any, name: str = "vector field") -> None:
    """Raise where a vector field's result does not match the state in structure, shapes and dtypes."""
    want, got = jax.tree.structure(y), jax.tree.structure(dy)
    if want != got:
        raise TypeError(f"the {name} returned the structure {got}, the state y0 has {want}; return one like y.")
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(y), jax.tree.leaves(dy), strict=True):
        leaf = f"leaf {jax.tree_util.keystr(path)}" if path else "result"
        if a.shape != b.shape:
            raise ValueError(f"the {name}'s {leaf} has shape {b.shape}, y0 has {a.shape}; return one like y.")
        if a.dtype != b.dtype:
            raise TypeError(
                f"the {name}'s {leaf} has dtype {b.dtype}, y0 has {a.dtype}; cast one of them (are the args or "
                "constants of the field of another precision?)."
            )
