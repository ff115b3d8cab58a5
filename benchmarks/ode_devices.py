"""One ensemble over CPU devices: the Lorenz load of `ode_ensemble.py` on one device and on several.

The number of devices is fixed when JAX starts, so every configuration is a process of its own; they take turns. One
device with one core is the fair base: each device of several has a core too. A single device with all cores is measured
beside it, since XLA may spread one program over them.

Where odekit loses: lanes of unequal length, dealt to the devices in order, end with the slowest device.
"""

import json
import os
import subprocess
import sys

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def work(devices: int, cores: int, lanes: int) -> None:
    """Solve once for every line read, and print the seconds."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, CORES[:cores])
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    import time

    import jax
    import numpy as np
    from ode_ensemble import DT0, TOL, lorenz, odekit_solve

    import odekit as ok

    jax.config.update("jax_enable_x64", True)
    y0 = np.array([1.0, 0.0, 0.0]) + 1e-3 * np.random.default_rng(0).normal(size=(lanes, 3))
    ends = jax.jit(jax.vmap(lambda y: odekit_solve(lorenz, y, None, ok.Dopri5(), TOL, 4096, DT0)))
    with jax.set_mesh(jax.make_mesh((devices,), ("lanes",))):
        split = jax.device_put(y0, jax.sharding.PartitionSpec("lanes"))
        checksum = float(np.sum(np.asarray(ends(split))))
        for _ in sys.stdin:
            start = time.perf_counter()
            jax.block_until_ready(ends(split))
            print(json.dumps([time.perf_counter() - start, checksum]), flush=True)


def measure(settings: dict[str, tuple[int, int]], lanes: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Return the best seconds and the checksum of each configuration."""
    running = {
        name: subprocess.Popen(
            [sys.executable, __file__, "work", *map(str, (*setting, lanes))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, setting in settings.items()
    }
    best = dict.fromkeys(settings, (float("inf"), 0.0))
    for _ in range(repeats + 1):  # the first turn waits for all compilations
        for name, process in running.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            best[name] = min(best[name], tuple(json.loads(process.stdout.readline())))
    for process in running.values():
        process.stdin.close()
        process.wait()
    return best


def main():
    from harness import arguments, report

    options = arguments(__doc__.splitlines()[0])
    lanes, repeats = (256, 1) if options.quick else (10240, 3)
    several = max(2, len(CORES))
    settings = {"1 device, 1 core": (1, 1), f"1 device, {several} cores": (1, several)}
    settings[f"{several} devices, {several} cores"] = (several, several)
    best = measure(settings, lanes, repeats)
    base, checksum = best["1 device, 1 core"]
    rows = [
        {"setting": name, "lanes": lanes, "s": seconds, "faster than 1 core": base / seconds, "same": check == checksum}
        for name, (seconds, check) in best.items()
    ]
    report("ode_devices", rows, options.out, dtype="float64", cores=len(CORES))


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(*map(int, sys.argv[2:]))
    else:
        main()
