"""Models whose score is known: mixtures of Gaussians and finite data sets, for tests, benchmarks and first steps."""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from odekit.samplers.denoiser import Denoiser
from odekit.schedules import Schedule
from odekit.typing import Scalar


def _lined_up(t: Scalar, x: Array, ndim: int) -> Array:
    """`t` like `x` in dtype, a (batch,) of times reshaped to broadcast along leading axes."""
    at = jnp.asarray(t, x.dtype)
    return at.reshape(at.shape + (1,) * (ndim - at.ndim)) if at.ndim else at


def _shares(logits: Array) -> Array:
    return jax.nn.softmax(logits, axis=-1)[..., None]


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
        """Alpha and sigma, and per component: logit (..., K), residual / variance, mean, variance."""
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
        return alpha, sigma, logits, residual / total, means, variances

    def log_prob(self, x: Array, t: Scalar = 0.0) -> Array:
        """Return the log density, (...), of states `x`, (..., d), at time `t`, () or (batch,), in nats."""
        _, _, logits, *_ = self._posterior(x, t)
        return jax.nn.logsumexp(logits, axis=-1) - 0.5 * x.shape[-1] * math.log(2 * math.pi)

    def data(self, x: Array, t: Scalar, cond: Any = None) -> Array:
        """Return the mean of the data given the state `x`, (..., d), at time `t`, () or (batch,)."""
        alpha, _, logits, pull, means, variances = self._posterior(x, t)
        return jnp.sum(_shares(logits) * (means + alpha * variances * pull), axis=-2)

    def noise(self, x: Array, t: Scalar, cond: Any = None) -> Array:
        """Return the mean of the noise given the state `x`, (..., d), at time `t`, () or (batch,)."""
        _, sigma, logits, pull, _, _ = self._posterior(x, t)
        return jnp.sum(_shares(logits) * sigma * pull, axis=-2)

    def velocity(self, x: Array, t: Scalar, cond: Any = None) -> Array:
        """Return `dx/dt` of the probability flow at state `x`, (..., d), and time `t`, () or (batch,)."""
        at = _lined_up(t, x, x.ndim)
        return self.schedule.alpha_dot(at) * self.data(x, t) + self.schedule.sigma_dot(at) * self.noise(x, t)

    def score(self, x: Array, t: Scalar, cond: Any = None) -> Array:
        """Return the gradient of the log density at state `x`, (..., d), and time `t`, () or (batch,)."""
        _, _, logits, pull, _, _ = self._posterior(x, t)
        return -jnp.sum(_shares(logits) * pull, axis=-2)


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


class _OneView(eqx.Module):
    """A known model with one closed form, from which the other views follow."""

    schedule: eqx.AbstractVar[Schedule]

    @abc.abstractmethod
    def _denoiser(self) -> Denoiser:
        """Return the closed form as a network."""

    def data(self, x: Array, t: Scalar, cond: Any = None) -> Array:
        """Return the mean of the data given the state `x`, (..., *sample), at time `t`, () or (batch,)."""
        return self._denoiser().data(x, t)

    def noise(self, x: Array, t: Scalar, cond: Any = None) -> Array:
        """Return the mean of the noise given the state `x`, (..., *sample), at time `t`, () or (batch,)."""
        return self._denoiser().noise(x, t)

    def velocity(self, x: Array, t: Scalar, cond: Any = None) -> Array:
        """Return `dx/dt` of the probability flow at state `x`, (..., *sample), and time `t`, () or (batch,)."""
        return self._denoiser().velocity(x, t)

    def score(self, x: Array, t: Scalar, cond: Any = None) -> Array:
        """Return the gradient of the log density at state `x`, (..., *sample), and time `t`, () or (batch,)."""
        return self._denoiser().score(x, t)


