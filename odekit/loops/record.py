"""What the loops pass on: the interval, the recorded steps, the end of a solve."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from odekit.trees import align
from odekit.typing import PyTree


class Span(NamedTuple):
    """The interval of every lane, `(lanes,)` each: from `t0` to `t1`, `t1 = t0 + sign * length`.

    `jumps`, (n, 1) or (n, lanes), are the times where the vector field is discontinuous; the pieces between them are
    smooth. None: it is one piece.
    """

    t0: Array
    t1: Array
    sign: Array
    length: Array
    jumps: Array | None = None

    @classmethod
    def of(cls, t0: Array, t1: Array, jumps: Array | None = None) -> "Span":
        """Return the span from t0 to t1, forwards or backwards."""
        return cls(t0, t1, jnp.where(t1 < t0, -1, 1).astype(t0.dtype), jnp.abs(t1 - t0), jumps)

    def at(self, s: Array) -> Array:
        """Return the time at elapsed length s."""
        return self.t0 + self.sign * s

    def share(self, s: Array, start: Array | None = None) -> Array:
        """Return s with the derivative of a fixed fraction of the interval, or of its smooth piece.

        `s` is an elapsed length, or with `start` the length of a step from there.
        """
        if self.jumps is None:
            s, whole = lax.stop_gradient(s), lax.stop_gradient(self.length)
            return s + s / jnp.where(whole > 0, whole, 1) * (self.length - whole)
        if start is not None:
            return self.share(start + s) - self.share(start)
        s = lax.stop_gradient(s)
        first, last = self.piece(s)
        whole = lax.stop_gradient(last - first)
        fraction = (s - lax.stop_gradient(first)) / jnp.where(whole > 0, whole, 1)
        return s + (1 - fraction) * (first - lax.stop_gradient(first)) + fraction * (last - lax.stop_gradient(last))

    def elapsed(self, ts: Array) -> Array:
        """Return the elapsed lengths at the times `ts`, (n, 1) or (n, lanes)."""
        return align(self.sign, ts) * (ts - align(self.t0, ts))

    def piece(self, s: Array) -> tuple[Array, Array]:
        """Return the elapsed lengths of the jumps, or ends, between which a step that starts at `s` lies."""
        ends, s = self.elapsed(jnp.asarray(self.jumps)), lax.stop_gradient(s)[None]
        whole = align(self.length, ends)
        first = jnp.max(jnp.where((ends > 0) & (ends <= s), ends, 0), axis=0)
        return first, jnp.min(jnp.where((s < ends) & (ends < whole), ends, whole), axis=0)

    def inside(self, t: Array, s: Array) -> Array:
        """Return t, moved to where a step that starts at the elapsed length `s` may evaluate the field.

        That is not beyond t1, and on the step's own side of a jump: the right limit at its start, the left one at its
        end.
        """
        if self.jumps is None:
            return jnp.where(self.sign > 0, jnp.minimum(t, self.t1), jnp.maximum(t, self.t1))
        sign, end, along = lax.stop_gradient(
            (self.sign, self.sign * self.t1, align(self.sign, self.jumps) * self.jumps)
        )
        ends, s = lax.stop_gradient((self.elapsed(self.jumps), s[None]))
        before = jnp.max(jnp.where(ends <= s, along, -jnp.inf), axis=0)
        after = jnp.min(jnp.where(ends > s, along, jnp.inf), axis=0)
        last = jnp.where(after <= end, jnp.nextafter(after, -jnp.inf), end)
        return sign * jnp.clip(lax.stop_gradient(sign * t), jnp.nextafter(before, jnp.inf), last)

    def smooth(self, field: Callable[..., PyTree], s: Array) -> Callable[..., PyTree]:
        """Return the field as a step from the elapsed length `s` sees it: neither beyond t1 nor across a jump."""
        return lambda t, y: field(t + lax.stop_gradient(self.inside(t, s) - t), y)


class Rows(NamedTuple):
    """The steps of a solve, one row an iteration: start, length (0 where rejected or finished), state at the start.

    `event` is the number of the event that the step ended at, -1 for none (None where no event is watched), `way` which
    way the method took (None for one that has no choice).
    """

    s: Array
    dt: Array
    y: PyTree
    event: Any = None
    way: Any = None


class Raw(NamedTuple):
    """The end of a solve: last good state, elapsed length, next step, code, steps accepted and tried, rows filled.

    `event` is the number of the event that ended the lane, -1 for none (None where no event is watched).
    """

    y: PyTree
    s: Array
    dt: Array
    code: Array
    accepted: Array
    tried: Array
    used: Array
    event: Any = None
