"""Fit a neural ODE to noisy spirals seen at irregular times, first to a prefix of each, then to the whole."""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import odekit as ok
from odekit.progress import Bar

MATRIX = ((-0.1, 2.0), (-2.0, -0.1))  # y' = y^3 @ MATRIX, elementwise cube
SPAN, SEEN, NOISE = 3.0, 20, 0.02
SERIES, TESTED, TEST_POINTS = 32, 64, 60
WIDTH, RATE = 64, 3e-3
PREFIX = 8
STEPS, QUICK_STEPS = (300, 500), (10, 10)
FIGURE = "neural_ode_spiral.png"


def spiral(t, y, args):
    return y**3 @ jnp.array(MATRIX, y.dtype)


def series(key, n, ts):
    """Solutions (n, K, 2) at times (n, K) from starts on radii 1 to 2."""
    radius_key, angle_key = jax.random.split(key)
    radius = jax.random.uniform(radius_key, (n, 1), minval=1.0, maxval=2.0)
    angle = jax.random.uniform(angle_key, (n, 1), maxval=2 * jnp.pi)
    y0 = radius * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return jax.vmap(lambda y, t: ok.solve(spiral, y, t[0], t[-1], saveat=t, rtol=2e-6, atol=1e-8).ys)(y0, ts)


def misfit(model, batch, key):
    """Mean squared error of the series that start at their first observation."""
    ts, ys = batch
    return jnp.mean((jax.vmap(model)(ys[:, 0], ts) - ys) ** 2)


def main(steps: tuple[int, int], figure: str) -> float:
    time_key, start_key, noise_key, net_key, test_key, order_key = jax.random.split(jax.random.key(0), 6)
    later = jnp.sort(jax.random.uniform(time_key, (SERIES, SEEN - 1), maxval=SPAN), axis=1)
    ts = jnp.concatenate([jnp.zeros((SERIES, 1)), later], axis=1)
    ys = series(start_key, SERIES, ts)
    seen = ys + NOISE * jax.random.normal(noise_key, ys.shape)

    model = ok.neural.NeuralODE(eqx.nn.MLP(2, 2, WIDTH, 2, jax.nn.silu, key=net_key))
    # Long trajectories stick at their mean when they are fitted from scratch, so a prefix comes first.
    for points, updates in zip((PREFIX, SEEN), steps, strict=True):
        model, history = ok.learn.fit(
            misfit, model, (ts[:, :points], seen[:, :points]), key=order_key, steps=updates, batch=SERIES,
            optimizer=ok.learn.adam(updates, RATE), progress=Bar(f"{points:2d} points"),
        )  # fmt: skip

    test_ts = jnp.tile(jnp.linspace(0.0, SPAN, TEST_POINTS)[None], (TESTED, 1))
    truth = series(test_key, TESTED, test_ts)
    guess = jax.jit(jax.vmap(model))(truth[:, 0], test_ts)
    draw(figure, ts, seen, truth, guess)
    return float(jnp.sqrt(jnp.mean((guess - truth) ** 2)))


def draw(path, ts, seen, truth, guess):
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.scatter(np.asarray(ts), np.asarray(seen[..., 0]), s=4, color="#0072B2")
    left.set(xlabel="t", ylabel="first coordinate", title="what was seen")
    for i, colour in enumerate(("#0072B2", "#009E73", "#D55E00")):
        right.plot(*np.asarray(truth[i]).T, color=colour, linewidth=3, alpha=0.35)
        right.plot(*np.asarray(guess[i]).T, color=colour, linewidth=1)
    right.set(xlabel="first coordinate", ylabel="second", title="new: truth (wide), model (thin)", aspect="equal")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few updates, to see that it runs")
    parser.add_argument("--figure", default=FIGURE, help="where to draw (default: %(default)s)")
    given = parser.parse_args()
    error = main(QUICK_STEPS if given.quick else STEPS, given.figure)
    print(f"score: root mean square error {error:.3f} on new series")
