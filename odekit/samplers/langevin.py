"""Predictor-corrector sampling: Langevin steps between the rows of a table."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.loops.brownian import fresh_noise
from odekit.loops.table import SamplerTable, march, time_dtype
from odekit.samplers.sample import check
from odekit.schedules import Schedule
from odekit.trees import leading
from odekit.typing import PyTree, Scalar


def predictor_corrector(
    model: Any,
    schedule: Schedule,
    table: SamplerTable,
    x_init: PyTree,
    *,
    key: Array,
    snr: Scalar = 0.16,
    n_corrector: int = 1,
    last_noise: bool = False,
    cond: Any = None,
) -> PyTree:
    """Generate samples with Langevin steps before every row: the corrector of Song et al., 1 + n_corrector evaluations.

    For very many steps, hundreds and up: Langevin steps do not change the law of the data at the noise level they act
    on, whatever error the sampler has left in it. A step is `x + e score + sqrt(2 e) z` with
    `e = 2 (alpha / alpha_next)**2 (snr |z| / |score|)**2`, the norms being those of one sample, so that a sample does
    not depend on its batch. Samples must have many dimensions: in one or two, a score by chance near 0 makes a step
    of any size.

    Args:
        model: a `Denoiser`, or any object with the methods `score` and `table.view`.
        schedule: the noise schedule of the table.
        table: the predictor, of one slot: `reverse_diffusion` as published, `ddpm`, `euler_maruyama`, `ddim`.
        x_init: pytree of float arrays, samples along the leading axis of each.
        key: one key, or (batch,) keys, which make a sample independent of its batch.
        snr: size of a Langevin step; published are 0.16 for variance-exploding paths and 0.01 for others.
        n_corrector: Langevin steps before each row.
        last_noise: whether the last row adds its noise; without, the result is the mean of what it would be.
        cond: handed to the model.

    Returns:
        The samples, like `x_init`.

    Raises:
        TypeError: the model lacks a view, or x_init is not made of float arrays.
        ValueError: the table has several slots, n_corrector is negative, or the keys do not fit the batch.

    Example:
        >>> from odekit.samplers import gaussian, reverse_diffusion, time_grid
        >>> from odekit.schedules import EDM
        >>> edm = EDM()
        >>> table = reverse_diffusion(edm, time_grid(edm, 20, "karras"))
        >>> model = gaussian([1.0], 0.5, edm)
        >>> predictor_corrector(model, edm, table, jnp.zeros((3, 1)), key=jax.random.key(0)).shape
        (3, 1)

    Source: Song et al., ICLR 2021, algorithms 2-5 (arXiv 2011.13456).
    """
    x = jax.tree.map(jnp.asarray, x_init)
    check(model, table, x, key, noisy=True)
    if not callable(getattr(model, "score", None)):
        raise TypeError(f"`model` is a {type(model).__name__} without a method `score`; wrap it in a `Denoiser`.")
    if table.evals.shape[1] != 1:
        raise ValueError(f"`table` is {table.name!r} with {table.evals.shape[1]} slots; take one such as `ddpm`.")
    if n_corrector < 0:
        raise ValueError(f"`n_corrector` is {n_corrector}; it must be 0 or more.")
    if table.noise is not None and not last_noise:
        table = dataclasses.replace(table, noise=jnp.asarray(table.noise).at[-1].set(0.0))
    ratio = schedule.alpha(jnp.asarray(table.t_state[:-1])) / schedule.alpha(jnp.asarray(table.t_state[1:]))
    return _run(table.unlabelled(), model, x, key, ratio, jnp.asarray(snr, float), n_corrector, cond)


@eqx.filter_jit
def _run(table, model, x, key, ratio, snr, n_corrector, cond):
    dtype = time_dtype(x)

    def row(state, row):
        k, t, e = row
        u = state.slots[0]
        for j in range(n_corrector):  # numbered after the rows and the noise before them
            z = fresh_noise(key, table.nfe + 1 + k * n_corrector + j, u)
            u = _langevin(u, model.score(u, t, cond), z, e)
        return table.step(model, k, state._replace(slots=(u,)), key, cond), None

    rows = (jnp.arange(table.nfe, dtype=jnp.int32), table.t.astype(dtype), (2 * (ratio * snr) ** 2).astype(dtype))
    return march(row, table.init(x, key), rows)[0].slots[0]


def _langevin(x: PyTree, score: PyTree, z: PyTree, scale: Array) -> PyTree:
    e = scale * _square(z) / _square(score)

    def move(x: Array, s: Array, z: Array) -> Array:
        return x + leading(e, x).astype(x.dtype) * s + leading(jnp.sqrt(2 * e), x).astype(x.dtype) * z

    return jax.tree.map(move, x, score, z)


def _square(tree: PyTree) -> Array:
    """(batch,) squares of the norms of samples."""
    leaves = [leaf.astype(time_dtype(tree)) for leaf in jax.tree.leaves(tree)]
    total = jnp.zeros(leaves[0].shape[:1], leaves[0].dtype)
    for leaf in leaves:
        total = total + jnp.sum(leaf**2, axis=tuple(range(1, leaf.ndim)))
    return total
