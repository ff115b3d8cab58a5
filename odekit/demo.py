"""The demo: train a flow model on images of digits, learn few-step samplers for it, measure them, draw one figure."""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from odekit import learn, neural, samplers
from odekit.io import load, save
from odekit.loops.table import SamplerTable
from odekit.progress import Bar
from odekit.samplers import Denoiser, sample, time_grid


class Sizes(NamedTuple):
    """How much work is done."""

    width: int = 192
    flow_steps: int = 5000
    table_steps: int = 800
    paths: int = 640
    batch: int = 64
    tested: int = 2048
    reference_steps: int = 50
    budgets: tuple[int, ...] = (4, 6, 8, 10)


QUICK = Sizes(width=32, flow_steps=200, table_steps=60, paths=160, tested=256, reference_steps=20, budgets=(4, 6))
SHOWN = 20  # digits in a row of the figure


def hand_made(schedule: Any, evaluations: int) -> dict[str, SamplerTable]:
    """Return the tables to beat at one budget; Heun's rule evaluates twice in a step."""
    ts = time_grid(schedule, evaluations)
    return {
        "Euler": samplers.euler(schedule, ts),
        "Heun": samplers.heun(schedule, time_grid(schedule, evaluations // 2), euler_at_final=False),
        "DPM-Solver++ 2M": samplers.dpmpp(schedule, ts, order=2),
        "Adams 2": samplers.adams(schedule, ts, order=2),
        "Adams 3": samplers.adams(schedule, ts, order=3),
    }


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return training and held-out images, (1437, 64) and (360, 64), scaled to [-1, 1]."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError("the demo needs scikit-learn for its images; install odekit[demo].") from error
    images, labels = load_digits(return_X_y=True)
    scaled = np.asarray(images, np.float32) / 8 - 1
    train, held_out = train_test_split(scaled, test_size=360, random_state=0, stratify=labels)
    return np.asarray(train), np.asarray(held_out)


def noise(seed: int, n: int) -> Array:
    """Return (n, 64) unit normals."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal((n, 64), np.float32))


def train_flow(images: np.ndarray, held_out: np.ndarray, sizes: Sizes) -> Denoiser:
    """Train the flow model that every sampler is tried on."""
    flow = neural.FlowMatching(neural.VelocityMLP(64, sizes.width, key=jax.random.key(0), dtype=jnp.float32))
    flow, _ = neural.train(
        flow, jnp.asarray(images), key=jax.random.key(1), steps=sizes.flow_steps, every=max(1, sizes.flow_steps // 20),
        progress=Bar("      flow network  "),
    )  # fmt: skip
    return flow.as_denoiser()


def learn_tables(model: Denoiser, sizes: Sizes) -> dict[int, SamplerTable]:
    """Learn a table for every budget, each from Euler's rows."""
    x = noise(2, sizes.paths)
    reference = learn.references(model, x, steps=sizes.reference_steps)
    tables = {}
    for n in sizes.budgets:
        start = samplers.euler(model.schedule, time_grid(model.schedule, n))
        tables[n], _ = learn.distill(
            start, model, x, reference, steps=sizes.table_steps, batch=sizes.batch,
            every=max(1, sizes.table_steps // 20), progress=Bar(f"      {n:2d} evaluations  "),
        )  # fmt: skip
    return tables


def measure(model: Denoiser, tables: dict[int, dict[str, SamplerTable]], held_out: np.ndarray, sizes: Sizes) -> dict:
    """Return error, distance and the first samples of every table at every budget, and the fine solution's."""
    x = noise(3, sizes.tested)
    fine = learn.references(model, x, steps=sizes.reference_steps)
    distance = partial(neural.frechet_distance, held_out)
    names = list(tables[sizes.budgets[0]])
    results = {
        "budgets": list(sizes.budgets),
        "rmse": {name: [] for name in names},
        "frechet": {name: [] for name in names},
        "fine": {"frechet": distance(fine), "evaluations": 4 * sizes.reference_steps},
        "shown": {"real digits": held_out[:SHOWN], "fine solution": fine[:SHOWN]},
    }
    for n in sizes.budgets:
        for name, table in tables[n].items():
            end = sample(model, table, x)
            results["rmse"][name].append(learn.rmse(end, fine))
            results["frechet"][name].append(distance(end))
            if n == sizes.budgets[0]:
                results["shown"][name] = end[:SHOWN]
    return results


def print_table(title: str, budgets: list[int], rows: dict[str, list[float]], say: Callable[[str], None]) -> None:
    """Print one row per sampler; the best number of a column is marked."""
    say(f"\n  {title}")
    say("  " + "network evaluations".ljust(22) + "".join(f"{n:>10d}" for n in budgets))
    best = [min(column) for column in zip(*rows.values(), strict=True)]
    for name, values in rows.items():
        cells = [f"{v:.4f}" + ("*" if v == low else " ") for v, low in zip(values, best, strict=True)]
        say("  " + name.ljust(22) + "".join(f"{cell:>10s}" for cell in cells))


def report(results: dict, real: float, say: Callable[[str], None]) -> None:
    """Print what was measured, and what learning has gained."""
    budgets, rmse = results["budgets"], results["rmse"]
    print_table("Root mean square error to the fine solution, same noise (* best)", budgets, rmse, say)
    *others, learned = rmse.values()
    gains = [min(column) / value for *column, value in zip(*others, learned, strict=True)]
    say("  " + "learned is better by".ljust(22) + "".join(f"{f'{gain:.1f}x ':>10s}" for gain in gains))
    print_table("Fréchet distance of pixels to held-out digits (* best)", budgets, results["frechet"], say)
    fine = results["fine"]
    say(f"  {'fine solution'.ljust(22)}{fine['frechet']:9.4f}   ({fine['evaluations']} evaluations)")
    say(f"  {'real training digits'.ljust(22)}{real:9.4f}")


def keep(folder: Path, tables: dict[int, SamplerTable], model: Denoiser, results: dict) -> list[Path]:
    """Write tables, numbers and figure; read the tables again and compare them to the bit."""
    from odekit.plots import sampler_figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for n, table in tables.items():
        written.append(folder / f"digits_{n}.safetensors")
        bundle = {"table": table, "schedule": model.schedule}
        save(written[-1], bundle)
        again = load(written[-1], bundle)
        for one, two in zip(jax.tree.leaves(bundle), jax.tree.leaves(again), strict=True):
            if np.asarray(one).tobytes() != np.asarray(two).tobytes():
                raise RuntimeError(f"{written[-1]} came back different from what was saved.")
    numbers = {name: results[name] for name in ("budgets", "rmse", "frechet", "fine")}
    written += [folder / "numbers.json", folder / "figure.png"]
    written[-2].write_text(json.dumps(numbers, indent=1))
    shown = {name: np.asarray(images).reshape(-1, 8, 8) for name, images in results["shown"].items()}
    real, fine = shown.pop("real digits"), shown.pop("fine solution")
    floor = results["fine"]["frechet"]
    sampler_figure(written[-1], results["budgets"], results["rmse"], results["frechet"], floor, real, fine, shown)
    return written


def run(folder: str | Path = "odekit-demo", quick: bool = False) -> dict:
    """Run the demo.

    Args:
        folder: where to write; made if missing.
        quick: do little of everything, to see that it works rather than how well.

    Returns:
        The measured numbers: budgets, rmse and frechet by sampler, and those of the fine solution.

    Raises:
        ImportError: scikit-learn, matplotlib or safetensors is missing.

    Example:
        >>> results = run("odekit-demo", quick=True)  # doctest: +SKIP

    Source: the images are the test set of the Optical Recognition of Handwritten Digits data, Alpaydin & Kaynak, 1998.
    """
    sizes, begun = QUICK if quick else Sizes(), time.monotonic()
    say = partial(print, file=sys.stdout, flush=True)
    images, held_out = digits()
    say("odekit demo: a few-step sampler, learned for one model of handwritten digits\n")
    say(f"[1/4] Train a flow-matching network on {len(images)} real images; {len(held_out)} are held out.")
    model = train_flow(images, held_out, sizes)
    say(f"[2/4] Learn tables from {sizes.paths} fine solutions, starting at Euler's.")
    learned = learn_tables(model, sizes)
    say(f"[3/4] Sample {sizes.tested} digits with every table, all from the same noise.")
    tables = {n: hand_made(model.schedule, n) | {"learned": learned[n]} for n in sizes.budgets}
    results = measure(model, tables, held_out, sizes)
    report(results, neural.frechet_distance(held_out, images), say)
    say("\n[4/4] Save the learned tables, load them again, draw the figure.")
    for path in keep(Path(folder), learned, model, results):
        say(f"      {path}")
    say(f"\nDone in {time.monotonic() - begun:.0f} s. The loaded tables equal the saved ones to the bit.")
    return results
