"""Hooks on the data prediction and on the state: limits, known pixels, walls.

Hooks on the prediction are models around models, so they act in the order in which they are put on, before a table
takes differences, and in every view. Hooks on the state are given to `sample` as `project`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.samplers.denoiser import Denoiser, fitted
from odekit.samplers.guidance import sample_axes
from odekit.schedules import Schedule
from odekit.typing import PyTree, Scalar


class _Hooked(eqx.Module):
    model: Any
    change: Callable

    def __call__(self, x: PyTree, t: Array, cond: Any) -> PyTree:
        return self.change(self.model.data(x, t, cond), x, t)


def hooked(model: Any, change: Callable[[PyTree, PyTree, Array], PyTree]) -> Denoiser:
    """Return the model whose data prediction is changed, and with it every other view.

    Args:
        model: a denoiser, or a known model with a schedule.
        change: `change(data, x, t)` returns the data prediction to use; an `eqx.Module` if it holds arrays.

    Returns:
        A denoiser that predicts the data.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> model = Denoiser(lambda x, t, cond: x, FlowMatching(), "data")
        >>> float(hooked(model, lambda data, x, t: jnp.round(data)).data(jnp.array([0.7]), 0.5)[0])
        1.0

    Source: Saharia et al., NeurIPS 2022, section 2.3 (arXiv 2205.11487), where the first such hook is.
    """
    return Denoiser(_Hooked(model, change), model.schedule, "data")


class _Threshold(eqx.Module):
    quantile: Scalar
    limit: Scalar
    sample_ndim: int | None = eqx.field(static=True)

    def __call__(self, data: PyTree, x: PyTree, t: Array) -> PyTree:
        def squeeze(d: Array) -> Array:
            limit = jnp.asarray(self.limit, d.dtype)
            axes = sample_axes(d.ndim, self.sample_ndim)
            level = jnp.quantile(jnp.abs(d), jnp.asarray(self.quantile, d.dtype), axis=axes, keepdims=True)
            top = jnp.maximum(level, limit)
            return jnp.clip(d, -top, top) * (limit / top)

        return jax.tree.map(squeeze, data)


def thresholded(
    model: Any, quantile: Scalar = 0.995, limit: Scalar = 1.0, *, sample_ndim: int | None = None
) -> Denoiser:
    """Return the model with dynamic thresholding: a sample's data prediction is squeezed into its limits.

    With `top` the quantile of a sample's absolute values, but at least `limit`, values are cut off at `top` and scaled
    by `limit / top`. For strong guidance on pixels, not for latents.

    Args:
        model: a denoiser, usually guided already.
        quantile: from 0 to 1, by linear interpolation.
        limit: the largest absolute value of the data.
        sample_ndim: number of axes of one sample; None for all axes but the first, or the only one.

    Returns:
        A denoiser that predicts the data.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> model = thresholded(Denoiser(lambda x, t, cond: x, FlowMatching(), "data"), 1.0)
        >>> model.data(jnp.array([[1.0, -4.0], [0.5, 0.25]]), 0.5).tolist()
        [[0.25, -1.0], [0.5, 0.25]]

    Source: Saharia et al., NeurIPS 2022, section 2.3 (arXiv 2205.11487).
    """
    return hooked(model, _Threshold(quantile, limit, sample_ndim))


class _Clip(eqx.Module):
    low: Scalar
    high: Scalar

    def __call__(self, data: PyTree, x: PyTree, t: Array) -> PyTree:
        def cut(d: Array) -> Array:
            return jnp.clip(d, jnp.asarray(self.low, d.dtype), jnp.asarray(self.high, d.dtype))

        return jax.tree.map(cut, data)


def clipped(model: Any, low: Scalar = -1.0, high: Scalar = 1.0) -> Denoiser:
    """Return the model with its data prediction cut off at two limits, as DDPM code does by default.

    Args:
        model: a denoiser, usually guided already.
        low: smallest value of the data.
        high: largest value of the data.

    Returns:
        A denoiser that predicts the data.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> model = clipped(Denoiser(lambda x, t, cond: x, FlowMatching(), "data"))
        >>> model.data(jnp.array([0.5, -4.0]), 0.5).tolist()
        [0.5, -1.0]

    Source: Ho et al., NeurIPS 2020 (arXiv 2006.11239).
    """
    return hooked(model, _Clip(low, high))


class _Known(eqx.Module):
    known: PyTree
    mask: PyTree

    def __call__(self, data: PyTree, x: PyTree, t: Array) -> PyTree:
        return jax.tree.map(lambda d, k, m: jnp.where(m, jnp.asarray(k, d.dtype), d), data, self.known, self.mask)


def inpainted(model: Any, known: PyTree, mask: PyTree) -> Denoiser:
    """Return the model that knows part of the data: its data prediction there is what is known.

    Deterministic and stochastic tables then end on the known values; the rest follows as far as the network looks
    from one to the other. See `replaced` for the same on the state.

    Args:
        model: a denoiser, or a known model with a schedule.
        known: like a sample, or of a shape that broadcasts to it.
        mask: booleans of the same structure, True where known.

    Returns:
        A denoiser that predicts the data.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> model = inpainted(Denoiser(lambda x, t, cond: x, FlowMatching(), "data"), 3.0, jnp.array([True, False]))
        >>> model.data(jnp.zeros(2), 0.5).tolist()
        [3.0, 0.0]

    Source: Wang, Yu & Zhang, DDNM, ICLR 2023, eq. 13 (arXiv 2212.00490), for masks.
    """
    return hooked(model, _Known(known, mask))


class _Replace(eqx.Module):
    schedule: Schedule
    known: PyTree
    mask: PyTree
    noise: PyTree

    def __call__(self, x: PyTree, t: Array) -> PyTree:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)

        def put(x: Array, known: Array, mask: Array, noise: Array) -> Array:
            known, noise = jnp.asarray(known, x.dtype), jnp.asarray(noise, x.dtype)
            return jnp.where(mask, fitted(alpha, x) * known + fitted(sigma, x) * noise, x)

        return jax.tree.map(put, x, self.known, self.mask, self.noise)


def replaced(schedule: Schedule, known: PyTree, mask: PyTree, noise: PyTree) -> Callable[[PyTree, Array], PyTree]:
    """Return the `project` that puts known data back into the state after every row, with one fixed noise.

    For tables with one slot. The first state should already be so: `project(x_init, ts[0])`.

    Args:
        schedule: the table's.
        known: like a sample, or of a shape that broadcasts to it.
        mask: booleans of the same structure, True where known.
        noise: unit normals like a sample.

    Returns:
        `project(x, t)`, a pytree.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> project = replaced(FlowMatching(), 3.0, jnp.array([True, False]), jnp.ones(2))
        >>> project(jnp.zeros(2), jnp.array(0.5)).tolist()
        [2.0, 0.0]

    Source: Song et al., ICLR 2021, appendix I.2 (arXiv 2011.13456).
    """
    return _Replace(schedule, known, mask, noise)


def reflect(x: PyTree, t: Any = None) -> PyTree:
    """Return the state folded back into the cube [0, 1]^d, as mirrors on its walls would; a `project`.

    For tables with one slot and a model of a diffusion between walls, such as `Reflected`.

    Args:
        x: pytree of float arrays.
        t: the row's time, not used.

    Returns:
        Like x, between 0 and 1.

    Example:
        >>> reflect(jnp.array([-0.25, 0.5, 1.25])).tolist()
        [0.25, 0.5, 0.75]

    Source: Lou & Ermon, ICML 2023 (arXiv 2304.04740).
    """
    return jax.tree.map(lambda x: jnp.abs(jnp.mod(x + 1, 2) - 1), x)
