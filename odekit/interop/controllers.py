"""How diffrax chooses steps, as controllers of the adaptive loop."""

from functools import reduce

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.control import PID, remembered
from odekit.typing import PyTree


class Limited(eqx.Module):
    """Our controller with diffrax's limits: an accepted step never shrinks the next, a rejected one always does.

    Powers are worked out to float32, where `PID` is content with a percent: steps are diffrax's then, at up to a fifth
    of an ensemble's time.

    Attributes:
        pid: tolerances, gains and limits.
        order: replaces the method's order where the user gave one.
    """

    pid: PID
    order: float | None = eqx.field(static=True, default=None)

    rtol = property(lambda self: self.pid.rtol)
    atol = property(lambda self: self.pid.atol)
    dt_min = property(lambda self: self.pid.dt_min)
    dt_max = property(lambda self: self.pid.dt_max)
    stops = property(lambda self: self.pid.stops)
    jumps = property(lambda self: self.pid.jumps)
    norm = property(lambda self: self.pid.norm)

    def init(self, t: Array) -> PyTree:
        """Return the memory of the controller."""
        return self.pid.init(t)

    def __call__(self, order: int, err: PyTree, y0: PyTree, y1: PyTree, memory: PyTree) -> tuple[Array, Array, PyTree]:
        """Return whether the step is accepted, the factor on its length, the new memory."""
        pid, order = self.pid, self.order or order  # pyright: ignore[reportAssignmentType]
        square = pid.norm(err, y0, y1, pid.rtol, pid.atol)
        ok = square < 1
        log_e = 0.5 * jnp.log(jnp.clip(square.astype(jnp.float32), 1e-30, 1e30))
        exponent = pid.exponent(order, log_e, memory)
        low, high = jnp.where(ok, 1.0, pid.factor_min), jnp.where(ok, pid.factor_max, pid.safety)
        factor = jnp.clip(pid.safety * jnp.exp(exponent), low.astype(jnp.float32), high.astype(jnp.float32))
        return ok, factor, remembered(ok, log_e, memory)


class Steady(eqx.Module):
    """Steps of one length, for grids whose number of steps is not known when the program is made.

    A state that is not finite ends the lane at once.
    """

    rtol = atol = dt_max = stops = jumps = None
    dt_min = float("inf")

    def init(self, t: Array) -> PyTree:
        """Return no memory."""
        return ()

    def __call__(self, order: int, err: PyTree, y0: PyTree, y1: PyTree, memory: PyTree) -> tuple[Array, Array, PyTree]:
        """Return whether the state is finite, the factor 1, no memory."""
        leaves = [jnp.all(jnp.isfinite(y), axis=tuple(range(y.ndim - 1))) for y in jax.tree.leaves(y1)]
        ok = reduce(jnp.logical_and, leaves, jnp.array(True))
        return ok, jnp.where(ok, 1.0, jnp.nan).astype(jnp.float32), ()
