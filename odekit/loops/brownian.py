"""Noise from a key and a step index: the same key gives the same path, whatever is vmapped or resumed."""

from collections.abc import Callable
from typing import cast

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


def fresh_noise(key: Array | None, k: Array, x: PyTree) -> PyTree:
    """Return unit normals like `x` from (key, row); a row of keys gives every sample its own, whatever its batch."""

    def draw(key, like):
        key = jax.random.fold_in(key, k)
        leaves, treedef = jax.tree.flatten(like)
        keys = [key] if len(leaves) == 1 else list(jax.random.split(key, len(leaves)))
        return treedef.unflatten(
            [jax.random.normal(one, leaf.shape, leaf.dtype) for one, leaf in zip(keys, leaves, strict=True)]
        )

    if key is None:
        raise ValueError("`key` is None, but the table adds noise; pass `key=jax.random.key(0)`.")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = cast(Array, jax.random.wrap_key_data(key))
    return jax.vmap(draw)(key, x) if key.ndim else draw(key, x)
