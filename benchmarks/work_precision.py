"""Error against run time of adaptive solves, on problems that are not stiff and on problems that are.

Every point is one jitted solve to the end in float64 at one tolerance; the tolerance is an argument, so that a curve is
compiled once. Not stiff: Lorenz, Lotka-Volterra, Pleiades, Arenstorf, rtol = atol; error: the largest of the end over
the largest component. Stiff: Van der Pol (mu = 1000), Robertson, Oregonator, HIRES; error: the largest relative error
of any component. `--figures DIR` draws both sets. The last column of the table is the time of a diffrax solver over
that of the fastest odekit method at the same error, between points by straight lines in logarithms.

Where odekit loses: against compiled codes on one small system.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import compiled
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from harness import interleave, report

import odekit as ok
from odekit.plots import STYLE

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # the problems are those of the tests
import cases
import cases_stiff

MOST_STEPS = 50_000
USEFUL = 0.1
"""A larger error is compared with nothing."""
SHOWN = 0.5
"""A larger one is not drawn."""
SMOOTH = (cases.LORENZ, cases.LOTKA_VOLTERRA, cases.PLEIADES, cases.ARENSTORF)
STIFF = (cases_stiff.VAN_DER_POL, cases_stiff.ROBERTSON, cases_stiff.OREGONATOR, cases_stiff.HIRES)
PEERS = {
    "smooth": {
        "odekit Tsit5": ok.Tsit5(),
        "odekit DOP853": ok.DOP853(),
        "diffrax Tsit5": diffrax.Tsit5(),
        "diffrax Dopri8": diffrax.Dopri8(),
        "numbalsoda dop853": "dop853",
        "numbalsoda lsoda": "lsoda",
    },
    "stiff": {
        "odekit Rodas5P": ok.Rodas5P(),
        "diffrax Kvaerno3": diffrax.Kvaerno3(),
        "diffrax Kvaerno5": diffrax.Kvaerno5(),
        "numbalsoda lsoda": "lsoda",
    },
}
COLOURS = {"odekit": "#D55E00", "diffrax": "#0072B2", "numbalsoda": "#999999"}
LINES = {"Tsit5": "o-", "DOP853": "s--", "Dopri8": "s--", "Rodas5P": "o-", "Kvaerno5": "o-", "Kvaerno3": "^--"}
LINES |= {"dop853": "s--", "lsoda": "D:"}


def solver(case, method):
    """Return `solve(rtol, atol)` to the end state; its NaN says that the solve did not get there."""
    if isinstance(method, str):
        return compiled.solver(method, case.name, case.y0, case.t1)
    y0 = jnp.asarray(case.y0)

    if isinstance(method, diffrax.AbstractSolver):

        def end(rtol, atol):
            control = diffrax.PIDController(rtol=rtol, atol=atol)
            sol = diffrax.diffeqsolve(
                diffrax.ODETerm(case.f), method, 0.0, case.t1, None, y0,
                stepsize_controller=control, max_steps=MOST_STEPS, throw=False,
            )  # fmt: skip
            return jnp.where(sol.result == diffrax.RESULTS.successful, sol.ys[0], jnp.nan)
    else:

        def end(rtol, atol):
            sol = ok.solve(case.f, y0, 0.0, case.t1, method, rtol=rtol, atol=atol, max_steps=MOST_STEPS, throw=False)
            return jnp.where(sol.result == ok.Result.SUCCESS, sol.y1, jnp.nan)

    return jax.jit(end)


def error(case, end):
    if isinstance(case, cases_stiff.Stiff):
        return case.error(end)
    return float(np.max(np.abs(np.asarray(end) - case.y1)) / np.max(np.abs(case.y1)))


def measure(case, peers, tolerances, repeats):
    """Return one row a peer and tolerance, while the peer still gets there."""
    solvers = {name: solver(case, method) for name, method in peers.items()}
    points = []
    for tol in tolerances:
        atol = case.size * tol if isinstance(case, cases_stiff.Stiff) else tol
        asked = (jnp.asarray(tol), jnp.asarray(atol))
        fns = {
            name: partial(solve, *((tol, atol) if isinstance(peers[name], str) else asked))
            for name, solve in solvers.items()
        }
        errors = {name: error(case, fn()) for name, fn in fns.items()}
        solvers = {name: solve for name, solve in solvers.items() if np.isfinite(errors[name])}
        best = timed({name: fns[name] for name in solvers}, repeats)
        points += [
            {"problem": case.name, "peer": name, "tol": tol, "error": errors[name], "ms": 1e3 * best[name]}
            for name in solvers
        ]
    return points


def timed(fns, repeats):
    """Return the best seconds; those of a twentieth of a second and more are called twice."""
    best = interleave(fns, 2)
    again = interleave({name: fn for name, fn in fns.items() if best[name] < 0.05}, repeats)
    return {name: min(seconds, again.get(name, seconds)) for name, seconds in best.items()}


def compare(points):
    """Add to every point of diffrax by how much odekit is faster at its error."""
    for problem in dict.fromkeys(point["problem"] for point in points):
        mine = [p for p in points if p["problem"] == problem and p["peer"].startswith("odekit")]
        for point in points:
            if point["problem"] == problem and point["peer"].startswith("diffrax") and point["error"] < USEFUL:
                time = fastest(mine, point["error"])
                point["odekit is faster by"] = None if time is None else point["ms"] / time


def fastest(points, wanted):
    """Return the least time of any peer to reach the error `wanted`, None where none comes near."""
    times = []
    for peer in dict.fromkeys(p["peer"] for p in points):
        curve = sorted((p["error"], p["ms"]) for p in points if p["peer"] == peer)
        errors, ms = np.log([e for e, _ in curve]), np.log([t for _, t in curve])
        if errors[0] <= np.log(wanted):  # a looser tolerance than the loosest measured is not cheaper
            times.append(np.exp(np.interp(np.log(wanted), errors, ms)))
    return min(times, default=None)


def draw(points, path):
    from matplotlib.figure import Figure
    from matplotlib.style import context

    problems = list(dict.fromkeys(point["problem"] for point in points))
    with context(STYLE):
        figure = Figure(figsize=(7.2, 5.6), layout="constrained")
        axes = figure.subplots(2, 2).ravel()
        for axis, problem in zip(axes, problems, strict=True):
            axis.set_title(problem)
            draw_curves(axis, [p for p in points if p["problem"] == problem])
        for axis in axes[2:]:
            axis.set_xlabel("relative error at the end")
        for axis in axes[::2]:
            axis.set_ylabel("run time, ms")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels) if len(labels) < 5 else 3)
        figure.savefig(path, dpi=130)


def draw_curves(axis, points):
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for peer in dict.fromkeys(point["peer"] for point in points):
        package, method = peer.split()
        curve = [p for p in points if p["peer"] == peer and p["error"] < SHOWN]
        xs, ys = [p["error"] for p in curve], [p["ms"] for p in curve]
        mine = package == "odekit"
        style = {"markersize": 3.5, "linewidth": 1.6 if mine else 1.1, "zorder": 3 if mine else 2}
        axis.loglog(xs, ys, LINES[method], color=COLOURS[package], label=peer, **style)
    low, high = axis.get_ylim()
    axis.invert_xaxis()
    axis.xaxis.set_major_locator(LogLocator(numticks=8))
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 50 else (1.0,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for along in (axis.xaxis, axis.yaxis):
        along.set_minor_locator(NullLocator())


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few tolerances, few repeats, the dearest peers left out")
    parser.add_argument("--out", help="write the rows as JSON to this file")
    parser.add_argument("--only", choices=("smooth", "stiff"), help="one of the two sets of problems")
    parser.add_argument("--figures", metavar="DIR", help="draw work_precision_smooth.png and _stiff.png there")
    return parser.parse_args()


def main():
    jax.config.update("jax_enable_x64", True)
    given = options()
    smooth = [float(f"1e-{k}") for k in range(3, 13, 2 if given.quick else 1)]
    stiff = [float(f"1e-{k}") for k in range(2, 9, 2 if given.quick else 1)]
    left_out = {"diffrax Kvaerno3"} if given.quick else set()
    if not compiled.available():
        print(compiled.MISSING)
        left_out |= {"numbalsoda dop853", "numbalsoda lsoda"}
    rows = []
    for kind, problems, tolerances in (("smooth", SMOOTH, smooth), ("stiff", STIFF, stiff)):
        if given.only not in (None, kind):
            continue
        peers = {name: method for name, method in PEERS[kind].items() if name not in left_out}
        points = [row for case in problems for row in measure(case, peers, tolerances, 5 if given.quick else 20)]
        compare(points)
        rows += [{"set": kind, **point} for point in points]
        if given.figures:
            draw(points, Path(given.figures) / f"work_precision_{kind}.png")
    report("work_precision", rows, given.out, dtype="float64")
    ratios = [row["odekit is faster by"] for row in rows if row.get("odekit is faster by")]
    print(
        f"\nodekit over the fastest diffrax solver at equal error: {min(ratios):.2f} to {max(ratios):.0f} times faster"
    )


if __name__ == "__main__":
    main()
