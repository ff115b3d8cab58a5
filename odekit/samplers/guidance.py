"""Guidance: towards a condition by a second answer of the network, or towards a measurement by a gradient."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.samplers.denoiser import Denoiser, fitted
from odekit.trees import real_dtype
from odekit.typing import PyTree, Scalar


def sample_axes(ndim: int, sample_ndim: int | None) -> tuple[int, ...]:
    """Return the axes of a sample in an array of `ndim`: the last `sample_ndim`, or all but the first of many."""
    size = max(ndim - 1, min(ndim, 1)) if sample_ndim is None else sample_ndim
    return tuple(range(ndim - size, ndim))


class _Guided(eqx.Module):
    """`without + scale (with - without)` of a network with and without its condition, in one batched call."""

    fn: Callable
    scale: Array
    null_cond: PyTree
    rescale: Array | None
    interval: tuple[Scalar, Scalar] | None
    sample_ndim: int | None = eqx.field(static=True)

    def __call__(self, x: PyTree, t: Array, cond: Any) -> PyTree:
        if cond is None:
            raise ValueError("`cond` is None, but the model is guided; pass the condition to guide towards.")
        if self.interval is None:
            return self._guide(x, t, cond)
        inside = (t >= min(self.interval)) & (t <= max(self.interval))
        if t.ndim == 0:  # outside, the network is asked once
            return lax.cond(inside, lambda: self._guide(x, t, cond), lambda: self.fn(x, t, cond))
        pair = self._guide(x, t, cond), self.fn(x, t, cond)
        return jax.tree.map(lambda a, b: jnp.where(inside.reshape(t.shape + (1,) * (a.ndim - t.ndim)), a, b), *pair)

    def _guide(self, x: PyTree, t: Array, cond: Any) -> PyTree:
        def pair(null: Array, given: Array) -> Array:
            given = jnp.asarray(given)
            return jnp.stack([jnp.broadcast_to(jnp.asarray(null, given.dtype), given.shape), given])

        both = jax.vmap(self.fn, in_axes=(None, None, 0))(x, t, jax.tree.map(pair, self.null_cond, cond))
        return jax.tree.map(lambda f: self._join(f[0], f[1]), both)

    def _join(self, without: Array, given: Array) -> Array:
        dtype = real_dtype(given.dtype)
        far = without + self.scale.astype(dtype) * (given - without)
        if self.rescale is None:
            return far
        axes = sample_axes(given.ndim, self.sample_ndim)
        spread, wanted = jnp.std(far, axis=axes, keepdims=True), jnp.std(given, axis=axes, keepdims=True)
        ratio = jnp.where(spread > 0, wanted / jnp.where(spread > 0, spread, 1.0), 1.0)
        return far * (1 + self.rescale.astype(dtype) * (ratio - 1))


def guided(
    model: Denoiser,
    scale: Scalar,
    null_cond: PyTree,
    *,
    rescale: Scalar | None = None,
    interval: tuple[Scalar, Scalar] | None = None,
    sample_ndim: int | None = None,
) -> Denoiser:
    """Return the model with classifier-free guidance: its answers move `scale` times as far as the condition asks.

    Both answers come from one call of the network, batched over the two conditions by `jax.vmap`, so the network may
    treat `x` and `cond` as it likes. Guidance is linear, so it is the same in every view; rescaling is not, and acts on
    what the network predicts. Constraints such as `thresholded` go around a guided model.

    Args:
        model: a denoiser whose network uses `cond`.
        scale: 1 is no guidance, 0 ignores the condition; papers that write (1 + w) mean scale = 1 + w.
        null_cond: the condition that stands for none; structure of `cond`, its leaves broadcast to those of `cond`.
        rescale: from 0, none, to 1, the guided answer of a sample gets the standard deviation of the conditional one;
            0.7 is usual.
        interval: two times of the model's schedule, outside of which only the condition is asked; with one time for
            all samples the second answer is not computed there.
        sample_ndim: number of axes of one sample, for `rescale`; None for all axes but the first, or the only one.

    Returns:
        A denoiser to be sampled with `cond`.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> model = Denoiser(lambda x, t, cond: cond - x, FlowMatching(), "data")
        >>> float(guided(model, 3.0, 0.0).data(jnp.array([0.0]), 0.5, jnp.array([1.0]))[0])
        3.0

    Source: Ho & Salimans, 2022 (arXiv 2207.12598); rescale: Lin et al., WACV 2024, eqs. 14-16 (arXiv 2305.08891);
    interval: Kynkaanniemi et al., NeurIPS 2024 (arXiv 2404.07724).
    """
    factor = None if rescale is None else jnp.asarray(rescale, float)
    fn = _Guided(model.fn, jnp.asarray(scale, float), null_cond, factor, interval, sample_ndim)
    return Denoiser(fn, model.schedule, model.predicts)


class _Measured(eqx.Module):
    """A data prediction moved down the gradient of a misfit."""

    model: Any
    residual: Callable
    scale: Any
    squared: bool = eqx.field(static=True)
    through_network: bool = eqx.field(static=True)
    sample_ndim: int | None = eqx.field(static=True)

    def _misfit(self, data: PyTree) -> Array:
        total = jnp.zeros(())
        for r in jax.tree.leaves(self.residual(data)):
            if self.squared:
                part = 0.5 * jnp.sum(r**2)
            else:
                square = jnp.sum(r**2, axis=sample_axes(r.ndim, self.sample_ndim))
                part = jnp.sum(jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0))
            total = total + part.astype(total.dtype)
        return total

    def __call__(self, x: PyTree, t: Array, cond: Any) -> PyTree:
        scale = jnp.asarray(self.scale(t) if callable(self.scale) else self.scale, t.dtype)
        if not self.through_network:
            data = self.model.data(x, t, cond)
            slope = jax.grad(self._misfit)(data)
        else:

            def misfit(x: PyTree) -> tuple[Array, PyTree]:
                data = self.model.data(x, t, cond)
                return self._misfit(data), data

            slope, data = jax.grad(misfit, has_aux=True)(x)
            alpha, sigma = self.model.schedule.alpha(t), self.model.schedule.sigma(t)
            some = alpha > 0  # pure noise says nothing of the data, nor does the network's slope there
            scale = scale * jnp.where(some, sigma**2 / jnp.where(some, alpha, 1.0), 0.0)
        return jax.tree.map(lambda d, g: d - fitted(scale, d) * g, data, slope)


def guided_by(
    model: Any,
    residual: Callable[[PyTree], PyTree],
    scale: Scalar | Callable[[Array], Array],
    *,
    squared: bool = True,
    through_network: bool = True,
    sample_ndim: int | None = None,
) -> Denoiser:
    """Return the model guided towards data whose residual is small: a measurement met, an equation satisfied.

    The score gains `-scale grad_x misfit(data(x))`, which is posterior sampling of a measurement with Gaussian noise of
    variance `1 / scale` as far as the data given the state are concentrated. One reverse pass through the network per
    evaluation, and none with `through_network=False`, where the data prediction itself moves down its own gradient.

    Args:
        model: a denoiser, or a known model with a schedule.
        residual: `residual(data)` is zero where all is well: `A(data) - y`, or the left side of a PDE. Any structure
            of arrays.
        scale: a number or `scale(t)`.
        squared: whether the misfit is half the square of the residual's norm, or the norm itself, of each sample, whose
            gradient does not fade as it is met.
        through_network: whether the gradient is with respect to the state, or to the data prediction.
        sample_ndim: number of axes of one residual, for the norm; None for all axes but the first, or the only one.

    Returns:
        A denoiser that predicts the data; where alpha is 0 it is not guided through the network.

    Example:
        >>> from odekit.samplers import gaussian
        >>> from odekit.schedules import FlowMatching
        >>> model = guided_by(gaussian([0.0], 1.0, FlowMatching()), lambda data: data - 1.0, 1.0)
        >>> float(model.data(jnp.array([0.0]), 0.5)[0])
        0.5

    Source: Chung et al., ICLR 2023 (arXiv 2209.14687); Huang et al., DiffusionPDE, NeurIPS 2024 (arXiv 2406.17763).
    """
    return Denoiser(_Measured(model, residual, scale, squared, through_network, sample_ndim), model.schedule, "data")
