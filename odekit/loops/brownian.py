"""Noise from a key and a step index: the same key gives the same path, whatever is vmapped or resumed."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from odekit.trees import scale
from odekit.typing import PyTree


def increments(key: Array) -> Callable[[Array, Array, PyTree], PyTree]:
    """Return `noise(k, dt, y) -> dw`: independent normal increments of variance |dt|, shaped like y, for step k.

    Complex leaves get a real and an imaginary part of variance |dt| / 2 each.
    """

    def noise(k: Array, dt: Array, y: PyTree) -> PyTree:
        leaves, tree = jax.tree.flatten(y)
        keys = jax.random.split(jax.random.fold_in(key, k), len(leaves))
        draws = [jax.random.normal(one, leaf.shape, leaf.dtype) for one, leaf in zip(keys, leaves, strict=True)]
        return scale(jnp.sqrt(jnp.abs(dt)), jax.tree.unflatten(tree, draws))

    return noise
