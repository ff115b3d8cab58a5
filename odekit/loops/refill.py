"""Uneven ensembles: a lane that has ended makes room for the next trajectory, so that no lane waits for the slowest."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.loops.adaptive import Lanes, Loop, attempt
from odekit.loops.lanes import varying
from odekit.trees import select
from odekit.typing import PyTree

BLOCKS = 8
"""Blocks from which it pays: below, the lanes that are left at the end weigh as much as those that waited."""

PATIENCE = 4
STRIDE = 8
"""Attempts between two counts of the lanes that are live: a count costs a twelfth of an attempt."""


def refill(
    begin: Callable[[PyTree, PyTree], Any],
    go: Callable[[Any, Array, PyTree, PyTree], Any],
    live: Callable[[Any], Array],
    end: Callable[[Any], PyTree],
    lanes: int,
    width: int,
    last: PyTree,
    free: PyTree,
    flags: tuple[bool, ...],
) -> tuple[PyTree, Array]:
    """Return `end` of every lane, lanes trailing, and how many attempts the block made; `width` lanes run at a time.

    `begin(last, free)` makes the state of a block, `go(state, budget, last, free)` runs it until lanes that have ended
    have sat out `budget` attempts between them. An exchange costs about what `PATIENCE` attempts of the whole block do,
    and is made when waiting has cost as much: never more than twice the cost of the best moment, known only afterwards.
    """

    def inputs(index: Array) -> tuple[PyTree, PyTree]:
        index = jnp.minimum(index, lanes - 1)
        leaves, tree = jax.tree.flatten(free)
        own = [jnp.take(x, index, axis=0) if flag else x for x, flag in zip(leaves, flags, strict=True)]
        return jax.tree.map(lambda x: jnp.take(x, index, axis=-1), last), jax.tree.unflatten(tree, own)

    def exchange(carry: tuple[Array, Array, Any, PyTree, PyTree]) -> tuple[Array, Array, Any, PyTree, PyTree]:
        index, queue, given, state, ends = carry
        budget = jnp.where(queue < lanes, PATIENCE * width, jnp.iinfo(jnp.int32).max)
        state = go(state, budget.astype(jnp.int32), *given)
        over = ~live(state)
        place = jnp.where(over, index, lanes)
        ends = jax.tree.map(lambda kept, x: kept.at[..., place].set(x, mode="drop"), ends, end(state))
        index = jnp.where(over, queue + jnp.cumsum(over, dtype=index.dtype) - 1, index)
        given = inputs(index)
        fresh = begin(*given)
        fresh = fresh._replace(clock=fresh.clock.at[2].set(jnp.where(index < lanes, fresh.dt, 0)), n=None)
        state = select(over, fresh, state._replace(n=None))._replace(n=state.n)
        return index, queue + jnp.sum(over, dtype=queue.dtype), given, state, ends

    index = jnp.arange(width, dtype=jnp.int32)
    given = inputs(index)
    state = begin(*given)
    blank = jax.tree.map(lambda x: jnp.zeros((*x.shape[:-1], lanes), x.dtype), jax.eval_shape(end, state))
    carry = varying((index, jnp.int32(width), given, state, blank))
    out = lax.while_loop(lambda carry: jnp.any(carry[0] < lanes), exchange, carry)
    return out[-1], out[-2].n


def advance_busy(loop: Loop, lanes: Lanes, max_steps: Array | int, budget: Array) -> Lanes:
    """Run until no lane is live, or until those that were not have sat out `budget` attempts between them.

    The lanes may have started at different counts of the shared counter: each is held to `max_steps` by its own.
    """

    def going(state: tuple[Lanes, Array, Array]) -> Array:
        _, live, idle = state
        return (live > 0) & (idle < budget)

    def body(state: tuple[Lanes, Array, Array]) -> tuple[Lanes, Array, Array]:
        lanes, _, idle = state
        some = lax.fori_loop(0, STRIDE, lambda _, lanes: attempt(loop, lanes, running(lanes, max_steps))[0], lanes)
        live = count(some)
        return some, live, idle + STRIDE * (lanes.s.shape[0] - live)

    def count(lanes: Lanes) -> Array:
        return jnp.sum(running(lanes, max_steps), dtype=jnp.int32)

    live = count(lanes)
    return lax.while_loop(going, body, (lanes, live, 0 * live))[0]  # a bare zero would not vary over a `shard_map`


def running(lanes: Lanes, max_steps: Array | int) -> Array:
    """Return which lanes go on, each held to `max_steps` attempts of its own."""
    return lanes.live & (lanes.tried < max_steps)