class Empirical(_OneView):
    """The exact model of a finite data set, whose samples are the data again; use it where a `Denoiser` goes.

    What a network that fitted its training set perfectly would answer: the data, averaged by how likely each explains
    the state. Distances are differences, not expanded squares, so that float32 holds at little noise. The whole batch
    meets the whole data set at once: (batch, n) weights, and up to (batch, n, ...) differences where the compiler does
    not fuse them into their sums; under `jax.lax.map` over the batch, a batch of one.

    Args:
        samples: (n, ...), each sample of any shape.
        schedule: the noise schedule.

    Raises:
        ValueError: samples has no samples.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> float(Empirical([[-1.0], [1.0]], FlowMatching()).data(jnp.array([0.5]), 0.1)[0])
        1.0

    Source: Karras et al., NeurIPS 2022, appendix B.3 (arXiv 2206.00364).
    """

    samples: Array
    schedule: Schedule

    def __init__(self, samples: Any, schedule: Schedule):
        self.samples, self.schedule = jnp.asarray(samples, float), schedule
        if self.samples.ndim < 2 or not self.samples.size:
            raise ValueError(f"`samples` has shape {self.samples.shape}; it must be (n, ...), a row for each sample.")

    def _distances(self, x: Array, t: Scalar) -> tuple[Array, Array]:
        """Squared distances from alpha times each sample, (..., n), and sigma, of a shape to go with them."""
        lead = x.shape[: x.ndim - self.samples.ndim + 1]
        samples = self.samples.astype(x.dtype).reshape((1,) * len(lead) + (len(self.samples), -1))
        at = _lined_up(t, x, len(lead) + 2)
        square = jnp.sum((x.reshape(*lead, 1, -1) - self.schedule.alpha(at) * samples) ** 2, axis=-1)
        return square, self.schedule.sigma(at[..., 0] if at.ndim else at)

    def log_prob(self, x: Array, t: Scalar) -> Array:
        """Return the log density, (...), of states `x` at time `t`, () or (batch,), in nats; infinite without noise."""
        square, sigma = self._distances(x, t)
        n, size = len(self.samples), self.samples[0].size
        unit = jnp.log(2 * math.pi * sigma[..., 0] ** 2 if sigma.ndim else 2 * math.pi * sigma**2)
        return jax.nn.logsumexp(-0.5 * square / sigma**2, axis=-1) - math.log(n) - 0.5 * size * unit

    def _denoiser(self) -> Denoiser:
        return Denoiser(self._mean, self.schedule, "data")

    def _mean(self, x: Array, t: Scalar, cond: Any) -> Array:
        square, sigma = self._distances(x, t)
        excess = square - jnp.min(square, axis=-1, keepdims=True)
        far = excess > 0  # without noise, the nearest sample takes all
        logits = jnp.where(far, -0.5 * jnp.where(far, excess, 1.0) / sigma**2, 0.0)
        flat = self.samples.astype(x.dtype).reshape(len(self.samples), -1)
        return jnp.matmul(jax.nn.softmax(logits, axis=-1), flat, precision="highest").reshape(x.shape)


_ROOT = math.sqrt(2 * math.pi)
_IMAGES, _WAVES, _CROSSOVER = 3, 6, 0.5  # either sum is exact to rounding at a noise level of a half


class Reflected(_OneView):
    """The exact model of a finite data set in a cube whose walls reflect the noise; sample it with `project=reflect`.

    States start uniform on [0, 1]^d once the noise level is about 2. The kernel is the Gaussian folded at the walls:
    a sum of its images for little noise, of eigenfunctions for much. Meets the whole data set, as `Empirical` does.
    The views "data" and "noise" are those of a network that predicts this score.

    Args:
        samples: (n, d), between 0 and 1.
        schedule: one that leaves the data alone, such as `VE` or `EDM`.

    Raises:
        ValueError: samples is not (n, d) or not in the cube, or alpha is not 1.

    Example:
        >>> from odekit.schedules import EDM
        >>> abs(round(float(Reflected([[0.3]], EDM()).score(jnp.array([0.5]), 2.0)[0]), 6))
        0.0

    Source: Lou & Ermon, ICML 2023 (arXiv 2304.04740).
    """

    samples: Array
    schedule: Schedule

    def __init__(self, samples: Any, schedule: Schedule):
        samples = np.asarray(samples)
        if samples.ndim != 2 or not samples.size or not np.all((samples >= 0) & (samples <= 1)):
            raise ValueError(f"`samples` of shape {samples.shape} must be (n, d), between 0 and 1.")
        if np.any(schedule.alpha(np.linspace(schedule.t_start, schedule.t_end, 5)) != 1):
            raise ValueError(f"`schedule` is {type(schedule).__name__}, which shrinks the data; use `VE` or `EDM`.")
        self.samples, self.schedule = jnp.asarray(samples, float), schedule

    def log_prob(self, x: Array, t: Scalar) -> Array:
        """Return the log density, (...), of states `x`, (..., d), at time `t`, () or (batch,), in nats."""
        lead = (1,) * (x.ndim - 1)
        sigma = self.schedule.sigma(_lined_up(t, x, x.ndim + 2))
        y = self.samples.astype(x.dtype).reshape((*lead, *self.samples.shape, 1))
        x = x[..., None, :, None]
        shift = (2.0 * jnp.arange(-_IMAGES, _IMAGES + 1, dtype=x.dtype)).reshape((*lead, 1, 1, -1))
        away = jnp.concatenate([x - y - shift, x + y - shift], axis=-1)
        near = jax.nn.logsumexp(-0.5 * (away / sigma) ** 2, axis=-1, keepdims=True) - jnp.log(sigma * _ROOT)
        k = (math.pi * jnp.arange(1.0, _WAVES + 1, dtype=x.dtype)).reshape((*lead, 1, 1, -1))
        waves = jnp.exp(-0.5 * (k * sigma) ** 2) * jnp.cos(k * x) * jnp.cos(k * y)
        wide, much = jnp.sum(waves, axis=-1, keepdims=True), sigma > _CROSSOVER
        kernel = jnp.where(much, jnp.log1p(jnp.where(much, 2 * wide, 0.0)), near)
        return jax.nn.logsumexp(jnp.sum(kernel[..., 0], axis=-1), axis=-1) - math.log(len(self.samples))

    def _denoiser(self) -> Denoiser:
        return Denoiser(lambda x, t, cond: jax.grad(lambda x: jnp.sum(self.log_prob(x, t)))(x), self.schedule, "score")
