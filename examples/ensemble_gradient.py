"""Fit one set of rates to many predator-prey solutions at once: `vmap` for the ensemble, `grad` through it."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import odekit as ok

TRUE = (1.1, 0.4, 0.4, 0.1)  # growth, predation, death, gain
GUESS = (0.8, 0.3, 0.6, 0.2)
T1, SAVED = 8.0, 17
LANES, QUICK_LANES = 256, 16
STEPS, QUICK_STEPS = 200, 10
RATE = 0.05
FIGURE = "ensemble_gradient.png"


def lotka_volterra(t, y, rates):
    growth, predation, death, gain = rates
    prey, predators = y
    return jnp.stack([prey * (growth - predation * predators), predators * (gain * prey - death)])


def solutions(rates, y0):
    """All lanes (lanes, SAVED, 2) in one loop, each with its own steps."""

    def one(y0):
        return ok.solve(
            lotka_volterra, y0, 0.0, T1, args=rates, saveat=jnp.linspace(0, T1, SAVED), rtol=1e-5, atol=1e-7
        )

    return jax.vmap(one)(y0).ys


def main(lanes: int, steps: int, figure: str) -> float:
    y0 = jax.random.uniform(jax.random.key(0), (lanes, 2), minval=1.0, maxval=8.0)
    truth, scale = solutions(jnp.array(TRUE), y0), jnp.array([8.0, 4.0])

    @jax.jit
    def update(logs, state):
        def misfit(logs):
            return jnp.mean(((solutions(jnp.exp(logs), y0) - truth) / scale) ** 2)  # rates stay positive

        loss, grads = jax.value_and_grad(misfit)(logs)
        change, state = optimizer.update(grads, state)
        return optax.apply_updates(logs, change), state, loss

    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    logs = jnp.log(jnp.array(GUESS))
    before, state, losses = solutions(jnp.exp(logs), y0), optimizer.init(logs), []
    for _ in range(steps):
        logs, state, loss = update(logs, state)
        losses.append(float(loss))
    rates = np.exp(np.asarray(logs))
    print(f"rates {np.round(rates, 4)}, true {TRUE}")
    draw(figure, losses, truth[0], before[0], solutions(jnp.exp(logs), y0)[0])
    return float(np.abs(rates / np.array(TRUE) - 1).max())


def draw(path, losses, truth, before, after):
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogy(losses, color="#D55E00")
    left.set(xlabel="updates", ylabel="scaled mean squared error", title="misfit of all lanes")
    ts = np.linspace(0, T1, SAVED)
    right.plot(ts, np.asarray(truth[:, 0]), "o", color="#999999", label="prey, given")
    right.plot(ts, np.asarray(before[:, 0]), "--", color="#0072B2", label="first guess")
    right.plot(ts, np.asarray(after[:, 0]), color="#D55E00", label="fitted")
    right.set(xlabel="t", ylabel="prey", title="one lane of the ensemble")
    right.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few lanes and updates, to see that it runs")
    parser.add_argument("--figure", default=FIGURE, help="where to draw (default: %(default)s)")
    given = parser.parse_args()
    sizes = (QUICK_LANES, QUICK_STEPS) if given.quick else (LANES, STEPS)
    error = main(*sizes, given.figure)
    print(f"score: largest relative error of a rate {error:.2g}")
