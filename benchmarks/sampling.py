"""Few-step sampling: what the table loop costs over the bare network, compile time, precision, and a peer's loop.

The overhead is measured against the least a program could do: the network alone (and the noise, where there is any),
called as often, unrolled, in one jitted function. Every table of the package takes part. `which_sampler.py` measures
errors.

Where odekit loses: with a network so small that a row's arithmetic is no longer free, a hand-unrolled loop wins. At
8,000 operations a pixel tables of two slots cost 5 to 7 percent, and numbers for every pixel (DPM-Solver-v3) 14.
In float32 BDIA enlarges rounding errors by the ratio of the first and last sigma/alpha, the price of being invertible,
and DPM-Solver-v3 keeps its history as differences of large numbers.
"""

import importlib.util
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from harness import arguments, compile_time, interleave, report
from settings import settings

from odekit.loops.table import run_table
from odekit.samplers import Denoiser, dpmpp, gaussian, sample, time_grid
from odekit.schedules import EDM, FlowMatching, VPLinear

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import cases_sampling

EVALUATIONS, BATCH, WIDTH, HIDDEN, LAYERS = 20, 64, 784, 2048, 5
LONG, SHORT = 100, 5
VP = VPLinear()


def mlp(key):
    """Weights of a network that does 36,000 operations a pixel, half as many as that of the galaxies."""
    sizes = [WIDTH, *[HIDDEN] * (LAYERS - 1), WIDTH]
    keys = jax.random.split(key, LAYERS)
    return [jax.random.normal(k, (n, m)) / n**0.5 for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def network(weights, x, t):
    """An MLP that is told the time."""
    for w in weights[:-1]:
        x = jax.nn.gelu(x @ w + t)
    return x @ weights[-1]


@cache
def fitted(width):
    """Return every form of every table; what must be measured on a model is measured on a linear one."""
    model, x = gaussian(np.zeros(width), 0.5, VP), jax.random.normal(jax.random.key(3), (16, width))
    return {name: setting.on(model, x) for name, setting in settings().items()}


def tables(evaluations, width=WIDTH):
    """Return every table with at most so many evaluations, for states of so many pixels."""
    found = {name: setting.within(VP, evaluations) for name, setting in fitted(width).items()}
    return {name: table for name, table in found.items() if table is not None}


def overhead(repeats, group):
    """Run time of table loops over that of the network alone; `group` tables are measured at a time."""
    weights, x, key = mlp(jax.random.key(0)), jax.random.normal(jax.random.key(1), (BATCH, WIDTH)), jax.random.key(2)

    def bare(table):
        times, noisy = table.t.tolist(), table.stochastic

        @jax.jit
        def run(weights, x, key):
            for k, t in enumerate(times):
                x = network(weights, x, t)
                x = x + jax.random.normal(jax.random.fold_in(key, k), x.shape) if noisy else x
            return x

        return lambda: run(weights, x, key)

    def loop(table):
        @jax.jit
        def run(table, weights, x, key):
            model = Denoiser(lambda x, t, cond: network(weights, x, t), VP, table.view)
            return run_table(table, model, x, key)

        return lambda: run(table, weights, x, key)

    everything, rows = list(tables(EVALUATIONS).items()), []
    for some in (dict(everything[i : i + group]) for i in range(0, len(everything), group)):
        kinds = {(table.nfe, table.stochastic): table for table in some.values()}
        fns = {kind: bare(table) for kind, table in kinds.items()} | {name: loop(table) for name, table in some.items()}
        times = interleave(fns, repeats)
        for name, table in some.items():
            over = times[name] / times[table.nfe, table.stochastic]
            about = {"table": name, "noise": table.stochastic, "evaluations": table.nfe}
            rows.append({**about, "seconds": times[name], "over the least": over})
    return rows


def compiling(repeats, names):
    """Compile time of long tables over that of short ones."""
    weights, x, key = mlp(jax.random.key(0)), jnp.zeros((BATCH, WIDTH)), jax.random.key(2)

    def run(table, weights, x, key):
        return run_table(table, Denoiser(lambda x, t, cond: network(weights, x, t), VP, table.view), x, key)

    rows, short = [], tables(SHORT)
    for name, long in tables(LONG).items():
        if name not in names or name not in short:
            continue
        turns = [[compile_time(run, table, weights, x, key) for table in (short[name], long)] for _ in range(repeats)]
        few, many = np.min(turns, axis=0).tolist()  # in turns, as interleave does
        rows.append({"table": name, f"{SHORT} rows": few, f"{LONG} rows": many, "ratio": many / few})
    return rows


def precision():
    """Largest difference that a state in float32 makes, over the largest value, with a smooth network.

    Float64 is the definition of a table run in NumPy with the noise of float32: noise of another precision is other
    noise. The network answers in float64 and changes at most half as much as the state, so that what is left is the
    rounding of the loop and of its numbers: high orders multiply what a network does to rounding errors.
    """
    first, second = (jax.random.normal(k, (8, 8)) / 8**0.5 for k in jax.random.split(jax.random.key(5)))
    x, key = jax.random.normal(jax.random.key(6), (64, 8), jnp.float32), jax.random.key(7)

    def fn(x, t, cond):
        return 0.5 * (jnp.tanh(x.astype(first.dtype) @ first + t.astype(first.dtype)) @ second).astype(x.dtype)

    rows = []
    noise = np.stack([jax.random.normal(jax.random.fold_in(key, k), x.shape, x.dtype) for k in range(EVALUATIONS + 1)])
    compiled = jax.jit(lambda x, t: fn(x, t, None))
    for name, table in tables(EVALUATIONS, 8).items():
        single = sample(Denoiser(fn, VP, table.view), table, x, key=key).astype(float)
        double = cases_sampling.run_by_hand(table, compiled, np.asarray(x, np.float64), noise.astype(np.float64))
        row = {"table": name, "difference": float(np.max(np.abs(single - double)) / np.max(np.abs(double)))}
        for schedule, start in ((EDM(), None), (FlowMatching(), 0.99)):
            setting = fitted(8)[name]
            ts = time_grid(schedule, 10, setting.spacing(schedule), start=start, end="zero")
            try:
                ends = setting.build(schedule, ts)
            except ValueError:  # a form that needs some noise at the end, or a model of this schedule
                continue
            end = sample(Denoiser(fn, schedule, ends.view), ends, x, key=key)
            row[f"finite at the end of {type(schedule).__name__}"] = bool(jnp.all(jnp.isfinite(end)))
        rows.append(row)
    return rows


def peers(repeats, n=50):
    """Time a step takes beside the network: this loop, and the scheduler of diffusers with the same grid and order."""
    if importlib.util.find_spec("diffusers") is None:
        print("\nthe schedulers of diffusers are left out: diffusers is not installed")
        return []
    import torch
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    table, model = dpmpp(VP, time_grid(VP, n)), Denoiser(lambda x, t, cond: 0.5 * x, VP, "noise")
    x = jnp.ones((1, 4, 64, 64), jnp.float32)
    begin = torch.ones(1, 4, 64, 64)

    def theirs():
        scheduler = DPMSolverMultistepScheduler()
        scheduler.set_timesteps(n)
        x = begin
        for t in scheduler.timesteps:
            x = scheduler.step(0.5 * x, t, x).prev_sample
        return x

    times = interleave({"odekit": lambda: sample(model, table, x), "diffusers": theirs}, repeats)
    return [{"loop": name, "microseconds a step": 1e6 * seconds / n} for name, seconds in times.items()]


def main():
    options = arguments(__doc__.splitlines()[0])
    quick = options.quick
    rows = [{"measure": "run time", **row} for row in overhead(2 if quick else 12, 4)]
    what = f"{EVALUATIONS} evaluations of {LAYERS} layers, {HIDDEN} wide, on {(BATCH, WIDTH)}"
    report(f"table loop over the bare network, {what}", rows)
    some = ("ddim", "dpmpp2") if quick else settings()
    slow = [{"measure": "compile time", **row} for row in compiling(1 if quick else 3, some)]
    report(f"compile time of {LONG} rows over {SHORT}", slow)
    loops = [{"measure": "loop", **row} for row in peers(3 if quick else 25)]
    report("a step beside the network", loops)
    jax.config.update("jax_enable_x64", True)
    exact = [{"measure": "precision", **row} for row in precision()]
    report("float32 against float64", exact)
    if options.out:
        report("sampling", [*rows, *slow, *loops, *exact], options.out)


if __name__ == "__main__":
    main()
