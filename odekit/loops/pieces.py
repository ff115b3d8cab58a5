"""Saved times of ensembles: some steps are recorded, the times among them read, and the record is written over."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.loops.record import Rows
from odekit.typing import PyTree

PIECE = 256
"""Steps a piece: its rows stay in cache, and few times are left over in the last batch that it reads."""
BATCH = 16


def read_in_pieces(
    record: Callable[[Any], tuple[Any, Rows]],
    read: Callable[[Any, Any, Rows, Array], PyTree],
    going: Callable[[Any], Array],
    reached: Callable[[Any, Array], Array],
    state: Any,
    ts: Array,
) -> tuple[Any, PyTree]:
    """Return the end of the lanes and their states at `ts`, (n, lanes) in the order of the solve; NaN if not reached.

    `record(state)` takes up to `PIECE` steps, `read(before, after, rows, times)` is the states at (m, lanes) times
    among them, lanes leading, `reached(after, times)` says which times are behind.
    """
    n, lanes = ts.shape
    size = min(BATCH, n)

    def piece(carry: tuple[Any, PyTree, Array]) -> tuple[Any, PyTree, Array]:
        before, ys, done = carry
        after, rows = record(before)

        def due(done: Array) -> Array:
            k = jnp.minimum(done, n - 1)
            return (done < n) & reached(after, jnp.take_along_axis(ts, k[None], axis=0))[0]

        def batch(carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            ys, done = carry
            k = done[None] + jnp.arange(size, dtype=jnp.int32)[:, None]
            times = jnp.take_along_axis(ts, jnp.minimum(k, n - 1), axis=0)
            new = read(before, after, rows, times)

            def put(lane: Array, ys: PyTree) -> PyTree:  # lane by lane: one scatter of all takes three times as long
                place = lane, done[lane]
                zero = jnp.zeros_like(lane)
                return jax.tree.map(
                    lambda kept, x: lax.dynamic_update_slice(kept, x[lane][None], (*place, *[zero] * (x.ndim - 2))),
                    ys,
                    new,
                )

            here = (k < n) & reached(after, times)
            return lax.fori_loop(jnp.int32(0), lanes, put, ys), done + jnp.sum(here, 0, dtype=done.dtype)

        ys, done = lax.while_loop(lambda carry: jnp.any(due(carry[1])), batch, (ys, done))
        return after, ys, done

    blank = jax.tree.map(lambda y: jnp.zeros((lanes, n + size, *y.shape[:-1]), y.dtype), state.y)
    carry = state, blank, jnp.zeros(lanes, jnp.int32)
    # Once before the loop: a time at t0 is due though no lane may have a step to take.
    state, ys, done = lax.while_loop(lambda carry: going(carry[0]), piece, piece(carry))

    def kept(y: Array) -> Array:
        y = jnp.moveaxis(y[:, :n], 0, -1)
        seen = jnp.arange(n, dtype=jnp.int32)[:, None] < done[None]
        return jnp.where(seen.reshape(n, *(1,) * (y.ndim - 2), lanes), y, jnp.nan)

    return state, jax.tree.map(kept, ys)
