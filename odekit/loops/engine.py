"""A problem, a method and a controller made into engines for the lane loop."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from odekit.control import PID
from odekit.loops.adaptive import Field, Lanes, Loop, advance, blank_rows, record, start, used_rows
from odekit.loops.events import Watched
from odekit.loops.kernel import one_kernel
from odekit.loops.lanes import Engine, in_blocks, lanes_last, lift, on_devices, scattered, varies
from odekit.loops.pieces import Saves, read_in_pieces
from odekit.loops.record import Raw, Rows, Span
from odekit.loops.refill import BLOCKS, advance_busy, refill, running
from odekit.loops.saving import Track, at_times
from odekit.problem import Lifted
from odekit.typing import PyTree

SMALL = 1024
"""Bytes of a lane's state up to which one function pays: beyond, XLA's own kernels are as fast and use all cores."""


class Last(NamedTuple):
    """What every lane has of its own: lanes are the trailing axis."""

    y0: PyTree
    t0: Array
    t1: Array
    dt0: Array | None


class Free(NamedTuple):
    """What lanes may share: arrays of the vector field (arguments, constants), of the method, of the controller.

    `ts` are the times to be saved where the loop reads them itself, (n,) in the order of the solve.
    """

    field: PyTree
    method: PyTree
    control: PyTree
    ts: Array | None = None


class Program(NamedTuple):
    """The static half of a solve.

    Attributes:
        fn: `fn(free.field, t, y)`, the vector field of one lane.
        method: from the arrays of a method to the method.
        control: from the arrays of a controller to the controller.
        width: lanes a block.
        fenced: whether stage values stand behind a fence.
        one_kernel: whether the loop is compiled into one function.
        attached: whether step lengths carry the tangent of the interval (forward mode).
        events: what is watched, as functions of `(free.field, t, y)` of one lane.
        apart: whether devices may run their lanes apart.
    """

    fn: Callable[..., PyTree]
    method: Callable[[PyTree], PyTree]
    control: Callable[[PyTree], PID]
    max_steps: int
    width: int
    fenced: bool
    one_kernel: bool = False
    attached: bool = False
    apart: bool = True
    events: tuple[Watched, ...] = ()

    def placed(self, engine: Engine, width: int) -> Engine:
        """Return `engine` in blocks of `width` lanes, run by every device on its own lanes."""
        blocks = in_blocks(engine, width)
        return on_devices(blocks) if self.apart else blocks

    def compiled(self, go: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Return a loop over time as one function on CPU where that is asked for and can be.

        Only the loop: its body is then the same in a solve, in pieces of one, and in a record, and so are its bits.
        Not inside a checked `shard_map`, whose types the call loses.
        """

        def run(*args: PyTree) -> PyTree:
            return go(*args) if scattered(args) or varies(args) else one_kernel(go, *args)

        return run if self.one_kernel and not self.attached else go

    def loop(self, lanes: int, flags: tuple[bool, ...], last: Last, free: Free) -> Loop:
        """Return the loop over `lanes` lanes."""
        free = lanes_last(free, flags)
        control = self.controller(free, flags)
        field, events = self.lifted(lanes, flags, free)
        return Loop(
            method=self.method(free.method),
            control=control,
            field=field,
            span=Span.of(last.t0, last.t1, control.jumps),
            fenced=self.fenced,
            attached=self.attached,
            events=events,
        )

    def controller(self, free: Free, flags: tuple[bool, ...]) -> PID:
        """Return the controller over lanes; `free` has flagged lanes trailing."""
        bounds, first = jax.tree.leaves(free.control), len(jax.tree.leaves((free.field, free.method)))
        shared = [not flag and x.ndim > 0 for x, flag in zip(bounds, flags[first : first + len(bounds)], strict=True)]
        bounds = [x[..., None] if alike else x for x, alike in zip(bounds, shared, strict=True)]
        return self.control(jax.tree.unflatten(jax.tree.structure(free.control), bounds))

    def lifted(self, lanes: int, flags: tuple[bool, ...], free: Free) -> tuple[Field, tuple[Watched, ...]]:
        """Return the field and the events over lanes; `free` has flagged lanes trailing."""
        flags = flags[: len(jax.tree.leaves(free.field))]
        over = partial(lift, lanes=lanes, free=free.field, flags=flags)
        events = [e._replace(fn=over(e.fn), apply=e.apply and over(e.apply)) for e in self.events]
        return over(self.fn), tuple(events)

    def run(self) -> Engine:
        """Return the engine that goes to the end and keeps nothing.

        Many blocks run as one that is filled up again as its lanes end.
        """

        def block(lanes: int, flags: tuple[bool, ...], last: Last, free: Free) -> tuple[Raw, tuple[()]]:
            def go(state: Lanes, last: Last, free: Free) -> Lanes:
                return advance(self.loop(lanes, flags, last, free), state, self.max_steps)

            return raw(self.compiled(go)(self.started(lanes, flags, last, free), last, free)), ()

        def engine(lanes: int, flags: tuple[bool, ...], last: Last, free: Free) -> tuple[Raw, tuple[()]]:
            if lanes < BLOCKS * self.width or scattered((last, free)):
                return in_blocks(block, self.width)(lanes, flags, last, free)

            def go(state: Lanes, budget: Array, last: Last, free: Free) -> Lanes:
                return advance_busy(self.loop(self.width, flags, last, free), state, self.max_steps, budget)

            def end(state: Lanes) -> Lanes:
                return state._replace(carry=None, memory=None, n=None)

            begin, live = partial(self.started, self.width, flags), partial(running, max_steps=self.max_steps)
            ends, n = refill(begin, self.compiled(go), live, end, lanes, self.width, last, free, flags)
            return raw(ends._replace(n=n)), ()

        return on_devices(engine) if self.apart else engine

    def begin(self) -> Engine:
        """Return the engine that stops before the first step, with the loop's own state."""

        def engine(lanes: int, flags: tuple[bool, ...], last: Last, free: Free) -> tuple[Lanes, tuple[()]]:
            return unshare(self.started(lanes, flags, last, free)), ()

        return self.placed(engine, self.width)

    def proceed(self) -> Engine:
        """Return the engine that takes the loop's own state to a number of accepted steps.

        `last` is `(last, lanes, target)`, with the counter of the lanes one a lane.
        """

        def engine(lanes: int, flags: tuple[bool, ...], last: PyTree, free: Free) -> tuple[Lanes, tuple[()]]:
            ends, state, target = last

            def go(state: Lanes, target: Array, last: Last, free: Free) -> Lanes:
                return advance(self.loop(lanes, flags, last, free), state, self.max_steps, target)

            return unshare(self.compiled(go)(state._replace(n=jnp.max(state.n)), target, ends, free)), ()

        return self.placed(engine, self.width)

    def record(self, every: int = 1, most: int | None = None) -> Engine:
        """Return the engine that keeps every step, the states only at every `every`-th.

        More than `most` lanes are only run: their rows are zeros that take no memory.
        """

        def engine(lanes: int, flags: tuple[bool, ...], last: Last, free: Free) -> tuple[tuple[Raw, Rows], tuple[()]]:
            end, rows = self.recorded(lanes, flags, last, free, every)
            return (raw(end), rows), ()

        def only_run(lanes: int, flags: tuple[bool, ...], last: Last, free: Free) -> tuple[tuple[Raw, Rows], tuple[()]]:
            end, _ = self.run()(lanes, flags, last, free)
            switches = self.method(free.method).switches
            return (end, blank_rows(end.s, end.dt, end.y, self.max_steps, every, end.event, switches)), ()

        if most is None:
            return self.placed(engine, self.width)
        return self.placed(lambda lanes, *rest: (engine if lanes <= most else only_run)(lanes, *rest), 1 << 62)

    def saved(self) -> Engine:
        """Return the engine that reads the states at `free.ts` as it goes and keeps the rows of a few steps only.

        One lane keeps all its rows: all times at once are faster read.
        """

        def engine(lanes: int, flags: tuple[bool, ...], last: Last, free: Free) -> tuple[Raw, PyTree]:
            if lanes == 1:
                return self.saved_alone(flags, last, free)

            def go(state: Lanes, last: Last, free: Free) -> tuple[Lanes, Saves]:
                ts = lanes_last(free, flags).ts
                ts = jnp.broadcast_to(ts if ts.ndim == 2 else ts[:, None], (ts.shape[0], lanes))
                return read_in_pieces(self.loop(lanes, flags, last, free), state, ts, self.max_steps, self.one_kernel)

            end, saves = self.compiled(go)(self.started(lanes, flags, last, free), last, free)
            return raw(end), saves.first(jnp.asarray(free.ts).shape[-1])

        return self.placed(engine, self.width)

    def saved_alone(self, flags: tuple[bool, ...], last: Last, free: Free) -> tuple[Raw, PyTree]:
        """Return the end of a single lane and its states at `free.ts`."""
        end, rows = self.recorded(1, flags, last, free, 1)
        end = raw(end)
        alone = jax.tree.map(lambda x: x[..., 0], Track(rows, end.used, end.s, end.y, last.t0, last.t1))
        leaves, tree = jax.tree.flatten(free)
        own = jax.tree.unflatten(tree, [x[0] if flag else x for x, flag in zip(leaves, flags, strict=True)])
        return end, jax.tree.map(lambda y: y[None], self.compiled(self.read)(own, alone))

    def read(self, free: Free, track: Track) -> PyTree:
        """Return the states of one lane at the times `free.ts`, read off its recorded steps."""
        return at_times(self.bind, free.field, self.method(free.method), track, jnp.asarray(free.ts))

    def bind(self, field: PyTree) -> Lifted:
        """Return the problem of one lane as a step sees it."""
        return Lifted(partial(self.fn, field), None)

    def recorded(self, lanes: int, flags: tuple[bool, ...], last: Last, free: Free, every: int) -> tuple[Lanes, Rows]:
        """Return the end and the recorded steps of one block of lanes."""

        def go(state: Lanes, last: Last, free: Free) -> tuple[Lanes, Rows]:
            return record(self.loop(lanes, flags, last, free), state, self.max_steps, every)

        return self.compiled(go)(self.started(lanes, flags, last, free), last, free)

    def started(self, lanes: int, flags: tuple[bool, ...], last: Last, free: Free) -> Lanes:
        """Return a block of lanes before their first step."""
        return start(self.loop(lanes, flags, last, free), last.y0, last.dt0)


def unshare(lanes: Lanes) -> Lanes:
    """Return the lanes with their shared counter as one a lane."""
    return lanes._replace(n=jnp.broadcast_to(lanes.n, lanes.accepted.shape))


def raw(lanes: Lanes) -> Raw:
    """Return what the caller of a loop needs of its lanes."""

    def shared(n: Array) -> Array:
        return n + jnp.zeros_like(lanes.accepted)

    s = lanes.s + lanes.clock[1]
    event = jnp.where(lanes.dt == 0, lanes.watch.event, -1) if lanes.watch else None
    return Raw(lanes.y, s, lanes.dt, lanes.code, lanes.accepted, lanes.tried, shared(used_rows(lanes)), event)


def block_width(y: PyTree, default: int = 256, budget: int = 1 << 20) -> int:
    """Return how many lanes fit a block: on CPU about half of a core's L2 for some twelve copies of the state.

    Elsewhere all lanes are one block.
    """
    if jax.default_backend() != "cpu":
        return 1 << 62
    return max(8, min(default, budget // max(1, 12 * size(y))))


def size(y: PyTree) -> int:
    """Return the bytes of a state."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(y))
