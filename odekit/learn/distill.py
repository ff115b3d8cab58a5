"""Distillation: fit a table's coefficients, its times or both to the end states of a fine solve."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from odekit.learn.parameters import CHOICES, Family, free_rows
from odekit.learn.training import History, Progress, fit
from odekit.loops.table import SamplerTable, run_table
from odekit.trees import cast_like
from odekit.typing import PyTree

Learned = TypeVar("Learned", bound=SamplerTable | Family)


def sample_errors(end: PyTree, reference: PyTree) -> Array:
    """Return (n,) mean squared errors, one per sample, over every coordinate of every leaf."""
    pairs = list(zip(jax.tree.leaves(end), jax.tree.leaves(reference), strict=True))
    squares = [jnp.real((a - b) * jnp.conj(a - b)).reshape(a.shape[0], -1) for a, b in pairs]
    return jnp.concatenate(squares, axis=1).mean(axis=1)


LOSSES = {
    "mean_of_log": lambda end, reference: jnp.mean(jnp.log(sample_errors(end, reference) + 1e-12)),
    "log_of_mean": lambda end, reference: jnp.log(jnp.mean(sample_errors(end, reference))),
    "mean": lambda end, reference: jnp.mean(sample_errors(end, reference)),
}


class _EndError(eqx.Module):
    """Distance of a family's samples from their references."""

    make: Callable[[PyTree], SamplerTable]
    model: Any
    distance: Callable[[PyTree, PyTree], Array] = eqx.field(static=True)

    def __call__(self, free: PyTree, batch: tuple[PyTree, PyTree], key: Array) -> Array:
        x_init, reference = batch
        return self.distance(run_table(self.make(free), self.model, x_init), reference)


def distill(
    table: Learned,
    model: Any,
    x_init: PyTree,
    reference: PyTree,
    *,
    train: Collection[str] = CHOICES,
    loss: str | Callable[[PyTree, PyTree], Array] = "mean_of_log",
    optimizer: optax.GradientTransformation | None = None,
    steps: int = 2000,
    batch: int = 256,
    validation: float | tuple[PyTree, PyTree] = 0.2,
    interval: tuple[float, float] | None = None,
    consistent: bool = False,
    every: int = 100,
    key: Array | None = None,
    progress: Progress | None = None,
) -> tuple[Learned, History]:
    """Fit a few-step table to the fine solution of the same model from the same noise.

    Training starts exactly at `table`, differentiates through all of its evaluations, and keeps what was best on
    held-out paths, so on those the result is never worse than the start. 1,024 paths are plenty for ten rows.

    Args:
        table: a deterministic `SamplerTable`, brought to its normal form so that every row is free; or a `Family`.
        model: the `Denoiser` to sample; it is not changed.
        x_init: (n, ...) initial states.
        reference: (n, ...) fine end states from the same x_init, see `references`.
        train: "coefficients", "times" or both; for a `SamplerTable` only.
        loss: "mean_of_log" lowers the typical error (it maximises the mean peak signal-to-noise ratio); "log_of_mean"
            and "mean" lower the root mean square error, which outliers dominate; or `loss(end, reference)`.
        optimizer: any optax transformation; `adam(steps)` when None: 1e-2 under a cosine to 0, clipped to
            global norm 1.
        steps: number of updates.
        batch: paths in an update; all of them when fewer are left for training.
        validation: the fraction of paths to hold out, or held-out `(x_init, reference)`.
        interval: (lowest, highest) evaluation time; the ends of `table.t_state` when None. For a `SamplerTable` only.
        consistent: keep predictions that are constant exact; for a `SamplerTable` only.
        every: updates between checks on held-out paths.
        key: for the order of the paths; `jax.random.key(0)` when None.
        progress: `progress(done, total, note)`, called between compiled chunks.

    Returns:
        What was given (table or family), trained, and a `History`.

    Raises:
        ValueError: shapes, choices or sizes do not fit, or the start gives non-finite samples.
        FloatingPointError: the loss became non-finite while training.

    Example:
        >>> learned, history = ok.learn.distill(table, model, x, ok.learn.references(model, x))  # doctest: +SKIP

    Source: Shaul et al., "Bespoke Non-Stationary Solvers", ICML 2024, with the first time freed.
    """
    _check_paths(x_init, reference)
    distance = LOSSES.get(loss) if isinstance(loss, str) else loss
    if distance is None:
        raise ValueError(f"`loss` is {loss!r}; choose one of {sorted(LOSSES)} or give a function.")
    if isinstance(table, SamplerTable):
        family = free_rows(table, interval, train=train, consistent=consistent)
    else:
        family = table
    arrays, rest = eqx.partition(family, eqx.is_inexact_array)
    family = eqx.combine(cast_like(arrays, x_init), rest)
    data, held_out = _split((x_init, reference), validation)
    free, history = fit(
        _EndError(family.make, model, distance),
        family.free,
        data,
        key=jax.random.key(0) if key is None else key,
        steps=steps,
        batch=min(batch, jax.tree.leaves(data)[0].shape[0]),
        optimizer=optimizer,
        validation=held_out,
        every=every,
        progress=progress,
    )
    family = Family(family.make, free)
    return cast(Learned, family.table() if isinstance(table, SamplerTable) else family), history


def _check_paths(x_init: PyTree, reference: PyTree) -> None:
    given, wanted = (jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree) for tree in (reference, x_init))
    if given != wanted:
        raise ValueError(f"`reference` is {given}, but x_init is {wanted}; give one end state for every initial state.")
    for name, tree in (("x_init", x_init), ("reference", reference)):
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)):
            raise ValueError(f"`{name}` has non-finite entries; drop those paths.")


def _split(paths: PyTree, validation: float | PyTree) -> tuple[PyTree, PyTree]:
    """Return training and held-out paths."""
    if not isinstance(validation, float | int):
        _check_paths(*validation)
        return paths, validation
    n = jax.tree.leaves(paths)[0].shape[0]
    cut = n - round(validation * n)
    if not 0 < cut < n:
        raise ValueError(f"`validation` is {validation}, which leaves {cut} of {n} paths to train on; give 0.1 to 0.5.")
    return jax.tree.map(lambda x: x[:cut], paths), jax.tree.map(lambda x: x[cut:], paths)
