"""Few-step sampling: what the table loop costs over the bare network, compile time, and error against evaluations.

The overhead is measured against the least a program could do: the network alone (and the noise, where there is any),
called as often, unrolled, in one jitted function. Errors are root mean squares to the exact probability flow of a
planar mixture whose score is known; every table is given the evaluations that the column names.

Where odekit loses: with a network so small that a row's arithmetic is no longer free, a hand-unrolled loop wins.
"""

import jax
import jax.numpy as jnp
import numpy as np
from harness import arguments, compile_time, interleave, report

from odekit.loops.table import run_table
from odekit.samplers import Denoiser, GaussianMixture, adams, ddim, dpmpp, euler, heun, sa, time_grid
from odekit.schedules import FlowMatching, VPLinear

EVALUATIONS, BATCH, WIDTH, LAYERS = 20, 256, 784, 5
VP, FLOW = VPLinear(), FlowMatching()
TABLES = {
    "ddim": ddim,
    "dpmpp2": lambda s, ts: dpmpp(s, ts, 2),
    "dpmpp3": lambda s, ts: dpmpp(s, ts, 3),
    "sa3c4, tau 0": lambda s, ts: sa(s, ts, 3, corrector=4, tau=0.0),
    "euler": euler,
    "heun": lambda s, ts: heun(s, ts, euler_at_final=False),
    "adams2": lambda s, ts: adams(s, ts, 2),
    "adams3": lambda s, ts: adams(s, ts, 3),
}


def mlp(key):
    """Weights of a network of `LAYERS` layers."""
    return [jax.random.normal(k, (WIDTH, WIDTH)) / WIDTH**0.5 for k in jax.random.split(key, LAYERS)]


def network(weights, x, t):
    """An MLP that is told the time."""
    for w in weights[:-1]:
        x = jax.nn.gelu(x @ w + t)
    return x @ weights[-1]


def overhead(repeats):
    """Run time of table loops over that of the network alone."""
    weights, x, key = mlp(jax.random.key(0)), jax.random.normal(jax.random.key(1), (BATCH, WIDTH)), jax.random.key(2)
    ts = time_grid(VP, EVALUATIONS, "logsnr").astype(np.float32)

    @jax.jit
    def bare(weights, x):
        for t in ts[:-1].tolist():
            x = network(weights, x, t)
        return x

    @jax.jit
    def bare_noisy(weights, x, key):
        for k, t in enumerate(ts[:-1].tolist()):
            x = network(weights, x, t) + jax.random.normal(jax.random.fold_in(key, k), x.shape)
        return x

    def loop(table):
        @jax.jit
        def run(table, weights, x, key):
            model = Denoiser(lambda x, t, cond: network(weights, x, t), VP, table.view)
            return run_table(table, model, x, key)

        return lambda: run(table, weights, x, key)

    tables = {
        "ddim": ddim(VP, ts),
        "dpmpp2": dpmpp(VP, ts, 2),
        "dpmpp3": dpmpp(VP, ts, 3),
        "sa3c4": sa(VP, ts, 3, corrector=4, tau=0.0),
        "heun": heun(VP, ts[::2], euler_at_final=False),
        "sa3c4 with noise": sa(VP, ts, 3, corrector=4),
    }
    least = {"network alone": lambda: bare(weights, x), "network and noise": lambda: bare_noisy(weights, x, key)}
    times = interleave({**least, **{name: loop(table) for name, table in tables.items()}}, repeats)
    return [
        {
            "table": name,
            "seconds": seconds,
            "over the least": seconds / times["network and noise" if "noise" in name else "network alone"],
        }
        for name, seconds in times.items()
    ]


def compiling(repeats):
    """Compile time of long tables over that of short ones."""
    weights, x = mlp(jax.random.key(0)), jnp.zeros((BATCH, WIDTH))

    def run(table, weights, x):
        return run_table(table, Denoiser(lambda x, t, cond: network(weights, x, t), VP, "noise"), x)

    tables = {n: dpmpp(VP, time_grid(VP, n)) for n in (5, 20, 100)}
    turns = [{n: compile_time(run, table, weights, x) for n, table in tables.items()} for _ in range(repeats)]
    seconds = {n: min(turn[n] for turn in turns) for n in tables}  # in turns, as interleave does
    return [{"rows": n, "seconds": s, "over 5 rows": s / seconds[5]} for n, s in seconds.items()]


def mixture(schedule):
    """Three components in the plane."""
    means, stds = [[-1.2, -0.5], [1.0, 0.3], [0.1, 1.4]], [0.30, 0.40, 0.25]
    return GaussianMixture([0.3, 0.5, 0.2], means, stds, schedule)


def errors(schedule, spacing, exact_steps, budgets):
    """Error of every table on one path for each number of evaluations."""
    model, x = mixture(schedule), schedule.sigma(schedule.t_start) * jax.random.normal(jax.random.key(0), (512, 2))
    run = jax.jit(run_table)

    def solve(build, n):
        return run(build(schedule, time_grid(schedule, n, spacing)), model, x)

    exact, rows = solve(TABLES["heun"], exact_steps), []
    for name, build in TABLES.items():
        per_step = 2 if name == "heun" else 1
        row = {"table": name}
        for budget in budgets:
            rms = jnp.sqrt(jnp.mean((solve(build, budget // per_step) - exact) ** 2))
            row[f"{budget} evaluations"] = float(rms)
        rows.append(row)
    return rows


def main():
    options = arguments(__doc__.splitlines()[0])
    repeats, budgets = (3, (4, 8)) if options.quick else (25, (4, 6, 8, 10, 20, 40))
    rows = [{"measure": "run time", **row} for row in overhead(repeats)]
    report(f"table loop over the bare network, {EVALUATIONS} evaluations of {LAYERS} layers on {(BATCH, WIDTH)}", rows)
    slow = [{"measure": "compile time", **row} for row in compiling(2 if options.quick else 8)]
    report("compile time", slow)
    jax.config.update("jax_enable_x64", True)
    known = []
    for schedule, spacing in ((VP, "logsnr"), (VP, "quadratic"), (FLOW, "time")):
        found = errors(schedule, spacing, 300 if options.quick else 3000, budgets)
        report(f"error on {type(schedule).__name__}, {spacing} grid", found)
        known += [{"measure": "error", "path": type(schedule).__name__, "grid": spacing, **row} for row in found]
    if options.out:
        report("sampling", [*rows, *slow, *known], options.out)


if __name__ == "__main__":
    main()
