"""Learn a six-evaluation sampler for a mixture of Gaussians, and compare it to the tables that people write by hand."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import odekit as ok

EVALUATIONS = 6
MODES, RADIUS, SPREAD = 5, 2.0, 0.25
PATHS, TESTED, STEPS = 1024, 4096, 1500
QUICK_STEPS = 100
FIGURE = "learn_sampler.png"


def mixture(schedule: ok.schedules.Schedule) -> ok.samplers.GaussianMixture:
    """Gaussians on a circle; their exact velocity stands in for a network."""
    angles = 2 * np.pi * np.arange(MODES) / MODES
    means = RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return ok.samplers.GaussianMixture(np.full(MODES, 1 / MODES), means, np.full(MODES, SPREAD), schedule)


def main(steps: int, figure: str) -> float:
    schedule = ok.schedules.FlowMatching()
    model, grid = mixture(schedule), ok.time_grid(schedule, EVALUATIONS)
    tables = {
        "Euler": ok.samplers.euler(schedule, grid),
        "DPM-Solver++ 2M": ok.samplers.dpmpp(schedule, grid),
        "Adams 2": ok.samplers.adams(schedule, grid, order=2),
    }

    # The fine solution of the same model from the same noise is all the data that learning needs.
    x = jax.random.normal(jax.random.key(0), (PATHS, 2))
    reference = ok.learn.references(model, x)
    tables["learned"], history = ok.learn.distill(tables["Euler"], model, x, reference, steps=steps)

    noise = jax.random.normal(jax.random.key(1), (TESTED, 2))
    fine = ok.learn.references(model, noise)
    ends = {name: ok.sample(model, table, noise) for name, table in tables.items()}
    scores = {name: ok.learn.rmse(end, fine) for name, end in ends.items()}
    for name, score in scores.items():
        print(f"{name:16s} root mean square error {score:.4f}")
    print(f"the learned table evaluates at t = {np.round(np.asarray(tables['learned'].t), 3)}")
    draw(figure, history, ends | {"fine solution": fine}, scores)
    return min(score for name, score in scores.items() if name != "learned") / scores["learned"]


def draw(path: str, history: ok.learn.History, ends: dict[str, jnp.ndarray], scores: dict[str, float]) -> None:
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    first, *others = figure.subplots(1, 4)
    first.plot(history.checked, history.validation, color="#D55E00")
    first.set(xlabel="updates", ylabel="mean log squared error", title="held-out paths")
    for axis, name in zip(others, ("Euler", "learned", "fine solution"), strict=True):
        axis.scatter(*np.asarray(ends[name]).T, s=1, color="#0072B2", linewidths=0)
        title = f"{name}, error {scores[name]:.3f}" if name in scores else name
        axis.set(title=title, xlabel="x", ylabel="y", xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few updates, to see that it runs")
    parser.add_argument("--figure", default=FIGURE, help="where to draw (default: %(default)s)")
    given = parser.parse_args()
    gain = main(QUICK_STEPS if given.quick else STEPS, given.figure)
    print(f"score: {gain:.2f} times less error than the best hand-made table")
