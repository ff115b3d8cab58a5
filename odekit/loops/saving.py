"""What is saved, read off the recorded steps after the loop: given times, every step, dense output."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.loops.record import Rows, Span
from odekit.problem import Lifted
from odekit.trees import align, leading, select
from odekit.typing import PyTree


class Track(NamedTuple):
    """The recorded steps of one lane, and its end.

    Attributes:
        rows: starts, lengths and states, one row a step (no lane axis).
        used: how many rows are filled.
        s: elapsed length at the end.
        y: state at the end.
        t0: start of the interval.
        t1: end of the interval.
        jumps: (n,) times where the field is discontinuous, or None.
    """

    rows: Rows
    used: Array
    s: Array
    y: PyTree
    t0: Array
    t1: Array
    jumps: Array | None = None

    @property
    def span(self) -> Span:
        """The interval."""
        return Span.of(self.t0, self.t1, None if self.jumps is None else self.jumps[:, None])


def at_times(bind: Callable[[PyTree], Any], free: PyTree, method: Any, track: Track, ts: Array) -> PyTree:
    """Return the states of one lane at the times `ts`, (n,), as `read` does: the times are the lanes of one step.

    `bind(free)` is the problem as a step sees it.
    """
    span, problem = Span.of(track.t0, track.t1, track.jumps), bind(free)

    def one(s: Array, t: Array, dt: Array, y: PyTree, theta: Array, way: Array | None) -> PyTree:
        seen = problem if span.jumps is None else Lifted(span.smooth(problem, s), None)
        return method.bound(way).dense(seen, t, dt, y, theta)

    def row(x: Array, k: Array) -> Array:
        return jnp.moveaxis(x[k], 0, -1)

    end = jax.tree.map(lambda y: jnp.expand_dims(y, -1), track.y)
    ys = read(jax.vmap(one, -1, -1), row, track._replace(y=end), ts)
    return jax.tree.map(lambda y: jnp.moveaxis(y, -1, 0), ys)


def read(inner: Callable[..., PyTree], row: Callable[..., Array], track: Track, ts: Array) -> PyTree:
    """Return the states at one time a lane, `ts`, (lanes,): the end itself where it lies there, NaN if not computed.

    A time that is NaN is no observation: its state is NaN, and no gradient comes back from it.

    The steps that hold the times are taken once more and read by the method's interpolant, `inner(s, t, dt, y, theta,
    way)` over lanes; `row(x, k)`, (..., lanes), is row k of the record.
    """
    span = track.span
    rows, s = track.rows, span.sign * (ts - span.t0)
    absent, s = jnp.isnan(s), jnp.where(jnp.isnan(s), 0, s)
    k = _last_start(partial(row, rows.s), len(rows.s), track.used, lax.stop_gradient(s))
    begin, dt, y0, way = jax.tree.map(lambda x: row(x, k), (rows.s, rows.dt, rows.y, rows.way))
    start, dt = span.share(begin), span.share(dt, begin)
    inside = dt > 0
    theta = jnp.where(inside, (s - start) / jnp.where(inside, dt, 1), 0)
    ys = inner(start, span.at(start), span.sign * dt, y0, theta, way)
    ended, beyond = s >= track.s, absent | (s < 0) | (s > track.s * (1 + 4 * jnp.finfo(s.dtype).eps))
    return jax.tree.map(lambda y: jnp.where(align(beyond, y), jnp.nan, y), select(ended, track.y, ys))


def _last_start(start: Callable[[Array], Array], n: int, used: Array, s: Array) -> Array:
    """Return the last of the `used` rows, at most n and in order, that starts at `s` or before; 0 if none does."""

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        first, last = ends
        middle = (first + last) // 2
        later = start(middle) > s
        return jnp.where(later, first, middle), jnp.where(later, middle, last)

    first = jnp.zeros(s.shape, jnp.int32)
    return lax.fori_loop(0, n.bit_length(), halve, (first, jnp.broadcast_to(used, s.shape)))[0]


def each_step(track: Track) -> tuple[Array, PyTree]:
    """Return the ends of all accepted steps, in order; unused rows hold infinite times and NaN states."""
    span, rows = track.span, track.rows
    nth, count, order = _accepted(track)

    def ends(starts: Array, end: Array, empty: float) -> Array:
        shifted = jnp.roll(starts[order], -1, axis=0).at[count - 1].set(end)
        return jnp.where(leading(nth < count, shifted), shifted, empty)

    ts = ends(span.at(span.share(rows.s)), span.at(track.s), jnp.inf)
    return ts, jax.tree.map(lambda y, end: ends(y, end, jnp.nan), rows.y, track.y)


def judge(bind: Callable[[PyTree], Any], free: PyTree, method: Any, track: Track, control: Any) -> dict[str, Array]:
    """Return error ratio and stiffness of all accepted steps, in order; NaN in unused rows.

    The steps are taken once more, their lengths constants; unused rows take a step of no length, from a good state.
    """
    span, rows = track.span, track.rows
    nth, count, order = _accepted(track)
    used = nth < count
    begin, length = rows.s[order], jnp.where(used, rows.dt[order], 0)
    start, dt = span.share(begin), span.share(length, begin)

    def one(s: Array, t: Array, dt: Array, y: PyTree, way: Array | None) -> tuple[Array, Array]:
        problem = bind(free) if span.jumps is None else Lifted(span.smooth(bind(free), s), None)
        own = method.bound(way)
        new, rate = own.judged(problem, t, dt, y, own.init(problem, t, y))
        if new.err is None:
            return jnp.full_like(rate, jnp.nan), rate
        lanes = jax.tree.map(lambda x: x[..., None], (new.err, y, new.y))
        bounds = jax.tree.map(lambda x: x[..., None] if jnp.ndim(x) else x, (control.rtol, control.atol))
        ratio = control.norm(*lanes, *bounds)[0]
        return jnp.where(ratio > 0, jnp.sqrt(jnp.where(ratio > 0, ratio, 1)), 0), rate

    y, way = jax.tree.map(lambda x: x[order], (rows.y, rows.way))
    y = jax.tree.map(lambda x, y0: jnp.where(leading(used, x), x, y0[None]), y, track.y)
    error, rate = jax.vmap(one)(start, span.at(start), span.sign * dt, y, way)
    return {
        "error": jnp.where(used, error, jnp.nan),
        "stiffness": jnp.where(used, dt * rate.astype(dt.dtype), jnp.nan),
    }


def _accepted(track: Track) -> tuple[Array, Array, Array]:
    """Return the numbers of all rows, how many hold an accepted step, and the order that puts those first."""
    nth = _index(track.rows.s)
    kept = (nth < track.used) & (track.rows.dt > 0)
    return nth, jnp.sum(kept, dtype=jnp.int32), jnp.argsort(~kept, stable=True)


def _index(x: Array) -> Array:
    return jnp.arange(x.shape[0], dtype=jnp.int32)


def in_order(read: Callable[[Array], tuple[Any, PyTree]], ts: Array, sign: Array) -> tuple[Any, PyTree]:
    """Return what `read` gives for times sorted in the direction of the solve, its states in the order of `ts`."""
    order = jnp.argsort(sign * ts)
    out, ys = read(ts[order])
    back = jnp.argsort(order)
    return out, jax.tree.map(lambda y: y[back], ys)


def gather(saveat: Any, track: Track, y0: PyTree, ts: Array | None, at_ts: PyTree) -> tuple[Array, PyTree]:
    """Return times and states in the order start, given times, steps, end, as `saveat` asks for them.

    `at_ts` are the states at `ts`.
    """
    parts: list[tuple[Array, PyTree]] = []
    if saveat.t0:
        parts.append((track.t0[None], jax.tree.map(lambda y: y[None], y0)))
    if ts is not None:
        parts.append((ts, at_ts))
    if saveat.steps:
        parts.append(each_step(track))
    if saveat.t1:
        end = track.span.at(track.s)
        parts.append((end[None], jax.tree.map(lambda y: y[None], track.y)))
    times = jnp.concatenate([t for t, _ in parts])
    return times, jax.tree.map(lambda *ys: jnp.concatenate(ys), *[ys for _, ys in parts])
