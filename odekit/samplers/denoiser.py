"""One network, four views: data, noise, velocity and score are affine in each other."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.loops.table import VIEWS, time_dtype
from odekit.schedules import Schedule
from odekit.trees import real_dtype
from odekit.typing import PyTree, Scalar


def conversion(have: str, want: str, alpha: Array, sigma: Array, alpha_dot: Array, sigma_dot: Array) -> tuple:
    """Return (p, q) with `want = p x + q have`, in one step: no third prediction is formed and amplified on the way.

    With `x = alpha data + sigma noise` every prediction is a combination of data and noise; two of them and x are
    linearly dependent, which gives p and q.
    """
    one, zero = jnp.ones_like(alpha), jnp.zeros_like(alpha)
    parts = {"data": (one, zero), "noise": (zero, one), "velocity": (alpha_dot, sigma_dot)}
    if have == "score":  # the score is -noise / sigma
        p, q = conversion("noise", want, alpha, sigma, alpha_dot, sigma_dot)
        return p, -sigma * q
    if want == "score":
        p, q = conversion(have, "noise", alpha, sigma, alpha_dot, sigma_dot)
        return -p / sigma, -q / sigma
    if have == want:
        return zero, one
    (have_data, have_noise), (want_data, want_noise) = parts[have], parts[want]
    det = alpha * have_noise - sigma * have_data
    return (want_data * have_noise - want_noise * have_data) / det, (alpha * want_noise - sigma * want_data) / det


def convert(schedule: Schedule, have: str, want: str, x: PyTree, f: PyTree, t: Array) -> PyTree:
    """Return prediction `want` at state `x` and time `t`, () or (batch,), from `f`, which is prediction `have`."""
    if want == have:
        return f
    p, q = conversion(have, want, schedule.alpha(t), schedule.sigma(t), schedule.alpha_dot(t), schedule.sigma_dot(t))

    def fit(c: Array, x: Array) -> Array:
        return c.astype(real_dtype(x.dtype)).reshape(c.shape + (1,) * (x.ndim - c.ndim))

    return jax.tree.map(lambda x, f: fit(p, x) * x + fit(q, x) * f, x, f)


class Denoiser(eqx.Module):
    """A network and its schedule, able to answer with any of the four predictions.

    Args:
        fn: `fn(x, t, cond)` returns its prediction, like `x` in structure, shape and dtype. `t` is what the caller gave
            as an array: (), or (batch,) when every sample has its own time.
        schedule: the noise schedule that the network was trained with.
        predicts: what the network returns: "noise", "data", "velocity" (dx/dt) or "score".

    Raises:
        ValueError: predicts is none of the four.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> model = Denoiser(lambda x, t, cond: -x, FlowMatching(), "velocity")
        >>> float(model.data(jnp.array([2.0]), 0.5)[0])
        3.0

    Source: Salimans & Ho, ICLR 2022 (arXiv 2202.00512), for the relations between predictions.
    """

    fn: Callable
    schedule: Schedule
    predicts: str = eqx.field(static=True, default="noise")

    def __check_init__(self):
        if self.predicts not in VIEWS:
            raise ValueError(f"`predicts` is {self.predicts!r}; it must be one of {', '.join(VIEWS)}.")

    def data(self, x: PyTree, t: Scalar, cond: Any = None) -> PyTree:
        """Return the predicted clean sample at state `x` and time `t`, () or (batch,)."""
        return self._predict("data", x, t, cond)

    def noise(self, x: PyTree, t: Scalar, cond: Any = None) -> PyTree:
        """Return the predicted noise at state `x` and time `t`, () or (batch,)."""
        return self._predict("noise", x, t, cond)

    def velocity(self, x: PyTree, t: Scalar, cond: Any = None) -> PyTree:
        """Return `dx/dt` of the probability flow at state `x` and time `t`, () or (batch,)."""
        return self._predict("velocity", x, t, cond)

    def score(self, x: PyTree, t: Scalar, cond: Any = None) -> PyTree:
        """Return the gradient of the log density at state `x` and time `t`, () or (batch,)."""
        return self._predict("score", x, t, cond)

    def _predict(self, want: str, x: PyTree, t: Scalar, cond: Any) -> PyTree:
        t = jnp.asarray(t, time_dtype(x))
        f = self.fn(x, t, cond)
        return convert(self.schedule, self.predicts, want, x, f, t)


class _Guided(eqx.Module):
    """`without + scale (with - without)` of a network with and without its condition, in one batched call."""

    fn: Callable
    scale: Array
    null_cond: PyTree

    def __call__(self, x: PyTree, t: Array, cond: Any) -> PyTree:
        if cond is None:
            raise ValueError("`cond` is None, but the model is guided; pass the condition to guide towards.")

        def pair(null: Array, given: Array) -> Array:
            given = jnp.asarray(given)
            return jnp.stack([jnp.broadcast_to(jnp.asarray(null, given.dtype), given.shape), given])

        both = jax.vmap(self.fn, in_axes=(None, None, 0))(x, t, jax.tree.map(pair, self.null_cond, cond))
        return jax.tree.map(lambda f: f[0] + self.scale.astype(real_dtype(f.dtype)) * (f[1] - f[0]), both)


def guided(model: Denoiser, scale: Scalar, null_cond: PyTree) -> Denoiser:
    """Return the model with classifier-free guidance: its answers move `scale` times as far as the condition asks.

    Both answers come from one call of the network, batched over the two conditions by `jax.vmap`, so the network may
    treat `x` and `cond` as it likes. Guidance is linear, so it is the same in every view.

    Args:
        model: a denoiser whose network uses `cond`.
        scale: 1 is no guidance, 0 ignores the condition; papers that write (1 + w) mean scale = 1 + w.
        null_cond: the condition that stands for none; structure of `cond`, its leaves broadcast to those of `cond`.

    Returns:
        A denoiser to be sampled with `cond`.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> model = Denoiser(lambda x, t, cond: cond - x, FlowMatching(), "data")
        >>> float(guided(model, 3.0, 0.0).data(jnp.array([0.0]), 0.5, jnp.array([1.0]))[0])
        3.0

    Source: Ho & Salimans, 2022 (arXiv 2207.12598).
    """
    return Denoiser(_Guided(model.fn, jnp.asarray(scale, float), null_cond), model.schedule, model.predicts)
