"""Saved times of ensembles: some steps are recorded, the times among them read, and the record is written over."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.loops.adaptive import Lanes, Loop, record, used_rows
from odekit.loops.record import Rows
from odekit.loops.saving import Track, read
from odekit.problem import Lifted
from odekit.typing import PyTree

PIECE = 128
"""Steps a piece: its rows stay in cache, and few passes over the lanes are for the few that have a time left."""
STORED = 16
"""Passes whose states are stored together, in one piece a lane."""


class Saves(NamedTuple):
    """The saved states, (lanes, n + some, ...), and how many of them each lane has."""

    ys: PyTree
    done: Array

    def first(self, n: int) -> PyTree:
        """Return the states at n times, (lanes, n, ...); NaN where the lane has not come so far."""
        seen = jnp.arange(n, dtype=jnp.int32)[None] < self.done[:, None]

        def kept(y: Array) -> Array:
            return jnp.where(seen.reshape(*seen.shape, *(1,) * (y.ndim - 2)), y[:, :n], jnp.nan)

        return jax.tree.map(kept, self.ys)


class Pass(NamedTuple):
    """Where a pass over the lanes stands: what the passes before it have read, and the next times of every lane."""

    slab: PyTree
    n: Array
    done: Array
    times: Array
    due: Array


def read_in_pieces(loop: Loop, state: Lanes, ts: Array, max_steps: int, one_kernel: bool) -> tuple[Lanes, Saves]:
    """Return the ends of the lanes and their states at the times `ts`, (n, lanes) in the order of the solve.

    In one kernel a pass reads one time a lane, a step's worth of arrays that stay in cache: 16 took three times as
    long. Otherwise it reads as many as are stored together, because a pass is a list of kernels.
    """
    n, lanes = ts.shape
    abreast = 1 if one_kernel else min(STORED, n)

    def piece(carry: tuple[Lanes, Saves, Array]) -> tuple[Lanes, Saves, Array]:
        before, saves, first = carry
        after, rows = record(loop, before, max_steps, most=PIECE)
        return after, _read_piece(loop, before, after, rows, ts, saves, abreast), jnp.zeros_like(first)

    def going(carry: tuple[Lanes, Saves, Array]) -> Array:
        state, _, first = carry
        return first | (jnp.any(state.live) & (state.n < max_steps))

    blank = jax.tree.map(lambda y: jnp.zeros((lanes, n + min(STORED, n), *y.shape[:-1]), y.dtype), state.y)
    saves = Saves(blank, jnp.zeros(lanes, jnp.int32))
    # The first piece comes unasked: a time at t0 is due though no lane may have a step to take.
    state, saves, _ = lax.while_loop(going, piece, (state, saves, jnp.ones((), bool)))
    return state, saves


def _read_piece(loop: Loop, before: Lanes, after: Lanes, rows: Rows, ts: Array, saves: Saves, abreast: int) -> Saves:
    """Return the saves with the times among the recorded steps; a pass reads the next `abreast` ones of every lane."""
    n, size = len(ts), min(STORED, len(ts))
    s = after.s + after.clock[1]
    track = Track(rows, used_rows(after) - used_rows(before), s, after.y, loop.span.t0, loop.span.t1)
    reached = s * (1 + 4 * jnp.finfo(s.dtype).eps)
    problem = Lifted(loop.field, before.n >= 0 if loop.fence else None)

    def inner(_: Array, t: Array, dt: Array, y: PyTree, theta: Array, way: Array | None) -> PyTree:
        return loop.method.bound(way).dense(problem, t, dt, y, theta)

    def begun(slab: PyTree, done: Array) -> Pass:
        k = done[None] + jnp.arange(abreast, dtype=jnp.int32)[:, None]
        times = jnp.take_along_axis(ts, jnp.minimum(k, n - 1), axis=0)
        behind = jnp.isnan(times) | (loop.span.elapsed(times) <= reached[None])
        return Pass(slab, jnp.zeros((), jnp.int32), done, times, behind & (k < n))

    def at(times: Array) -> PyTree:
        return read(inner, jax.vmap(lambda x, k: x[k], -1, -1), track, times)

    def one(now: Pass) -> Pass:
        new = jax.vmap(at)(now.times)
        slab = jax.tree.map(lambda kept, x: lax.dynamic_update_slice_in_dim(kept, x, now.n, 0), now.slab, new)
        return begun(slab, now.done + jnp.sum(now.due, 0, dtype=jnp.int32))._replace(n=now.n + abreast)

    def passes(carry: tuple[PyTree, Pass]) -> tuple[PyTree, Pass]:
        ys, now = carry
        new = lax.while_loop(lambda now: (now.n < size) & jnp.any(now.due), one, now)
        return _stored(ys, new.slab, now.done, loop.fenced), new._replace(n=now.n)

    slab = jax.tree.map(lambda y: jnp.zeros((size, *y.shape), y.dtype), after.y)
    ys, now = lax.while_loop(lambda carry: jnp.any(carry[1].due), passes, (saves.ys, begun(slab, saves.done)))
    return Saves(ys, now.done)


def _stored(ys: PyTree, slab: PyTree, place: Array, by_lane: bool) -> PyTree:
    """Return `ys`, lanes leading, with the rows of `slab`, lanes trailing, from `place` on in every lane.

    By lane on CPU, where one scatter of all takes three times as long.
    """

    def put(kept: Array, x: Array, k: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(kept, x, k, 0)

    def lane(i: Array, ys: PyTree) -> PyTree:
        def write(kept: Array, x: Array) -> Array:
            x = lax.dynamic_index_in_dim(x, i, x.ndim - 1, keepdims=False)[None]
            return lax.dynamic_update_slice(kept, x, (i, place[i], *[jnp.zeros_like(i)] * (x.ndim - 2)))

        return jax.tree.map(write, ys, slab)

    if by_lane:
        return lax.fori_loop(jnp.int32(0), jnp.int32(len(place)), lane, ys)
    return jax.tree.map(lambda kept, x: jax.vmap(put, (0, -1, 0))(kept, x, place), ys, slab)
