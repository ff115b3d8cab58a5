"""Command line: `python -m odekit demo | info | bench`."""

import argparse
import importlib.metadata
import platform
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

import odekit

_HELPERS = ("__init__", "compiled", "gri", "harness", "settings", "which_figure")
"""What benchmarks import; none is one."""


def _demo(given: argparse.Namespace) -> int:
    from odekit import demo

    demo.run(given.out, given.quick)
    return 0


def _info(given: argparse.Namespace) -> int:
    print(f"{'odekit':10s} {odekit.__version__}")
    for name in ("jax", "jaxlib", "equinox", "diffrax", "optax", "numpy"):
        print(f"{name:10s} {importlib.metadata.version(name)}")
    print(f"{'python':10s} {platform.python_version()} on {platform.platform()}")
    print(f"{'devices':10s} {', '.join(str(device) for device in jax.devices())} ({jax.default_backend()})")
    double = jax.config.read("jax_enable_x64")
    print(f"{'precision':10s} {'float64' if double else 'float32; set JAX_ENABLE_X64=1 for float64'}")
    return 0


def _bench(given: argparse.Namespace) -> int:
    files = {path.stem: path for path in sorted(Path("benchmarks").glob("*.py")) if path.stem not in _HELPERS}
    if not files:
        print("`bench` found no benchmarks folder here; run it from a checkout of odekit.", file=sys.stderr)
        return 2
    if given.name is not None and given.name not in files:
        print(f"`NAME` is {given.name!r}; there are {', '.join(files)}.", file=sys.stderr)
        return 2
    for name in [given.name] if given.name else files:
        print(f"\n{name}", flush=True)
        sys.argv = [str(files[name]), *given.rest]
        sys.path.insert(0, "benchmarks")
        runpy.run_path(str(files[name]), run_name="__main__")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run it.

    Args:
        arguments: what follows `python -m odekit`; `sys.argv[1:]` when None.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser("python -m odekit", description="Solve, sample and learn.")
    commands = parser.add_subparsers(required=True, metavar="demo | info | bench")
    demo = commands.add_parser("demo", help="learn a few-step sampler for digits; two minutes on a laptop's CPU")
    demo.add_argument("--out", default="odekit-demo", metavar="DIR", help="folder to write to (default: %(default)s)")
    demo.add_argument("--quick", action="store_true", help="do little of everything, in seconds")
    demo.set_defaults(run=_demo)
    info = commands.add_parser("info", help="versions, devices, precision")
    info.set_defaults(run=_info)
    bench = commands.add_parser("bench", help="run benchmarks/NAME.py, or all, from a checkout")
    bench.add_argument("name", nargs="?", metavar="NAME")
    bench.add_argument("rest", nargs=argparse.REMAINDER, help="handed to the benchmark")
    bench.set_defaults(run=_bench)
    given = parser.parse_args(arguments)
    return given.run(given)


if __name__ == "__main__":
    sys.exit(main())
