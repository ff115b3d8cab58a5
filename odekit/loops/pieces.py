"""Saved times of ensembles: some steps are recorded, the times among them read, and the record is written over."""

import os
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.loops.adaptive import Lanes, Loop, record, used_rows
from odekit.loops.record import Rows
from odekit.loops.saving import Track, read
from odekit.problem import Lifted
from odekit.typing import PyTree

PIECE = int(os.environ.get("PIECE", 256))
"""Steps a piece: its rows stay in cache, and few passes over the lanes are for the few that have a time left."""
BATCH = int(os.environ.get("BATCH", 16))
"""Passes that are stored together: a lane's states are then written in one piece."""


class Saves(NamedTuple):
    """The saved states, (lanes, n + some, ...), and how many of them each lane has."""

    ys: PyTree
    done: Array

    def finished(self, n: int) -> PyTree:
        """Return the states at n times, (lanes, n, ...); NaN where the lane has not come so far."""
        seen = jnp.arange(n, dtype=jnp.int32)[None] < self.done[:, None]

        def kept(y: Array) -> Array:
            return jnp.where(seen.reshape(*seen.shape, *(1,) * (y.ndim - 2)), y[:, :n], jnp.nan)

        return jax.tree.map(kept, self.ys)


def read_in_pieces(loop: Loop, state: Lanes, ts: Array, max_steps: int) -> tuple[Lanes, Saves]:
    """Return the ends of the lanes and their states at the times `ts`, (n, lanes) in the order of the solve."""
    n, lanes = ts.shape
    size = min(BATCH, n)

    def piece(carry: tuple[Lanes, Saves, Array]) -> tuple[Lanes, Saves, Array]:
        before, saves, _ = carry
        after, rows = record(loop, before, max_steps, most=PIECE)
        return after, _read_piece(loop, before, after, rows, ts, saves), jnp.zeros((), bool)

    def going(carry: tuple[Lanes, Saves, Array]) -> Array:
        state, _, first = carry
        return (jnp.any(state.live) & (state.n < max_steps)) | first

    blank = jax.tree.map(lambda y: jnp.zeros((lanes, n + size, *y.shape[:-1]), y.dtype), state.y)
    saves = Saves(blank, jnp.zeros(lanes, jnp.int32))
    # The first piece comes unasked: a time at t0 is due though no lane may have a step to take.
    state, saves, _ = lax.while_loop(going, piece, (state, saves, jnp.ones((), bool)))
    return state, saves


def _read_piece(loop: Loop, before: Lanes, after: Lanes, rows: Rows, ts: Array, saves: Saves) -> Saves:
    """Read the times among the recorded steps, the next one of every lane in each pass."""
    n, lanes = ts.shape
    size = min(BATCH, n)
    s = after.s + after.clock[1]
    track = Track(rows, used_rows(after) - used_rows(before), s, after.y, loop.span.t0, loop.span.t1)
    problem = Lifted(loop.field, before.n >= 0 if loop.fence else None)
    reached = s * (1 + 4 * jnp.finfo(s.dtype).eps)

    def inner(_: Array, t: Array, dt: Array, y: PyTree, theta: Array, way: Array | None) -> PyTree:
        return loop.method.bound(way).dense(problem, t, dt, y, theta)

    def coming(done: Array) -> tuple[Array, Array]:
        k = jnp.minimum(done, n - 1)
        times = jnp.take_along_axis(ts, k[None], axis=0)[0]
        here = jnp.isnan(times) | (loop.span.sign * (times - loop.span.t0) <= reached)
        return times, here & (done < n)

    def one(carry):
        j, slab, done, times, due = carry
        new = read(inner, jax.vmap(lambda x, k: x[k], -1, -1), track, times)
        slab = jax.tree.map(lambda kept, x: lax.dynamic_update_index_in_dim(kept, x, j, 0), slab, new)
        done = done + due.astype(done.dtype)
        return j + 1, slab, done, *coming(done)

    def batch(carry):
        ys, slab, done, times, due = carry
        new = lax.while_loop(lambda c: (c[0] < size) & jnp.any(c[-1]), one, (jnp.int32(0), slab, done, times, due))
        _, slab, after, times, due = new

        def put(lane: Array, ys: PyTree) -> PyTree:
            def write(kept: Array, x: Array) -> Array:
                x = lax.dynamic_index_in_dim(x, lane, x.ndim - 1, keepdims=False)
                return lax.dynamic_update_slice(kept, x[None], (lane, done[lane], *[jnp.zeros_like(lane)] * (x.ndim - 1)))

            return jax.tree.map(write, ys, slab)

        return lax.fori_loop(jnp.int32(0), jnp.int32(lanes), put, ys), slab, after, times, due

    slab = jax.tree.map(lambda y: jnp.zeros((size, *y.shape), y.dtype), after.y)
    carry = saves.ys, slab, saves.done, *coming(saves.done)
    ys, _, done, _, _ = lax.while_loop(lambda c: jnp.any(c[-1]), batch, carry)
    return Saves(ys, done)
