"""Fine reference solutions, and how far from them a few-step sampler ends."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from odekit.learn.distill import sample_errors
from odekit.loops.table import SamplerTable, run_table
from odekit.samplers.grids import time_grid
from odekit.typing import PyTree

_fine = eqx.filter_jit(run_table)


def references(
    model: Any,
    x_init: PyTree,
    ts: ArrayLike | None = None,
    *,
    steps: int = 200,
    spacing: str = "time",
    cond: Any = None,
) -> PyTree:
    """Return the end states of the probability-flow ODE by the classical Runge-Kutta method, four evaluations a step.

    Args:
        model: a `Denoiser`.
        x_init: (n, ...) initial states.
        ts: (steps + 1,) times from noise to data; `time_grid(model.schedule, steps, spacing)` when None.
        steps: steps of the default grid. Double it and compare, to know the error.
        spacing: of the default grid; "logsnr" where the model changes fast close to the data.
        cond: handed to the model.

    Returns:
        The states at the last time, in the structure and dtypes of x_init.

    Raises:
        ValueError: some end state is non-finite, as when a prediction is converted where alpha or sigma is 0.

    Example:
        >>> reference = ok.learn.references(model, x_init)  # doctest: +SKIP
    """
    grid = time_grid(model.schedule, steps, spacing) if ts is None else ts
    end = _fine(rk4_rows(grid), model, x_init, None, cond)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(end)):
        raise ValueError("`ts` leads to non-finite end states; end it at a small positive time, such as 1e-3.")
    return end


def rk4_rows(ts: ArrayLike) -> SamplerTable:
    """Return the classical fourth-order Runge-Kutta method on the velocity: four rows a step, slots (stage, anchor)."""
    grid = np.asarray(ts, np.float64)
    dt, n = np.diff(grid), grid.size - 1
    t = np.stack([grid[:-1], grid[:-1] + dt / 2, grid[:-1] + dt / 2, grid[1:]], axis=1)
    weights = np.array([[0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 1, 0], [1 / 6, 1 / 3, 1 / 3, 1 / 6]])
    states = np.tile(np.array([[0.0, 1.0], [0.0, 1.0]]), (n, 4, 1, 1))
    evals = np.zeros((n, 4, 2, 4))
    evals[:, :, 0] = weights * dt[:, None, None]
    evals[:, 3, 1] = evals[:, 3, 0]
    leaves = (t.reshape(-1), states.reshape(-1, 2, 2), evals.reshape(-1, 2, 4))
    t_state = np.append(t.reshape(-1), grid[-1])
    t, states, evals, t_state = map(jnp.asarray, (*leaves, t_state))
    return SamplerTable(t, states, evals, None, t_state, "velocity", "RK4")


def rmse(end: PyTree, reference: PyTree) -> float:
    """Return the root mean square error over all samples and coordinates: outliers dominate it."""
    return float(jnp.sqrt(jnp.mean(sample_errors(end, reference))))


def psnr(end: PyTree, reference: PyTree, peak: float) -> float:
    """Return the mean over samples of 10 log10(peak^2 / mean squared error), in dB: the typical sample decides it."""
    return float(jnp.mean(10 * jnp.log10(peak**2 / sample_errors(end, reference))))
