"""Throw a ball so that it is at a chosen height after several bounces: events, and gradients through them."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import odekit as ok

G, KEPT = 9.81, 0.85  # m/s^2; part of the speed that a bounce leaves
HEIGHT, TARGET, T1 = 1.0, 0.15, 3.2  # m, m, s
SPEEDS = (0.5, 2.0, 3.5, 5.0)  # first guesses, m/s: each a lane with bounces of its own
STEPS, QUICK_STEPS = 30, 8
FIGURE = "bouncing_ball.png"


def fall(t, y, args):
    return jnp.stack([y[1], -G * jnp.ones_like(y[1])])


bounce = ok.Event(lambda t, y, args: y[0], "down", apply=lambda t, y, args: jnp.stack([y[0], -KEPT * y[1]]))


def height(speed, saveat=None):
    """Height at T1, or at given times, of a ball thrown upwards from HEIGHT."""
    sol = ok.solve(fall, jnp.stack([HEIGHT, speed]), 0.0, T1, event=bounce, saveat=saveat, max_steps=256)
    return sol.ys[..., 0]


@jax.jit
@jax.vmap
def newton(speed):
    """One damped step towards TARGET, by the slope through every bounce."""
    value, slope = jax.value_and_grad(lambda v: height(v)[0])(speed)
    return speed - jnp.clip((value - TARGET) / slope, -0.2, 0.2), jnp.abs(value - TARGET)


def main(steps: int, figure: str) -> float:
    speeds, ts = jnp.array(SPEEDS), jnp.linspace(0.0, T1, 400)
    for _ in range(steps):
        speeds, misses = newton(speeds)
    print(f"speeds {np.round(np.asarray(speeds), 4)} m/s miss by {np.asarray(misses)} m")
    canvas = Figure(figsize=(7.2, 2.9), layout="constrained")
    axes = canvas.subplots()
    for speed, path in zip(speeds, jax.vmap(lambda v: height(v, ts))(speeds), strict=True):
        axes.plot(ts, path, label=f"{float(speed):.2f} m/s")
    axes.plot(T1, TARGET, "k*", markersize=10, label="target")
    labels = {"xlabel": "time / s", "ylabel": "height / m", "title": "four throws that hit one target"}
    axes.set(xlim=(0, 1.02 * T1), ylim=(0, 2.9), **labels)
    axes.legend(frameon=False, ncols=5, loc="upper center")
    canvas.savefig(figure, dpi=150)
    return float(jnp.max(misses))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    parser.add_argument("--figure", default=FIGURE, help="where to draw (default: %(default)s)")
    given = parser.parse_args()
    print(f"score: largest miss {main(QUICK_STEPS if given.quick else STEPS, given.figure):.2g} m")
