"""Step-size control: the error norm, the PID family, the first step."""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.trees import align, axpy, common_real
from odekit.typing import PyTree, Scalar

_UNROLL = 16


class Damped(NamedTuple):
    """Two estimates of one error, for the controller to combine: where the lower order sees much more, less is counted.

    With mean squares `e` and `e_low` the error counts as `e / sqrt(e + 0.01 e_low)`: of higher order than either.
    Source: Hairer, Norsett & Wanner, Solving ODEs I, 1993, II.10, eq. 10.17.

    Attributes:
        err: the estimate.
        low: the one of lower order.
    """

    err: PyTree
    low: PyTree


def error_square(err: PyTree, y0: PyTree, y1: PyTree, rtol: PyTree, atol: PyTree) -> Array:
    """Return the mean over all entries of `|err / (atol + rtol max(|y0|, |y1|))|^2`, one number a lane.

    `err` may be `Damped`, two estimates in one. float16 and bfloat16 leaves are measured in float32.
    """
    size = larger(y0, y1)
    if not isinstance(err, Damped):
        return mean_square(err, size, rtol, atol)
    square, low = (mean_square(estimate, size, rtol, atol) for estimate in err)
    total = square + 0.01 * low
    return square * (square / jnp.where(total == 0, 1, total))


class PID(eqx.Module):
    """Digital-filter step-size controller; the default is the elementary I controller.

    The next step is `dt * safety * e^(-b1/q) * e'^(-b2/q) * e''^(-b3/q)`, where e, e', e'' are the error ratios of
    this and the last two accepted steps and q is the order. `b1 = icoeff + pcoeff + dcoeff`,
    `b2 = -(pcoeff + 2 dcoeff)`, `b3 = dcoeff`. The factor is worked out in float32 to a percent: exact
    powers cost a fifth of an ensemble's time.

    Args:
        rtol: relative tolerance; a scalar, or a pytree like y0 of arrays that broadcast against its leaves.
        atol: absolute tolerance, in the units of y; likewise.
        pcoeff: proportional gain.
        icoeff: integral gain.
        dcoeff: derivative gain.
        safety: factor on the asymptotically right step.
        factor_min: largest shrink of one step.
        factor_max: largest growth of one step.
        dt_min: steps are not refined below this length (None: what the time can resolve).
        dt_max: longest step allowed, in units of t.
        stops: (n,) increasing times that a step must end at (decreasing where the solve runs backwards); None for none.
            They are constants to every derivative.
        jumps: (n,) likewise, times where the vector field is discontinuous: a step ends there by the field's limit from
            before, and the next begins by the limit from after, without memory of earlier errors.
        norm: `norm(err, y0, y1, rtol, atol)`, the square of the error ratio of every lane: the mean over all entries
            unless another is given, such as the largest over the samples of a batch.

    Example:
        >>> PID(rtol=1e-8, atol=1e-8, pcoeff=0.4, icoeff=0.3).gains
        (0.7, -0.4, 0.0)

    Source: Soderlind, ACM Trans. Math. Softw. 29 (2003), table 1.
    """

    rtol: PyTree = 1e-5
    atol: PyTree = 1e-6
    pcoeff: float = eqx.field(static=True, default=0.0)
    icoeff: float = eqx.field(static=True, default=1.0)
    dcoeff: float = eqx.field(static=True, default=0.0)
    safety: float = eqx.field(static=True, default=0.9)
    factor_min: float = eqx.field(static=True, default=0.2)
    factor_max: float = eqx.field(static=True, default=10.0)
    dt_min: Scalar | None = None
    dt_max: Scalar | None = None
    stops: PyTree = None
    jumps: PyTree = None
    norm: Callable[..., Array] = eqx.field(static=True, default=error_square)

    def __check_init__(self) -> None:
        if not 0 < self.factor_min < 1 < self.factor_max:
            raise ValueError(
                f"`factor_min`, `factor_max` were {self.factor_min}, {self.factor_max}; give them on both sides of 1."
            )

    @property
    def gains(self) -> tuple[float, float, float]:
        """Return `(b1, b2, b3)`, the exponents of this and the last two error ratios."""
        b3 = 0.0 + self.dcoeff
        return self.icoeff + self.pcoeff + self.dcoeff, -(self.pcoeff + 2 * self.dcoeff), b3

    def init(self, t: Array) -> PyTree:
        """Return the logarithms of the error ratios that the gains ask for, shaped like `t`."""
        depth = 2 if self.gains[2] else 1 if self.gains[1] else 0
        return tuple(jnp.zeros_like(t, jnp.float32) for _ in range(depth))

    def __call__(
        self, order: float, err: PyTree, y0: PyTree, y1: PyTree, memory: PyTree
    ) -> tuple[Array, Array, PyTree]:
        """Return whether the step is accepted, the factor on its length (float32, NaN like the error), the new memory.

        An error that is not a number is a rejection; nothing else decides acceptance.
        """
        square = self.norm(err, y0, y1, self.rtol, self.atol)
        ok = square <= 1
        log_e = 0.5 * _log2(jnp.clip(square.astype(jnp.float32), 1e-30, 1e30))
        factor = self.safety * _exp2(self.exponent(order, log_e, memory))
        factor = jnp.clip(factor, self.factor_min, self.factor_max)
        factor = jnp.where(jnp.isnan(square), jnp.nan, factor)
        return ok, factor, remembered(ok, log_e, memory)

    def exponent(self, order: float, log_e: Array, memory: PyTree) -> Array:
        """Return the logarithm of the factor, to the base of those of the error ratios, before safety and limits."""
        logs = zip(self.gains, (log_e, *memory), strict=False)
        return jnp.asarray(sum(-b / order * e for b, e in logs if b))


