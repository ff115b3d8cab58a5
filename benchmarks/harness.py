"""What every benchmark does: peers interleaved in one process, best times, a table to read and a JSON file to keep."""

import argparse
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("odekit", "jax", "jaxlib", "diffrax", "equinox", "numpy", "scipy")

TURN = 2e-3


def interleave(fns: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the best seconds of each function; they take turns, so that a busy moment hits all of them alike.

    Each is called once before (compilation, caches); results are waited for. A turn is as many calls as fill `TURN`
    seconds, at least one: a fast function isn't measured on the caches that a slow one leaves.
    """
    for fn in fns.values():
        jax.block_until_ready(fn())
    best = dict.fromkeys(fns, float("inf"))
    for _ in range(repeats):
        for name, fn in fns.items():
            turn = time.perf_counter() + TURN
            while (start := time.perf_counter()) < turn:
                jax.block_until_ready(fn())
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def compile_time(fn: Callable, *args: Any, repeats: int = 1) -> float:
    """Return the best seconds to trace, lower and compile `fn(*args)` with every cache empty."""
    jax.config.update("jax_enable_compilation_cache", False)
    best = float("inf")
    for _ in range(repeats):
        jax.clear_caches()
        start = time.perf_counter()
        jax.jit(lambda *xs: fn(*xs)).lower(*args).compile()
        best = min(best, time.perf_counter() - start)
    return best


def report(name: str, rows: Sequence[Mapping[str, Any]], out: str | None = None, **facts: Any) -> None:
    """Print rows as a table under their own column names and write them to `out` with machine and versions."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]
    print(f"\n{name}" + "".join(f", {key} {value}" for key, value in facts.items()))
    for line in [columns, *cells]:
        print(
            "  ".join(
                text.ljust(width) if i == 0 else text.rjust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            )
        )
    if out:
        document = {"name": name, "rows": list(rows), "facts": facts, "versions": versions(), "machine": machine()}
        Path(out).write_text(json.dumps(document, indent=1) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of what is measured; absent packages are left out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return what the times depend on."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "processor": platform.machine(),
        "backend": devices[0].platform,
        "devices": len(devices),
        "x64": jax.config.read("jax_enable_x64"),
    }


def arguments(description: str | None) -> argparse.Namespace:
    """Return the two options that every benchmark has: `quick` and `out`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats: checks that it runs")
    parser.add_argument("--out", help="write the rows as JSON to this file")
    return parser.parse_args()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
