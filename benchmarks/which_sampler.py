"""Which sampler at N evaluations: the error of every table on models whose answer is exact, and on networks in use.

Deterministic tables start from fixed noise and are held against the probability flow: of a planar mixture on three
schedules (root mean square over 64 starts), and of score networks trained by others (median over images of the root
mean square, in standard deviations of the images; the reference is a solve by `DOP853` in float64). Stochastic tables
are held against the law, by sliced Wasserstein distance. Every table has the grid its authors advise and a common one.
The networks are skipped with a sentence where their weights cannot be had. Rows are applied by NumPy, as in the tests
that hold the loop against its definition, so that only the models are compiled.

`--page docs` draws the figure and writes the measured tables into the page.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from harness import report
from settings import settings
from which_figure import SHOWN, at, by_table, draw

import odekit as ok
from odekit.samplers import dpmpp, time_grid
from odekit.schedules import EDM, FlowMatching

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # the models are those of the tests
import cases_galaxies
import cases_sampling

BUDGETS, FEW = (4, 5, 6, 8, 10, 14, 20, 40), (5, 10)
IMAGES = {"ztf": 8, "quasar": 4}
TITLES = {"VP": "mixture, VP", "VE": "mixture, VE", "FM": "mixture, flow"}
TITLES |= {"ztf": "galaxies, 32 x 32, VP", "quasar": "lensed quasars, 72 x 72, VP"}


class Target(NamedTuple):
    """A model that answers in `dtype`, its starts and where the probability flow takes them."""

    title: str
    model: Any
    starts: np.ndarray
    ends: np.ndarray
    dtype: Any = np.float64

    @property
    def schedule(self):
        return self.model.schedule

    def settings(self):
        """Return every form of every table, fitted to the model where it needs that."""
        shape = (512, 2) if self.starts.ndim == 2 else (32, *self.starts.shape[1:])
        x = np.random.RandomState(4).standard_normal(shape) * self.schedule.sigma(self.schedule.t_start)
        return [(name, setting.on(self.model, jnp.asarray(x, self.dtype))) for name, setting in settings().items()]

    def sample(self, table, x, z=None):
        """Return where a table takes `x` with noise `z[k]` in row k."""

        def view(x, t):
            answer = ask(self.model, table.view, jnp.asarray(x, self.dtype), jnp.asarray(t, self.dtype))
            return np.asarray(answer, np.float64)

        return cases_sampling.run_by_hand(table, view, x, z)

    def error(self, found):
        squares = np.square(np.asarray(found, np.float64) - self.ends)
        if self.ends.ndim == 2:
            return float(np.sqrt(np.mean(squares)))
        return float(np.median(np.sqrt(np.mean(squares, axis=(1, 2))))) / float(np.std(self.ends))


@eqx.filter_jit
def ask(model, view, x, t):
    return getattr(model, view)(x, t)


class Noise:
    """Unit normals of each row of a run, drawn when they are asked for."""

    def __init__(self, shape):
        self.shape, self.random = shape, np.random.RandomState(2)

    def __getitem__(self, row):
        return self.random.standard_normal(self.shape)


def targets(quick):
    """Return what can be sampled here."""
    found = []
    for name in ("VP", "VE", "FM"):
        model = cases_sampling.mixture(cases_sampling.ENDS[name][0])
        found.append(Target(TITLES[name], model, cases_sampling.starts(name), cases_sampling.ends(name)))
    for name, images in IMAGES.items():
        try:
            model = cases_galaxies.galaxies(name)
        except cases_galaxies.Absent as why:
            print(f"{TITLES[name]} is left out: {why}")
            continue
        starts = cases_galaxies.start(name, 2 if quick else images)
        ends = flow(model, jnp.asarray(starts), 1e-3 if quick else 1e-6)
        found.append(Target(TITLES[name], model, starts, np.asarray(ends), np.float32))
    return found


def flow(model, x, tol):
    """Return where the probability flow takes `x`."""
    first, last = model.schedule.t_start, model.schedule.t_end

    def field(t, x, args):
        return model.velocity(x, t)

    return ok.solve(field, x, first, last, ok.DOP853(), rtol=tol, atol=tol, max_steps=20_000).y1


def common(schedule):
    """Return the spacing on which all tables can be compared."""
    return {EDM: "karras", FlowMatching: "time"}.get(type(schedule), "logsnr")


def errors(target, budgets):
    """Return a row for every deterministic table, grid and number of evaluations."""
    rows = []
    for name, setting in target.settings():
        advised, shared = setting.spacing(target.schedule), common(target.schedule)
        for spacing in dict.fromkeys((advised, shared)):
            done = set()
            for budget in budgets:
                table = setting.within(target.schedule, budget, spacing)
                if table is None or table.stochastic or table.nfe in done:
                    continue
                done.add(table.nfe)
                error = target.error(target.sample(table, target.starts))
                about = {"table": name, "grid": spacing, "advised": spacing == advised, "common": spacing == shared}
                rows.append({"model": target.title, **about, "evaluations": table.nfe, "error": error})
    return rows


def sliced(a, b, directions=256):
    """Return the root mean square over fixed directions of the Wasserstein-2 distance between (n, ...) sets."""
    a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (a, b))
    to = np.random.RandomState(1).standard_normal((a.shape[1], directions))
    to /= np.linalg.norm(to, axis=0)
    return float(np.sqrt(np.mean((np.sort(a @ to, axis=0) - np.sort(b @ to, axis=0)) ** 2)))


def distances(target, starts, exact, other, budgets):
    """Return a row for every stochastic table, and for two others to compare them with, against the law."""
    rows = [{"model": target.title, "table": "exact", "distance": sliced(exact, other)}]
    for name, setting in target.settings():
        for budget in budgets:
            table = setting.within(target.schedule, budget)
            if table is None or not (table.stochastic or name in ("ddim", "dpmpp2")):
                continue
            found = target.sample(table, starts, Noise(starts.shape))
            about = {"model": target.title, "table": name, "grid": setting.spacing(target.schedule)}
            rows.append({**about, "evaluations": table.nfe, "distance": sliced(found, exact)})
    return rows


def laws(found, quick):
    """Return the distances of stochastic tables to the law of the mixture on VP.

    Not to that of a network: between two sets of 256 of its own images the distance is .22, as large as most errors.
    """
    target, n = next(target for target in found if target.title == TITLES["VP"]), 2_000 if quick else 20_000
    starts, *others = np.random.RandomState(3).standard_normal((3, n, 2))
    fine = dpmpp(target.schedule, time_grid(target.schedule, 20 if quick else 100, "logsnr"), 3)
    exact, other = (target.sample(fine, x) for x in others)
    return distances(target, starts, exact, other, FEW if quick else SHOWN)


def figures(value):
    return "-" if value is None else f"{value:.2g}" if value < 100 else f"{value:.0e}"


def markdown(rows, model, key):
    """Return a table of pages: one line a sampler, the best at ten evaluations first."""
    curves = by_table(rows, model)
    order = sorted(curves, key=lambda name: at(curves[name], 10, key) or np.inf)
    best = {b: min((v for c in curves.values() if (v := at(c, b, key)) is not None), default=None) for b in SHOWN}
    shared = {row["table"]: row for row in rows if row["model"] == model and row.get("common")}
    head = ["table", "grid", *map(str, SHOWN)] + (["10, common grid"] if shared else [])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in order:
        values = {b: at(curves[name], b, key) for b in SHOWN}
        cells = [f"**{figures(v)}**" if v is not None and v == best[b] else figures(v) for b, v in values.items()]
        if shared:
            same = [r for r in rows if r["model"] == model and r["table"] == name and r.get("common")]
            cells.append(figures(at(same, 10, key)))
        lines.append("| " + " | ".join([f"`{name}`", curves[name][0]["grid"], *cells]) + " |")
    return "\n".join(lines)


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few budgets and images: checks that it runs")
    parser.add_argument("--out", help="write the rows as JSON to this file")
    parser.add_argument("--page", metavar="DIR", help="draw which_sampler.png there and fill which_sampler.md")
    return parser.parse_args()


def fill(page, name, text):
    """Put a measured table between its markers."""
    mark = f"<!-- measured: {name} -->"
    before, _, rest = page.partition(mark)
    _, _, after = rest.partition("<!-- end -->")
    if not after:
        raise LookupError(f"the page has no {mark} with an end.")
    return f"{before}{mark}\n{text}\n<!-- end -->{after}"


def main():
    jax.config.update("jax_enable_x64", True)
    given = options()
    found = targets(given.quick)
    rows = [row for target in found for row in errors(target, FEW if given.quick else BUDGETS)]
    spread = laws(found, given.quick)
    report("error to the probability flow", rows)
    report("sliced Wasserstein distance to the law", spread)
    if given.out:
        report("which_sampler", [*rows, *spread], given.out)
    if given.page:
        draw(rows, spread, Path(given.page) / "which_sampler.png")
        page = Path(given.page) / "which_sampler.md"
        text = page.read_text()
        for target in found:
            text = fill(text, target.title, markdown(rows, target.title, "error"))
        for model in dict.fromkeys(row["model"] for row in spread):
            text = fill(text, f"law, {model}", markdown(spread, model, "distance"))
        page.write_text(text)


if __name__ == "__main__":
    main()
