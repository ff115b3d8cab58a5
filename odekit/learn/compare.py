"""Fine reference solutions, and how far from them a few-step sampler ends."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from odekit.learn.distill import sample_errors
from odekit.loops.table import run_table
from odekit.samplers.grids import time_grid
from odekit.samplers.rk import runge_kutta
from odekit.solvers.tableaus import RK4
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
    table = runge_kutta(model.schedule, grid, RK4(), euler_at_final=False)
    end = _fine(table.unlabelled(), model, x_init, None, cond)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(end)):
        raise ValueError("`ts` leads to non-finite end states; end it at a small positive time, such as 1e-3.")
    return end


def rmse(end: PyTree, reference: PyTree) -> float:
    """Return the root mean square error over all samples and coordinates: outliers dominate it."""
    return float(jnp.sqrt(jnp.mean(sample_errors(end, reference))))


def psnr(end: PyTree, reference: PyTree, peak: float) -> float:
    """Return the mean over samples of 10 log10(peak^2 / mean squared error), in dB: the typical sample decides it."""
    return float(jnp.mean(10 * jnp.log10(peak**2 / sample_errors(end, reference))))
