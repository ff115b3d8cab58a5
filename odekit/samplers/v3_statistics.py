"""What DPM-Solver-v3 measures on a model: how its prediction moves with the state and along the flow."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from odekit.loops.table import march
from odekit.samplers.grids import time_grid


class V3Statistics(eqx.Module):
    """Statistics of a model at M+1 values of lam, for every pixel of a sample.

    With `y = x/alpha` and `f = (1 - linear) y - data`: `1 - linear` is the mean derivative of a pixel's data prediction
    with respect to that pixel of y, and `slope f + constant` the best linear prediction of `df/dlam` along the
    probability flow. Write them to a file with `odekit.save`. With linear 1, slope 0 and constant 0 `dpm_v3` is
    DPM-Solver++, with 0, -1 and 0 it is DPM-Solver.

    Args:
        lam: (M+1,) increasing by equal steps, at least five.
        linear: (M+1, ...), l in the paper.
        slope: (M+1, ...), s in the paper.
        constant: (M+1, ...), b in the paper.

    Raises:
        ValueError: the shapes do not belong together, or lam does not increase by equal steps.

    Example:
        >>> V3Statistics(np.linspace(-5.0, 4.5, 9), np.ones((9, 2)), np.zeros((9, 2)), np.zeros((9, 2))).lam.shape
        (9,)

    Source: Zheng et al., DPM-Solver-v3, NeurIPS 2023, section 3.1 (arXiv 2310.13268).
    """

    lam: Any
    linear: Any
    slope: Any
    constant: Any

    def __check_init__(self) -> None:
        shapes = [jnp.shape(leaf) for leaf in (self.lam, self.linear, self.slope, self.constant)]
        if len(shapes[0]) != 1 or shapes[0][0] < 5 or shapes[1][:1] != shapes[0] or len(set(shapes[1:])) > 1:
            found = ", ".join(map(str, shapes))
            raise ValueError(
                f"`lam`, `linear`, `slope`, `constant` have shapes {found}; they must be (M,) and (M, ...), M over 4."
            )
        steps = None if isinstance(self.lam, Tracer) else np.diff(np.asarray(self.lam))
        if steps is not None and not (steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3)):
            raise ValueError(
                f"`lam` has steps from {steps.min():g} to {steps.max():g}; they must be equal and positive."
            )


class Point(NamedTuple):
    """The statistics at some values of lam, interpolated, and their integrals from the first lam.

    Attributes:
        linear: l.
        linear_sum: the integral of l.
        slope_sum: the integral of s.
        shift_sum: the integral of exp(-slope_sum) b.
    """

    linear: Any
    linear_sum: Any
    slope_sum: Any
    shift_sum: Any


class Curves(NamedTuple):
    """The statistics as functions of lam, by cubic Hermite interpolation: (4, M+1, ...) values and their rates."""

    xp: Any
    lam: Any
    values: Any
    rates: Any

    @classmethod
    def of(cls, statistics: V3Statistics, xp: Any, dtype: Any) -> "Curves":
        """Return the curves through measured values for lam in `xp` and `dtype`; known values are summed in NumPy."""
        leaves = jax.tree.leaves(statistics)
        known = not any(isinstance(leaf, Tracer) for leaf in leaves)
        lam, linear, slope, constant = (np.asarray(leaf, np.float64) if known else leaf for leaf in leaves)
        own, step = (np if known else jnp), (lam[-1] - lam[0]) / (len(lam) - 1)
        linear_sum, slope_sum = _sum(own, linear, step), _sum(own, slope, step)
        shift = own.exp(-slope_sum) * constant
        values = own.stack([linear, linear_sum, slope_sum, _sum(own, shift, step)])
        rates = own.stack([_rate(own, linear, step), linear, slope, shift])
        return cls(xp, *(xp.asarray(curve, dtype) for curve in (lam, values, rates)))

    def at(self, lam: Any) -> Point:
        """Return the point at `lam` of any shape; beyond the ends, that at the end."""
        step = (self.lam[-1] - self.lam[0]) / (len(self.lam) - 1)
        place = self.xp.clip((lam - self.lam[0]) / step, 0, len(self.lam) - 1)
        i = self.xp.clip(self.xp.floor(place).astype("int32"), 0, len(self.lam) - 2)
        theta = (place - i.astype(place.dtype)).reshape((1, *lam.shape) + (1,) * (self.values.ndim - 2))
        rest, (v0, v1), (r0, r1) = 1 - theta, *((curve[:, i], curve[:, i + 1]) for curve in (self.values, self.rates))
        ends = rest**2 * (1 + 2 * theta) * v0 + theta**2 * (3 - 2 * theta) * v1
        return Point(*(ends + step * theta * rest * (rest * r0 - theta * r1)))


def _rate(xp: Any, values: Any, step: Any) -> Any:
    """Return the derivative of equally spaced values, to fourth order also at the ends."""
    inner = values[:-4] - 8 * values[1:-3] + 8 * values[3:-1] - values[4:]
    weights = ((-25, 48, -36, 16, -3), (-3, -10, 18, -6, 1))
    head, tail = (
        [sign * sum(w * end[j] for j, w in enumerate(row)) for row in weights]
        for sign, end in ((1, values), (-1, values[::-1]))
    )
    return xp.concatenate([xp.stack(head), inner, xp.stack(tail[::-1])]) / (12 * step)


def _sum(xp: Any, values: Any, step: Any) -> Any:
    """Return the integral from the first of equally spaced values to each, to fourth order."""
    rates = _rate(xp, values, step)
    parts = step / 2 * (values[1:] + values[:-1]) - step**2 / 12 * (rates[1:] - rates[:-1])
    return xp.concatenate([xp.zeros_like(values[:1]), xp.cumsum(parts, axis=0)])


def v3_statistics(
    model: Any,
    x_init: Array,
    n: int = 600,
    *,
    start: float | None = None,
    end: float | None = None,
    data: Array | None = None,
    key: Array | None = None,
    cond: Any = None,
) -> V3Statistics:
    """Measure what `dpm_v3` needs of a model, once for all grids and budgets.

    Samples move along the probability flow in n steps of order 2, or are given data with more and less noise. Each step
    costs one linearised evaluation of the network and one derivative along the flow, and one derivative for each
    coordinate, or with a key a single one.

    Args:
        model: offers `data(x, t, cond)` and `schedule`; where a batch is too large for the network, let it work through
            the batch in parts.
        x_init: (batch, ...) states at the start, usually sigma times unit normals; 1,000 to 4,000 of them.
        n: steps, equal in lam; the paper takes 120 to 1,200.
        start: first time; None for the schedule's own. There must be data in it.
        end: last time; None for the schedule's own. There must be noise in it.
        data: (batch, ...) clean samples, the states at every lam being these with the noise of x_init, as in the paper;
            None where there are none but the model's own.
        key: draws for every sample the signs of one random probe of the Jacobian's diagonal, kept along its way; None
            for the exact diagonal, which suits few coordinates.
        cond: handed to the model.

    Returns:
        The statistics at n+1 values of lam, for samples of shape x_init.shape[1:].

    Raises:
        ValueError: n is less than 4, or lam is infinite at an end.

    Example:
        >>> from odekit.samplers import gaussian
        >>> from odekit.schedules import VPLinear
        >>> v3_statistics(gaussian([1.0], 0.5, VPLinear()), jnp.ones((8, 1)), 20).linear.shape
        (21, 1)

    Source: Zheng et al., DPM-Solver-v3, NeurIPS 2023, eqs. 8-10 and appendix C.1 (arXiv 2310.13268).
    """
    if n < 4:
        raise ValueError(f"`n` is {n}; derivatives along the flow need at least four steps.")
    schedule = model.schedule
    ts = time_grid(schedule, 1, start=start, end="min" if end is None else end)
    lam = schedule.lam(ts)
    if not np.all(np.isfinite(lam)):
        raise ValueError(f"lam is {lam} at the ends {ts}; give a `start` with some data and an `end` with some noise.")
    lam = jnp.asarray(np.linspace(lam[0], lam[1], n + 1))
    x = jnp.asarray(x_init)
    probe = None if key is None else jax.random.rademacher(key, x.shape, x.dtype)
    y, z = x / float(schedule.alpha(ts[0])), x / float(schedule.sigma(ts[0]))
    noised = None if data is None else (jnp.asarray(data, x.dtype), z)
    return V3Statistics(lam, *_measure(model, y, noised, lam.astype(x.dtype), probe, cond))


@eqx.filter_jit
def _measure(
    model: Any, y: Array, noised: tuple | None, lam: Array, probe: Array | None, cond: Any
) -> tuple[Array, Array, Array]:
    """Return linear, slope and constant at every lam, from the states y = x/alpha at the first or from data and noise.

    In y and lam the flow is dy/dlam = data - y.
    """
    schedule, wide = model.schedule, jax.dtypes.canonicalize_dtype(np.float64)

    def predict(y: Array, lam: Array) -> Array:
        t = schedule.t_of_lam(lam)
        return model.data(schedule.alpha(t) * y, t, cond)

    def row(y: Array, lam: Array) -> tuple[Array, tuple]:
        y = y if noised is None else noised[0] + jnp.exp(-lam) * noised[1]
        d, along = jax.linearize(predict, y, lam)
        rate = along(d - y, jnp.ones_like(lam))
        share = jnp.mean(
            _diagonal(lambda v: along(v, jnp.zeros_like(lam)), y, probe).astype(wide), axis=0, keepdims=True
        )
        y_, d_, rate_ = (value.astype(wide) for value in (y, d, rate))
        f, push = share * y_ - d_, share * (d_ - y_) - rate_  # df/dlam = push + y dshare/dlam
        means = [jnp.mean(value, axis=0, keepdims=True) for value in (f, push, y_)]
        f, push, y_ = (value - mean for value, mean in zip((f, push, y_), means, strict=True))
        spreads = [jnp.mean(value * f, axis=0) for value in (f, push, y_)]
        size = jnp.mean((share * y_) ** 2 + d_**2, axis=0)
        gain = -jnp.expm1(-step)
        return y * (1 - gain) + gain * d + (step - gain) * rate, (share[0], [mean[0] for mean in means], spreads, size)

    step = (lam[-1] - lam[0]) / (len(lam) - 1)
    _, (share, (f, push, y_mean), (f_f, push_f, y_f), size) = march(row, y, lam, remat=False)
    share_rate = _rate(jnp, share, step.astype(wide))
    # where f is a constant up to rounding, as for Gaussian data, no slope can be told
    varies = f_f > (1e3 * jnp.finfo(y.dtype).eps) ** 2 * size
    slope = jnp.where(varies, (push_f + share_rate * y_f) / jnp.where(varies, f_f, 1), 0)
    return 1 - share, slope, push + share_rate * y_mean - slope * f


def _diagonal(push: Any, y: Array, probe: Array | None) -> Array:
    """Return the diagonal of a Jacobian, pixel by pixel of every sample, or an unbiased estimate of it."""
    if probe is not None:
        return probe * push(probe)
    basis = jnp.eye(y[0].size, dtype=y.dtype).reshape(-1, *y.shape[1:])
    columns = jax.lax.map(lambda v: v[None] * push(jnp.broadcast_to(v, y.shape)), basis)
    return jnp.sum(columns, axis=0)
