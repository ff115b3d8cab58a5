"""Noise from a key: increments by the number of a step, or a path that is a function of time.

The same key gives the same path, whatever is vmapped, resumed or refused.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit import errors
from odekit.problem import SDE
from odekit.trees import Flat, common_real, scale
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


class Terms(NamedTuple):
    """What a stochastic problem on a path answers at (t, y): drift, diffusion, and where its Brownian motion is."""

    drift: PyTree
    diffusion: PyTree
    path: PyTree


class Driven(eqx.Module):
    """A stochastic problem on a path of its own: `problem(t, y, args)` are its `Terms`.

    Nothing is stored: a path is halved again and again, down to what a float can resolve of the interval, with a normal
    drawn from the key and the number of each half, so a step that is refused and a shorter one see the same path. A
    step may so be chosen by what it has seen, and the law of the solution stays what it was. An evaluation costs 24
    (float64: 30) draws of the state's size.

    Args:
        problem: drift and diffusion.
        key: the key's data, an array that lanes can carry.
        kind: of which kind of key.
        t0: where the path starts, at 0.
        t1: where it ends.

    Source: Levy, Processus stochastiques et mouvement brownien, 1948; Jelincic, Foster & Kidger, 2024 (arXiv
    2405.06464), for one draw in the last interval.
    """

    problem: SDE
    key: Array
    kind: Any = eqx.field(static=True)
    t0: Array
    t1: Array

    @classmethod
    def of(cls, problem: SDE, key: Array, t0: Array, t1: Array) -> "Driven":
        """Return the problem on the path of `key`."""
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            key = jax.random.wrap_key_data(key)
        return cls(problem, jax.random.key_data(key), str(jax.random.key_impl(key)), t0, t1)

    def __call__(self, t: Array, y: PyTree, args: PyTree) -> Terms:
        """Return drift, diffusion and path at `(t, y)`."""
        drift, diffusion = self.problem.drift(t, y, args), self.problem.diffusion(t, y, args)
        errors.check_field(y, drift, "drift")
        errors.check_field(y, diffusion, "diffusion")
        return Terms(drift, diffusion, lax.stop_gradient(self._path(t, y)))

    def _path(self, t: Array, y: PyTree) -> PyTree:
        key, dtype = jax.random.wrap_key_data(self.key, impl=self.kind), common_real(y)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), y)
        flat = Flat.of(jax.tree.map(lambda x, z: lax.complex(z, z) if jnp.iscomplexobj(x) else z, y, zeros), ())
        t, t0, t1 = (jnp.asarray(x, dtype) for x in (t, self.t0, self.t1))
        r = jnp.clip((t - t0) / jnp.where(t1 == t0, 1, t1 - t0), 0, 1)

        def draw(number: Array, variance: Array) -> Array:
            return jnp.sqrt(variance) * jax.random.normal(jax.random.fold_in(key, number), flat.vector.shape, dtype)

        def halve(_: Any, state: tuple[Array, ...]) -> tuple[Array, ...]:
            number, r, length, left, right = state
            middle = (left + right) / 2 + draw(number, length / 4)
            beyond = r >= 0.5
            left, right = jnp.where(beyond, middle, left), jnp.where(beyond, right, middle)
            return 2 * number + beyond.astype(number.dtype), 2 * r - beyond.astype(r.dtype), length / 2, left, right

        whole, number = jnp.abs(t1 - t0), jnp.ones((), jnp.uint32)
        first = number, r, whole, jnp.zeros_like(flat.vector), draw(0 * number, whole)
        number, r, length, left, right = lax.fori_loop(0, 24 if jnp.finfo(dtype).bits == 32 else 30, halve, first)
        here = flat.restore(left + r * (right - left) + draw(number, length * r * (1 - r)))
        return jax.tree.map(lambda w: w * 0.5**0.5 if jnp.iscomplexobj(w) else w, here)
