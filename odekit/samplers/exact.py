"""Models whose score is known: mixtures of Gaussians, for tests, benchmarks and first steps."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.schedules import Schedule
from odekit.typing import Scalar


def _lined_up(t: Scalar, x: Array, ndim: int) -> Array:
    """`t` like `x` in dtype, a (batch,) of times reshaped to broadcast along leading axes."""
    at = jnp.asarray(t, x.dtype)
    return at.reshape(at.shape + (1,) * (ndim - at.ndim)) if at.ndim else at


class GaussianMixture(eqx.Module):
    """The exact model of data drawn from a mixture of axis-aligned Gaussians; use it where a `Denoiser` goes.

    Every view has its own closed form, finite also where alpha or sigma is 0.

    Args:
        weights: (K,) positive, adding up to 1.
        means: (K, d).
        stds: (K,) or (K, d), positive.
        schedule: the noise schedule.

    Raises:
        ValueError: the shapes do not belong together.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> model = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [0.1, 0.1], FlowMatching())
        >>> float(model.data(jnp.array([0.0]), 0.5)[0])
        0.0

    Source: Karras et al., NeurIPS 2022, appendix B.3 (arXiv 2206.00364), for the ideal denoiser.
    """

    weights: Array
    means: Array
    stds: Array
    schedule: Schedule

    def __init__(self, weights: Any, means: Any, stds: Any, schedule: Schedule):
        self.weights, self.means, self.stds = (jnp.asarray(a, float) for a in (weights, means, stds))
        shapes = self.weights.shape, self.means.shape, self.stds.shape
        if len(shapes[1]) != 2 or shapes[0] != shapes[1][:1] or shapes[2] not in (shapes[0], shapes[1]):
            found = ", ".join(map(str, shapes))
            raise ValueError(
                f"`weights`, `means`, `stds` have shapes {found}; they must be (K,), (K, d), (K,) or (K, d)."
            )
        if self.stds.ndim == 1:
            self.stds = jnp.broadcast_to(self.stds[:, None], self.means.shape)
        self.schedule = schedule

    def _posterior(self, x: Array, t: Scalar) -> tuple[Array, ...]:
        """Alpha and sigma, and per component: responsibility (..., K, 1), residual / variance, mean, variance."""
        weights, means, variances = (a.astype(x.dtype) for a in (self.weights, self.means, self.stds**2))
        t = _lined_up(t, x, x.ndim + 1)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        lead = (1,) * (x.ndim - 1)
        means, variances = means.reshape(lead + means.shape), variances.reshape(lead + variances.shape)
        total = alpha**2 * variances + sigma**2
        residual = x[..., None, :] - alpha * means
        logits = jnp.log(weights).reshape(lead + weights.shape) - 0.5 * jnp.sum(
            residual**2 / total + jnp.log(total), axis=-1
        )
        return alpha, sigma, jax.nn.softmax(logits, axis=-1)[..., None], residual / total, means, variances

    def data(self, x: Array, t: Scalar, cond: Any = None) -> Array:
        """Return the mean of the data given the state `x`, (..., d), at time `t`, () or (batch,)."""
        alpha, _, share, pull, means, variances = self._posterior(x, t)
        return jnp.sum(share * (means + alpha * variances * pull), axis=-2)

    def noise(self, x: Array, t: Scalar, cond: Any = None) -> Array:
        """Return the mean of the noise given the state `x`, (..., d), at time `t`, () or (batch,)."""
        _, sigma, share, pull, _, _ = self._posterior(x, t)
        return jnp.sum(share * sigma * pull, axis=-2)

    def velocity(self, x: Array, t: Scalar, cond: Any = None) -> Array:
        """Return `dx/dt` of the probability flow at state `x`, (..., d), and time `t`, () or (batch,)."""
        at = _lined_up(t, x, x.ndim)
        return self.schedule.alpha_dot(at) * self.data(x, t) + self.schedule.sigma_dot(at) * self.noise(x, t)

    def score(self, x: Array, t: Scalar, cond: Any = None) -> Array:
        """Return the gradient of the log density at state `x`, (..., d), and time `t`, () or (batch,)."""
        _, _, share, pull, _, _ = self._posterior(x, t)
        return -jnp.sum(share * pull, axis=-2)


def gaussian(mean: Any, std: Any, schedule: Schedule) -> GaussianMixture:
    """Return the exact model of Gaussian data, whose data prediction is affine in the state.

    Args:
        mean: (d,).
        std: () or (d,), positive.
        schedule: the noise schedule.

    Returns:
        A mixture of one component.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> float(gaussian([2.0], 1.0, FlowMatching()).data(jnp.array([1.0]), 0.5)[0])
        2.0

    Source: Karras et al., NeurIPS 2022, appendix B.3 (arXiv 2206.00364).
    """
    mean = jnp.asarray(mean, float)
    return GaussianMixture(
        jnp.ones(1), mean[None], jnp.broadcast_to(jnp.asarray(std, float), mean.shape)[None], schedule
    )
