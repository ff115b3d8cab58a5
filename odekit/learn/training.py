"""The only training loop of the package: mini-batches, clipped Adam, held-out checks, best so far."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from odekit.typing import PyTree

Progress = Callable[[int, int, str], None]
"""`progress(done, total, note)`, called on the host between compiled chunks."""


class History(NamedTuple):
    """What training saw.

    Attributes:
        loss: (steps,) mini-batch loss before each update.
        checked: (checks,) steps done at every check; the first is 0, the start.
        validation: (checks,) held-out loss at every check; NaN where nothing is held out.
    """

    loss: np.ndarray
    checked: np.ndarray
    validation: np.ndarray


class _State(NamedTuple):
    params: PyTree
    optimizer: PyTree
    average: PyTree | None
    step: Array


@functools.lru_cache
def adam(steps: int, rate: float = 1e-2) -> optax.GradientTransformation:
    """Return Adam under a cosine from `rate` to 0 over `steps`, on gradients clipped to global norm 1.

    Equal arguments give the same object, so that repeated runs share one compilation.
    """
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, steps)))


def fit(
    loss: Callable[[PyTree, PyTree, Array], Array],
    params: PyTree,
    data: PyTree,
    *,
    key: Array,
    steps: int,
    batch: int,
    optimizer: optax.GradientTransformation | None = None,
    validation: PyTree | None = None,
    every: int = 100,
    ema: float | None = None,
    progress: Progress | None = None,
) -> tuple[PyTree, History]:
    """Minimise `loss(params, batch, key)` over the inexact arrays of `params`.

    Updates run in compiled scans of `every` steps. Between them the held-out loss is taken, always under the same key,
    and the parameters with the lowest one are kept; the start counts.

    Args:
        loss: a function or a pytree callable that returns a scalar; arrays that it carries are constants.
        params: any pytree, such as an `eqx.Module`.
        data: arrays with the samples on axis 0.
        key: for the order of the samples and for `loss`.
        steps: number of updates.
        batch: samples in an update, drawn without replacement until the data is used up.
        optimizer: any optax transformation; `adam(steps)` when None.
        validation: held-out data of any length; without it the last parameters are returned.
        every: updates between checks.
        ema: decay of a running mean of the parameters, min(ema, (1 + i)/(10 + i)); the mean is checked and returned.
        progress: called as `progress(done, total, note)` after every check.

    Returns:
        The trained parameters and a `History`.

    Raises:
        ValueError: sizes do not fit, or the start has no finite loss.
        FloatingPointError: the loss became non-finite; the message says when.
    """
    n = jax.tree.leaves(data)[0].shape[0]
    if not 1 <= batch <= n:
        raise ValueError(f"`batch` is {batch} but there are {n} samples; choose 1 to {n}.")
    if steps < 1 or every < 1:
        raise ValueError(f"`steps` and `every` are {steps} and {every}; both must be at least 1.")
    order_key, loss_key, check_key = jax.random.split(key, 3)
    params, static = eqx.partition(params, eqx.is_inexact_array)
    optimizer = adam(steps) if optimizer is None else optimizer
    order = _batches(order_key, n, batch, steps)
    state = _State(params, optimizer.init(params), params if ema else None, jnp.zeros((), jnp.int32))
    # Nothing compiled here depends on this call's Python objects other than loss and optimizer.
    best, lowest = params, _check(loss, state, static, validation, check_key)
    if validation is not None and not np.isfinite(lowest):
        raise ValueError(f"the held-out loss at the start is {lowest}; start from parameters that give finite samples.")
    losses, checked, held_out = [], [0], [lowest]
    for start in range(0, steps, every):
        state, chunk = _chunk(loss, optimizer, ema, state, static, data, order[start : start + every], loss_key)
        losses.append(np.asarray(chunk))
        if not np.isfinite(losses[-1]).all():
            step = start + int(np.argmin(np.isfinite(losses[-1])))
            raise FloatingPointError(f"the loss is non-finite at step {step}; lower the learning rate.")
        value = _check(loss, state, static, validation, check_key)
        if validation is None or value < lowest:
            best, lowest = _current(state), value
        checked.append(start + len(losses[-1]))
        held_out.append(value)
        if progress is not None:
            shown = losses[-1].mean() if validation is None else lowest
            progress(checked[-1], steps, f"loss {shown:.3g}")
    return eqx.combine(best, static), History(np.concatenate(losses), np.asarray(checked), np.asarray(held_out))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _batches(key: Array, n: int, batch: int, steps: int) -> Array:
    """Return (steps, batch) sample numbers: one permutation after the other, remainders dropped."""
    per_epoch = n // batch
    keys = jax.random.split(key, -(-steps // per_epoch))
    epochs = jax.vmap(lambda key: jax.random.permutation(key, n)[: per_epoch * batch])(keys)
    return epochs.reshape(-1, batch)[:steps]


@eqx.filter_jit
def _chunk(loss, optimizer, ema, state, static, data, order, key):
    def objective(params: PyTree, samples: PyTree, key: Array) -> Array:
        return loss(eqx.combine(params, static), samples, key)

    def update(state: _State, row: Array) -> tuple[_State, Array]:
        samples = jax.tree.map(lambda x: x[row], data)
        value, grads = jax.value_and_grad(objective)(state.params, samples, jax.random.fold_in(key, state.step))
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer counts, which "strict" forbids
            delta, opt = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, delta)
        average = None if ema is None else _running_mean(state.average, params, state.step, ema)
        return _State(params, opt, average, state.step + 1), value

    return jax.lax.scan(update, state, order)


def _running_mean(average: PyTree, params: PyTree, step: Array, decay: float) -> PyTree:
    i = step.astype(jax.tree.leaves(params)[0].dtype)
    keep = jnp.minimum(decay, (1 + i) / (10 + i))
    return jax.tree.map(lambda a, p: p + keep.astype(p.dtype) * (a - p), average, params)


def _current(state: _State) -> PyTree:
    return state.params if state.average is None else state.average


def _check(loss: Any, state: _State, static: PyTree, validation: PyTree | None, key: Array) -> float:
    return float("nan") if validation is None else float(_evaluate(loss, _current(state), static, validation, key))


@eqx.filter_jit
def _evaluate(loss, params, static, data, key):
    return loss(eqx.combine(params, static), data, key)
