"""From one row of numbers per step to the table of a method that remembers evaluations and nothing else."""

from typing import Any

import jax.numpy as jnp

from odekit.loops.table import SamplerTable
from odekit.samplers.grids import Grid
from odekit.samplers.weights import by_ring


def multistep(grid: Grid, keep: Any, ages: Any, noise: Any = None, **about: str) -> SamplerTable:
    """Return the table of `x1 = keep x0 + sum_a ages[:, a] F_{k-a} + noise z`.

    Args:
        grid: N steps.
        keep: (N,).
        ages: (N, H) weights of the row's own evaluation, the one before, and so on.
        noise: (N,) or None.
        about: view, name and source of the table.

    Returns:
        A table with one slot and a ring of H evaluations.
    """
    return SamplerTable(
        t=jnp.asarray(grid.ts[:-1]),
        states=jnp.asarray(keep)[:, None, None],
        evals=jnp.asarray(by_ring(ages, grid.xp))[:, None, :],
        noise=None if noise is None else jnp.asarray(noise)[:, None],
        t_state=jnp.asarray(grid.ts),
        **about,
    )
