"""One network, every view: data, noise, velocity, score and v are affine in each other."""

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

PREDICTIONS = (*VIEWS, "v")
"""What a network may predict; tables ask for one of the first four."""


def conversion(have: str, want: str, alpha: Array, sigma: Array, alpha_dot: Array, sigma_dot: Array) -> tuple:
    """Return (p, q) with `want = p x + q have`, in one step: no third prediction is formed and amplified on the way.

    With `x = alpha data + sigma noise` every prediction is a combination of data and noise; two of them and x are
    linearly dependent, which gives p and q.
    """
    one, zero = jnp.ones_like(alpha), jnp.zeros_like(alpha)
    parts = {"data": (one, zero), "noise": (zero, one), "velocity": (alpha_dot, sigma_dot), "v": (-sigma, alpha)}
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


def fitted(c: Array, x: Array) -> Array:
    """Return a number per sample, () or (batch,), in the precision of the state `x` and of a shape to scale it."""
    return c.astype(real_dtype(x.dtype)).reshape(c.shape + (1,) * (x.ndim - c.ndim))


def convert(schedule: Schedule, have: str, want: str, x: PyTree, f: PyTree, t: Array) -> PyTree:
    """Return prediction `want` at state `x` and time `t`, () or (batch,), from `f`, which is prediction `have`."""
    if want == have:
        return f
    p, q = conversion(have, want, schedule.alpha(t), schedule.sigma(t), schedule.alpha_dot(t), schedule.sigma_dot(t))
    return jax.tree.map(lambda x, f: fitted(p, x) * x + fitted(q, x) * f, x, f)


class Denoiser(eqx.Module):
    """A network and its schedule, able to answer with any of the predictions.

    Args:
        fn: `fn(x, t, cond)` returns its prediction, like `x` in structure, shape and dtype. `t` is what the caller gave
            as an array: (), or (batch,) when every sample has its own time.
        schedule: the noise schedule that the network was trained with.
        predicts: what the network returns: "noise", "data", "velocity" (dx/dt), "score" or "v" (alpha noise - sigma
            data).

    Raises:
        ValueError: predicts is none of the five.

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
        if self.predicts not in PREDICTIONS:
            raise ValueError(f"`predicts` is {self.predicts!r}; it must be one of {', '.join(PREDICTIONS)}.")

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

    def v(self, x: PyTree, t: Scalar, cond: Any = None) -> PyTree:
        """Return `alpha noise - sigma data` at state `x` and time `t`, () or (batch,)."""
        return self._predict("v", x, t, cond)

    def _predict(self, want: str, x: PyTree, t: Scalar, cond: Any) -> PyTree:
        t = jnp.asarray(t, time_dtype(x))
        f = self.fn(x, t, cond)
        return convert(self.schedule, self.predicts, want, x, f, t)


class _Under(eqx.Module):
    """A model's answer under another schedule, at equal lam and equal x / alpha, where data and noise are the same."""

    model: Any
    schedule: Schedule
    kind: str = eqx.field(static=True)

    def __call__(self, x: PyTree, t: Array, cond: Any) -> PyTree:
        own = self.model.schedule
        lam = self.schedule.lam(t)
        at = own.t_of_lam(lam)
        # the larger of alpha and sigma: the other may be 0, and 0 / 0 is no ratio
        signal = lam > 0
        theirs, ours = (jnp.where(signal, s.alpha(time), s.sigma(time)) for s, time in ((own, at), (self.schedule, t)))
        ratio = theirs / ours
        f = getattr(self.model, self.kind)(jax.tree.map(lambda x: fitted(ratio, x) * x, x), at, cond)
        return jax.tree.map(lambda f: f / fitted(ratio, f), f) if self.kind == "v" else f


def under(model: Any, schedule: Schedule) -> Denoiser:
    """Return a model trained under one schedule as a model under another, exactly.

    Two schedules differ only in how they scale the state and name the times: at equal lam, `x / alpha` has the same
    law, and data and noise are the same. So every sampler written for one schedule runs a network trained with any
    other, for example those of `EDM` in `sigma / alpha`. Keep the grid within the lam that the network has seen.

    Args:
        model: a denoiser, or a known model with the views "data" and `schedule`.
        schedule: the one to answer under.

    Returns:
        A denoiser that predicts data or noise if the network does, noise for one that predicts the score, else "v",
        which is well conditioned at both ends, as a velocity is.

    Example:
        >>> from odekit.schedules import EDM, FlowMatching
        >>> flow = Denoiser(lambda x, t, cond: -x, FlowMatching(), "velocity")
        >>> float(under(flow, EDM()).data(jnp.array([4.0]), 1.0)[0])
        3.0

    Source: Karras et al., NeurIPS 2022, section 2 (arXiv 2206.00364), for the change of variables.
    """
    kind = {"data": "data", "noise": "noise", "score": "noise"}.get(getattr(model, "predicts", "data"), "v")
    return Denoiser(_Under(model, schedule, kind), schedule, kind)