def remembered(ok: Array, log_e: Array, memory: PyTree) -> PyTree:
    """Return the memory after an attempt: that of an accepted one comes first, a rejected one leaves no trace."""
    return tuple(jnp.where(ok, new, old) for new, old in zip((log_e, *memory)[: len(memory)], memory, strict=True))


def _log2(x: Array) -> Array:
    """Return the binary logarithm of float32 numbers to 0.045: their bits, read as an integer."""
    return lax.bitcast_convert_type(x, jnp.int32).astype(jnp.float32) * 2.0**-23 - 126.957


def _exp2(x: Array) -> Array:
    """Return 2^x in float32 to 0.3 %, |x| < 126: a parabola in the fraction, put in place as bits."""
    f = x - jnp.floor(x)
    bits = (x + (127 - 0.337 * (f - f * f))) * 2.0**23
    return lax.bitcast_convert_type(bits.astype(jnp.int32), jnp.float32)


def larger(y0: PyTree, y1: PyTree) -> PyTree:
    """Return `max(|y0|, |y1|)`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.maximum(jnp.abs(a), jnp.abs(b)), y0, y1)


def mean_square(values: PyTree, size: PyTree, rtol: PyTree, atol: PyTree) -> Array:
    """Return the mean of `|values / (atol + rtol size)|^2` over all axes but that of the lanes; 0 without entries."""
    rtol, atol = like(rtol, values), like(atol, values)

    def squares(v: Array, s: Array, r: Array, a: Array) -> Array:
        wide = common_real(v)
        bound = align(jnp.asarray(a, wide), s) + align(jnp.asarray(r, wide), s) * s.astype(wide)
        return _sum_leading(jnp.square(jnp.abs(v).astype(wide) / bound))

    totals = jax.tree.leaves(jax.tree.map(squares, values, size, rtol, atol))
    wide = common_real(totals)
    count = max(1, sum(v.size // v.shape[-1] for v in jax.tree.leaves(values)))
    return reduce(jnp.add, [total.astype(wide) for total in totals], jnp.zeros((), wide)) / count


def _sum_leading(x: Array) -> Array:
    """Sum over all axes but the last; small sums are written out, since a short reduction vectorises badly."""
    if any(jax.typeof(x).sharding.spec[:-1]):  # a mesh of Explicit axes splits the state: its parts stay where they are
        return jnp.sum(x, axis=tuple(range(x.ndim - 1)))
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    if not 0 < rows.shape[0] <= _UNROLL:
        return jnp.sum(rows, axis=0)
    total = rows[0]
    for i in range(1, rows.shape[0]):
        total = total + rows[i]
    return total


def like(tol: PyTree, y: PyTree) -> PyTree:
    """Return the tolerance with the structure of y: one for all leaves, or one a leaf."""
    same = jax.tree.structure(tol) == jax.tree.structure(y)
    return tol if same else jax.tree.map(lambda _: tol, y)


def first_step(
    problem: Any, order: int, t0: Array, sign: Array, span: Array, y0: PyTree, f0: PyTree, pid: PID
) -> Array:
    """Return a first step length from the size of the solution and of its first two derivatives.

    Costs one evaluation. Source: Hairer, Norsett & Wanner, Solving ODEs I, 1993, II.4 (starting step size).
    """

    def norm(values: PyTree) -> Array:
        return jnp.sqrt(mean_square(values, jax.tree.map(jnp.abs, y0), pid.rtol, pid.atol)).astype(span.dtype)

    d0, d1 = norm(y0), norm(f0)
    small = (d0 < 1e-5) | (d1 < 1e-5)
    h0 = jnp.minimum(jnp.where(small, 1e-6, 0.01 * d0 / jnp.where(small, 1, d1)), span)
    f1 = problem(t0 + sign * h0, axpy(y0, sign * h0, (1.0,), [f0]))
    change = jax.tree.map(lambda a, b: a - b, f1, f0)
    d2 = norm(change) / jnp.where(h0 > 0, h0, 1)
    steep = jnp.maximum(d1, d2)
    flat = steep <= 1e-15
    h1 = jnp.where(flat, jnp.maximum(1e-6, 1e-3 * h0), (0.01 / jnp.where(flat, 1, steep)) ** (1 / (order + 1)))
    guess = jnp.minimum(jnp.minimum(100 * h0, h1), span)
    return jnp.where(jnp.isfinite(guess) & (guess > 0), guess, 1e-3 * span)
