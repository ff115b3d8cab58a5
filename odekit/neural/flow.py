"""Flow matching: a velocity network trained on straight paths between data (t=0) and noise (t=1)."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit import schedules
from odekit.learn.training import History, Progress, adam, fit
from odekit.samplers.denoiser import Denoiser

FREQUENCIES = 4


class VelocityMLP(eqx.Module):
    """A SiLU network of a state and a time in [0, 1], which enters as t and four octaves of sine and cosine.

    Args:
        dim: length of the state.
        width: length of each of the three hidden layers.
        key: for the initial weights.
        dtype: of the weights; JAX's default float when None.

    Example:
        >>> import jax
        >>> VelocityMLP(2, 8, key=jax.random.key(0))(jax.numpy.zeros(2), jax.numpy.ones(())).shape
        (2,)
    """

    layers: eqx.nn.MLP

    def __init__(self, dim: int, width: int, *, key: Array, dtype: Any = None):
        self.layers = eqx.nn.MLP(dim + 1 + 2 * FREQUENCIES, dim, width, 3, jax.nn.silu, dtype=dtype, key=key)

    def __call__(self, x: Array, t: Array) -> Array:
        """Return the velocity (dim,) at state `x` (dim,) and time `t` ()."""
        angles = t * jnp.array([math.pi * 2**k for k in range(FREQUENCIES)], x.dtype)
        return self.layers(jnp.concatenate([x, t[None], jnp.sin(angles), jnp.cos(angles)]))


class FlowMatching(eqx.Module):
    """A generative model whose velocity field carries noise at t=1 to data at t=0.

    Args:
        net: `net(x, t) -> velocity` for one sample, such as `VelocityMLP`.

    Example:
        >>> import jax, odekit as ok
        >>> flow = ok.neural.FlowMatching(ok.neural.VelocityMLP(2, 32, key=jax.random.key(0)))
        >>> flow.loss(jax.numpy.zeros((4, 2)), jax.random.key(1)).shape
        ()

    Source: Lipman et al., ICLR 2023 (arXiv 2210.02747), with time reversed to run from data to noise.
    """

    net: Callable[[Array, Array], Array]

    def __call__(self, x: Array, t: Array, cond: Any = None) -> Array:
        """Return the velocities (n, ...) of samples `x` (n, ...) at one time () or a time each (n,)."""
        return jax.vmap(self.net)(x, jnp.broadcast_to(t, x.shape[:1]))

    def loss(self, data: Array, key: Array) -> Array:
        """Return the mean squared error to the velocity `noise - data` at times spread evenly over [0, 1].

        Args:
            data: (n, ...) samples.
            key: for the noise, and for the offset of the n evenly spaced times.
        """
        noise_key, time_key = jax.random.split(key)
        n, dtype = data.shape[0], data.dtype
        noise = jax.random.normal(noise_key, data.shape, dtype)
        t = (jax.random.uniform(time_key, (1,), dtype) + jnp.arange(n, dtype=dtype) / n) % 1
        s = t.reshape(n, *[1] * (data.ndim - 1))
        return jnp.mean((self((1 - s) * data + s * noise, t) - (noise - data)) ** 2)

    def as_denoiser(self) -> Denoiser:
        """Return the model that `odekit.sample` and `odekit.solve` take."""
        return Denoiser(self, schedules.FlowMatching(), "velocity")


def _loss(model: FlowMatching, data: Array, key: Array) -> Array:
    return model.loss(data, key)


def train(
    model: FlowMatching,
    data: Array,
    *,
    key: Array,
    steps: int = 4000,
    batch: int = 256,
    rate: float = 1e-3,
    ema: float = 0.999,
    validation: Array | None = None,
    every: int = 500,
    progress: Progress | None = None,
) -> tuple[FlowMatching, History]:
    """Train a flow-matching model: clipped Adam under a cosine, and a running mean of the weights.

    Args:
        model: the model to start from.
        data: (n, ...) samples, about unit scale.
        key: for batches, times and noise.
        steps: number of updates.
        batch: samples in an update.
        rate: largest learning rate.
        ema: decay of the running mean, which is what is returned.
        validation: held-out samples; the weights with the lowest held-out loss are then kept.
        every: updates between checks.
        progress: `progress(done, total, note)`, called between compiled chunks.

    Returns:
        The trained model and a `History`.

    Raises:
        ValueError: batch or steps do not fit the data.
        FloatingPointError: the loss became non-finite.

    Example:
        >>> model, history = ok.neural.train(model, images, key=key)  # doctest: +SKIP
    """
    return fit(
        _loss,
        model,
        data,
        key=key,
        steps=steps,
        batch=batch,
        optimizer=adam(steps, rate),
        validation=validation,
        every=every,
        ema=ema,
        progress=progress,
    )
