"""Learned tables against the best hand-made ones at equal network evaluations, on a mixture of ten Gaussians."""

import time

import jax
import numpy as np
from harness import arguments, report

from odekit import learn, samplers
from odekit.schedules import FlowMatching, VPLinear

PEAK = 4.0
VIEWS = {"CondOT": "velocity", "VP": "data"}
SCHEDULES = {"CondOT": FlowMatching(), "VP": VPLinear()}
SPACINGS = {"CondOT": "time", "VP": "logsnr"}


def mixture(schedule):
    """Ten Gaussians in eight dimensions."""
    k, j = np.arange(10)[:, None], np.arange(8)[None]
    means = 1.5 * np.sin(1.7 * (k + 1) * (j + 1) + 0.3 * j)
    weights = 1 + 0.5 * np.cos(np.arange(10))
    return samplers.GaussianMixture(weights / weights.sum(), means, 0.3 + 0.1 * (np.arange(10) % 4), schedule)


def paths(model, name, seed, n, steps):
    x = jax.numpy.asarray(np.random.RandomState(seed).standard_normal((n, 8)))
    return x, learn.references(model, x, steps=steps, spacing=SPACINGS[name])


def quality(model, table, x, reference):
    end = samplers.sample(model, table, x)
    return learn.rmse(end, reference), learn.psnr(end, reference, PEAK)


def hand_made(schedule, n):
    """Tables on the grids that suit them; the best of them is the one to beat."""
    half = {"euler_at_final": False}
    for spacing in ("time", "logsnr", "karras"):
        grid = samplers.time_grid(schedule, n, spacing)
        yield from (samplers.euler(schedule, grid), samplers.ddim(schedule, grid))
        yield from (samplers.adams(schedule, grid, order) for order in (2, 3))
        yield from (samplers.dpmpp(schedule, grid, order) for order in (2, 3))
        yield samplers.heun(schedule, samplers.time_grid(schedule, n // 2, spacing), **half)


def compare(name, budgets, seeds, steps, fine):
    schedule = SCHEDULES[name]
    model = mixture(schedule)
    training, held_out, test = (paths(model, name, seed, n, fine) for seed, n in ((0, 2048), (1, 512), (12345, 4096)))
    rows = []
    for n in budgets:
        by_hand = [quality(model, table, *test) for table in hand_made(schedule, n)]
        start = learn.normal_form(samplers.ddim(schedule, samplers.time_grid(schedule, n)), schedule, VIEWS[name])
        begun, results = time.perf_counter(), []
        for seed in range(seeds):
            options = {"validation": held_out, "steps": steps, "key": jax.random.key(seed)}
            table, _ = learn.distill(start, model, *training, **options)
            results.append(quality(model, table, *test))
        seconds = (time.perf_counter() - begun) / seeds
        error, decibel = np.mean(results, axis=0).tolist()
        best_error, best_decibel = min(e for e, _ in by_hand), max(d for _, d in by_hand)
        rows.append({
            "path": name, "evaluations": n, "learned rmse": error, "learned dB": decibel, "hand-made rmse": best_error,
            "hand-made dB": best_decibel, "ratio": best_error / error, "seconds": seconds,
        })  # fmt: skip
    return rows


def main():
    options = arguments(__doc__)
    jax.config.update("jax_enable_x64", True)
    budgets, seeds, steps, fine = ((4,), 1, 100, 100) if options.quick else ((4, 6, 8, 10), 3, 2000, 1000)
    rows = [row for name in SCHEDULES for row in compare(name, budgets, seeds, steps, fine)]
    report("learn", rows, options.out, seeds=seeds, steps=steps)


if __name__ == "__main__":
    main()
