"""The density of a model's samples, by the change of variables along its probability flow."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.samplers.continuous import Alone, Held, keys_of
from odekit.solve import solve
from odekit.trees import Flat, common_real
from odekit.typing import PyTree, Scalar


class Spreading(eqx.Module):
    """The velocity of a model and its divergence, `sum p . J p` over probes; `args` is `(probes, cond)`."""

    held: Held

    def __call__(self, t: Array, state: tuple[PyTree, Array], args: Any) -> tuple[PyTree, Array]:
        """Return `(dx/dt, div dx/dt)`."""
        (x, total), (probes, cond) = state, args
        u, push = jax.linearize(lambda x: self.held().velocity(x, t, cond), x)
        along = jax.vmap(lambda p: sum(map(jnp.vdot, jax.tree.leaves(p), jax.tree.leaves(push(p)))))(probes)
        return u, jnp.sum(along).astype(total.dtype)


def log_prob(
    model: Any,
    x: PyTree,
    *,
    key: Array | None = None,
    probes: int = 1,
    prior: Callable[[PyTree], Array] | None = None,
    cond: Any = None,
    start: Scalar | None = None,
    end: Scalar | None = None,
    method: Any = None,
    rtol: Scalar = 1e-5,
    atol: Scalar = 1e-6,
    adjoint: Any = None,
    max_steps: int | None = None,
    throw: bool | str = True,
) -> Array:
    """Return the log density that the probability flow of a model gives to `x`.

    That is the density of `sample(model, ..., x)` in the limit of many steps: the flow carries `x` from data to noise,
    with the integral of its divergence, and the density of the noise is known. Without a key the divergence is exact,
    by as many derivatives as a sample has entries: for tens of them. With a key it is estimated without bias by
    Hutchinson's random signs, the same along a sample's whole path, one derivative a probe. Every sample has its own
    steps; the gradient with respect to `x` is the score, and gradients reach the model's arrays.

    Args:
        model: a `Denoiser`, or any object with a method `velocity(x, t, cond)` and a `schedule`.
        x: (batch, ...) float arrays, at time `end`.
        key: None for the exact trace; one key, or (batch,) keys, for an estimate.
        probes: how many random probes an estimate averages.
        prior: from states at time `start` to their (batch,) log densities; None for normals of deviation
            sigma(start), what samplers start from.
        cond: handed to the model, one entry a sample: leaves lead with the batch.
        start: the time of noise; None for the schedule's own.
        end: the time of data; likewise. Where the velocity is undefined without noise, end a little before.
        method: as for `solve`.
        rtol: relative tolerance.
        atol: absolute tolerance, of the state and of the log density.
        adjoint: as for `solve`.
        max_steps: as for `solve`.
        throw: as for `solve`.

    Returns:
        (batch,) natural logarithms of the density.

    Raises:
        ValueError: probes is not positive.

    Example:
        >>> import odekit as ok
        >>> model = ok.samplers.gaussian([0.0], 1.0, ok.schedules.FlowMatching())
        >>> round(float(log_prob(model, jnp.zeros((1, 1)))[0]), 3)
        -0.919

    Source: Grathwohl et al., FFJORD, ICLR 2019, eqs. 4 and 8 (arXiv 1810.01367); Song et al., ICLR 2021, eq. 39 (arXiv
    2011.13456).
    """
    if probes < 1:
        raise ValueError(f"`probes` is {probes}; give at least one.")
    x, at = jax.tree.map(jnp.asarray, x), model.schedule
    first, last = (at.t_start if start is None else start), (at.t_end if end is None else end)
    field = Spreading(Held.of(Alone(model)))

    def one(x: PyTree, key: Array | None, cond: Any) -> tuple[PyTree, Array]:
        directions = _unit_vectors(x) if key is None else _signs(key, probes, x)
        begin = x, jnp.zeros((), common_real(x))
        return solve(
            field, begin, last, first, method, (directions, cond), rtol=rtol, atol=atol, adjoint=adjoint,
            max_steps=max_steps, throw=throw,
        ).y1  # fmt: skip

    noise, growth = jax.vmap(one)(x, None if key is None else keys_of(key, x), cond)
    return growth + (_log_normal(noise, at.sigma(jnp.asarray(first, growth.dtype))) if prior is None else prior(noise))


def _unit_vectors(x: PyTree) -> PyTree:
    """Return every unit vector of a state, along a new leading axis."""
    flat = Flat.of(x, ())
    return jax.vmap(flat.restore)(jnp.eye(flat.vector.size, dtype=flat.vector.dtype))


def _signs(key: Array, count: int, x: PyTree) -> PyTree:
    """Return `count` random states of +-1, divided by the root of their number."""
    flat = Flat.of(x, ())
    signs = jax.random.rademacher(key, (count, flat.vector.size), flat.vector.dtype)
    return jax.vmap(flat.restore)(signs / math.sqrt(count))


def _log_normal(x: PyTree, std: Array) -> Array:
    """Return the log density of (batch, ...) states under independent normals."""

    def one(x: PyTree) -> Array:
        z = Flat.of(x, ()).vector / std
        return -0.5 * jnp.sum(z * z) - z.size * (jnp.log(std) + 0.5 * math.log(2 * math.pi))

    return jax.vmap(one)(x)
