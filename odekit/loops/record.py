"""What the loops pass on: the interval, the recorded steps, the end of a solve."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from odekit.typing import PyTree


class Span(NamedTuple):
    """The interval of every lane, `(lanes,)` each: from `t0` to `t1`, `t1 = t0 + sign * length`."""

    t0: Array
    t1: Array
    sign: Array
    length: Array

    @classmethod
    def of(cls, t0: Array, t1: Array) -> "Span":
        """Return the span from t0 to t1, forwards or backwards."""
        return cls(t0, t1, jnp.where(t1 < t0, -1, 1).astype(t0.dtype), jnp.abs(t1 - t0))

    def at(self, s: Array) -> Array:
        """Return the time at elapsed length s."""
        return self.t0 + self.sign * s

    def share(self, s: Array) -> Array:
        """Return s with the derivative of a fixed fraction of the interval."""
        s, whole = lax.stop_gradient(s), lax.stop_gradient(self.length)
        return s + s / jnp.where(whole > 0, whole, 1) * (self.length - whole)


class Rows(NamedTuple):
    """The steps of a solve, one row an iteration: start, length (0 where rejected or finished), state at the start.

    `way` is which way the method took, None for one that has no choice.
    """

    s: Array
    dt: Array
    y: PyTree
    way: Array | None = None


class Raw(NamedTuple):
    """The end of a solve: last good state, elapsed length, next step, code, steps accepted and tried, rows filled."""

    y: PyTree
    s: Array
    dt: Array
    code: Array
    accepted: Array
    tried: Array
    used: Array
