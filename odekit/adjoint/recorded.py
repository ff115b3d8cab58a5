"""The default adjoint: accepted steps are recorded, and walked back with one step's pullback each."""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.adjoint.base import Adjoint, Saved, Solve
from odekit.loops.engine import Free, Last, Program
from odekit.loops.landing import land
from odekit.loops.lanes import Engine, axis_of, broadcast, in_blocks, lanes_last, single
from odekit.loops.record import Raw, Rows, Span
from odekit.loops.saving import Track
from odekit.problem import Lifted
from odekit.trees import add
from odekit.typing import PyTree

BACK_WIDTH = 64
"""Lanes a block on the way back, where a step keeps three times as many arrays: 24.5 ms against 43.9 ms for 256 lanes
(1,024 lanes of Lotka-Volterra, float64)."""


class Recorded(Adjoint):
    """Exact gradient of the computed solution on its own grid, step by step backwards.

    Gradients reach y0, args, t0, t1, save times and the method's coefficients. A rejected attempt leaves no trace.
    Moving t0 or t1 stretches the grid in proportion. Costs about 4 solves in all; memory is one state for each of
    `max_steps` steps, or with `every` one for every `every` steps, the ones between being computed again.

    Args:
        every: keep the state at every `every`-th step. None: every step while the record stays below 256 MiB, else
            about the square root of `max_steps`.

    Raises:
        ValueError: `every` is not positive.

    Example:
        >>> Recorded(every=8).every
        8

    Source: Zhuang et al., Adaptive Checkpoint Adjoint Method, ICML 2020, algorithm 2; Sanz-Serna, SIAM Rev. 58
    (2016), 3-33, section 3.
    """

    every: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f"`every` was {self.every}; give a positive number of steps, or None.")

    def __call__(self, program: Program, keep_rows: bool) -> Solve:
        """Return the solve with reverse-mode derivatives."""

        @jax.custom_vjp
        def solve(last: Last, free: Free) -> tuple[Raw, Rows | None]:
            out, _ = single(program.record() if keep_rows else program.run(), last, free)
            return out if keep_rows else (out, None)

        def forward(last: Last, free: Free) -> tuple[tuple[Raw, Rows | None], Any]:
            most = None if keep_rows else min(program.width, BACK_WIDTH)
            (raw, rows), _ = single(program.record(1 if keep_rows else self._every(program, last), most), last, free)
            return (raw, rows if keep_rows else None), (raw.used, rows, last, free)

        def backward(kept: Any, cotangent: tuple[Raw, Rows | None]) -> tuple[Last, Free]:
            used, rows, last, free = kept
            at_rows = None if cotangent[1] is None else cotangent[1].y
            back = Back(last, rows, used, cotangent[0].y, at_rows)
            every = 1 if keep_rows else self._every(program, last)
            (y0, t0, t1), pulled = single(reverse(program, every), back, free)
            dt0 = None if last.dt0 is None else jnp.zeros_like(last.dt0)
            return Last(y0, t0, t1, dt0), pulled

        solve.defvjp(forward, backward)
        return solve

    def saved(self, program: Program) -> Saved:
        """Return the solve that reads states at given times; only its derivative keeps a row for each step."""

        def states(last: Last, free: Free, raw: Raw, rows: Rows) -> PyTree:
            return program.read(free, Track(rows, raw.used, raw.s, raw.y, last.t0, last.t1))

        @jax.custom_vjp
        def solve(last: Last, free: Free) -> tuple[Raw, PyTree]:
            return single(program.saved(), last, free)

        def forward(last: Last, free: Free) -> tuple[tuple[Raw, PyTree], Any]:
            raw, rows = single(program.record(), last, free)[0]
            return (raw, states(last, free, raw, rows)), (raw, rows, last, free)

        def backward(kept: Any, cotangent: tuple[Raw, PyTree]) -> tuple[Last, Free]:
            raw, rows, last, free = kept
            varied, fixed = eqx.partition((last, free._replace(control=[])), eqx.is_inexact_array)

            def reading(varied: Any, end: PyTree, at_rows: PyTree) -> PyTree:
                last, free = eqx.combine(varied, fixed)
                return states(last, free, raw._replace(y=end), rows._replace(y=at_rows))

            (to_last, to_free), end, at_rows = jax.vjp(reading, varied, raw.y, rows.y)[1](cotangent[1])
            back = Back(last, rows, raw.used, add(end, cotangent[0].y), at_rows)
            (y0, t0, t1), pulled = single(reverse(program, 1), back, free._replace(ts=None))
            field, method = add(to_free.field, pulled.field), add(to_free.method, pulled.method)
            dt0 = None if last.dt0 is None else jnp.zeros_like(last.dt0)
            ends = Last(add(y0, to_last.y0), t0 + to_last.t0, t1 + to_last.t1, dt0)
            return ends, Free(field, method, pulled.control, to_free.ts)

        solve.defvjp(forward, backward)
        return solve

    def _every(self, program: Program, last: Last) -> int:
        if self.every is not None:
            return self.every
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(last.y0)) * program.max_steps
        return 1 if size < 1 << 28 else max(1, round(program.max_steps**0.5))


class Back(NamedTuple):
    """What the walk back starts from: the solve's inputs, its record, the cotangents of the end and of the states."""

    last: Last
    rows: Rows
    used: Array
    end: PyTree
    at_rows: PyTree | None


class Sums(NamedTuple):
    """Cotangents gathered on the way: state, both ends of the interval, arrays of field and method."""

    y: PyTree
    t0: Array
    t1: Array
    free: PyTree


def reverse(program: Program, every: int) -> Engine:
    """Return the engine of the walk back; the cotangents of what lanes share come lane by lane.

    Lanes in more than one block record their steps again, block by block: the rows of one block stay in cache, those of
    all lanes would be memory to fill, copy and read.
    """
    width = min(program.width, BACK_WIDTH)

    def again(lanes: int, flags: tuple[bool, ...], back: Back, free: Free) -> tuple[Any, Any]:
        end, rows = program.recorded(lanes, flags, back.last, free, every)
        return walk(program, every, lanes, flags, back._replace(rows=rows, used=end.n), free)

    def engine(lanes: int, flags: tuple[bool, ...], back: Back, free: Free) -> tuple[Any, Any]:
        if lanes <= width:
            return walk(program, every, lanes, flags, back, free)
        return in_blocks(again, width)(lanes, flags, back._replace(rows=None, used=None), free)

    return program.placed(engine, 1 << 62)


def walk(program: Program, every: int, lanes: int, flags: tuple[bool, ...], back: Back, free: Free) -> tuple[Any, Any]:
    """Walk the recorded steps of one block back."""
    lifted = lanes_last(free, flags)
    span = Span.of(back.last.t0, back.last.t1, program.controller(lifted, flags).jumps)
    own = _own(lifted, flags, lanes, axis_of(span.t0, 0))
    flags = tuple(eqx.is_inexact_array(x) or flag for x, flag in zip(jax.tree.leaves(own), flags, strict=True))
    varied, fixed = eqx.partition(own._replace(control=[]), eqx.is_inexact_array)
    whole = jnp.where(span.length > 0, span.length, 1)
    changes = any(event.apply for event in program.events)

    def bind(i: Array, varied: Free) -> tuple[Any, Lifted]:
        arrays = eqx.combine(varied, fixed)
        fence = i >= 0 if program.fenced and lanes > 1 else None
        field, _ = program.lifted(lanes, flags, arrays)
        field = field if span.jumps is None else span.smooth(field, back.rows.s[i])
        way = None if back.rows.way is None else back.rows.way[i]
        return program.method(arrays.method).bound(way), Lifted(field, fence)

    def landed(i: Array, varied: Free, t: Array, y: PyTree) -> PyTree:
        field, events = program.lifted(lanes, flags, eqx.combine(varied, fixed))
        return land(events, field, back.rows.event[i], t, y)

    def again(i: Array, y: PyTree) -> tuple[Array, Array, PyTree]:
        method, problem = bind(i, varied)
        t, dt = span.at(back.rows.s[i]), span.sign * back.rows.dt[i]
        return t, dt, method.step(problem, t, dt, y, method.init(problem, t, y)).y

    def redo(i: Array, y: PyTree) -> PyTree:
        t, dt, y = again(i, y)
        return landed(i, varied, t + dt, y) if changes else y

    def undo(i: Array, y: PyTree, sums: Sums) -> Sums:
        s, h = back.rows.s[i], back.rows.dt[i]
        end, pull = sums.y, None
        if changes:
            start, step, before = again(i, y)
            _, pull = jax.vjp(partial(landed, i), varied, start + step, before)
        more, at_end, end = (None, 0, end) if pull is None else pull(end)
        of_step, (method, _) = partial(bind, i), bind(i, varied)
        y, t, dt, free = method.pullback(of_step, varied, span.at(s), span.sign * h, y, end)
        t, dt, free = t + at_end, dt + at_end, free if more is None else add(free, more)
        if back.at_rows is not None:
            y = jax.tree.map(lambda a, c: a + c[i], y, back.at_rows)
        # t = t0 + share (t1 - t0) with constant shares: moving an end stretches the grid.
        if span.jumps is None:
            at_t1 = t * (s / whole) + dt * (h / whole)
            return Sums(y, sums.t0 + t - at_t1, sums.t1 + at_t1, add(sums.free, free))
        first, last = span.piece(s)  # between jumps nothing moves
        at_last = (t * (s - first) + dt * h) / jnp.where(last > first, last - first, 1)
        at_t0, at_t1 = jnp.where(first == 0, t - at_last, 0), jnp.where(last == span.length, at_last, 0)
        return Sums(y, sums.t0 + at_t0, sums.t1 + at_t1, add(sums.free, free))

    zero = jnp.zeros_like(span.length)
    sums = Sums(back.end, zero, zero, jax.tree.map(jnp.zeros_like, varied))
    sums = program.compiled(partial(_undo_all, back, every=every, redo=redo, undo=undo))(jnp.max(back.used), sums)
    gathered = eqx.combine(sums.free, _zeros(fixed))._replace(control=_zeros(own.control))
    return (sums.y, sums.t0, sums.t1), jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), gathered)


def _undo_all(back: Back, used: Array, sums: Sums, *, every: int, redo: Any, undo: Any) -> Sums:
    """Undo the steps from the last to the first; with `every` > 1 the states between are computed again."""

    def segment(state: tuple[Array, Sums]) -> tuple[Array, Sums]:
        j, sums = state
        y = jax.tree.map(lambda x: x[j], back.rows.y)
        if every == 1:
            return j - 1, undo(j, y, sums)
        first = j * every
        _, ys = lax.scan(lambda y, m: (redo(first + m, y), y), y, jnp.arange(every, dtype=jnp.int32))
        offsets = jnp.arange(every, dtype=jnp.int32)
        sums, _ = lax.scan(lambda s, mx: (undo(first + mx[0], mx[1], s), None), sums, (offsets, ys), reverse=True)
        return j - 1, sums

    last = (used - 1) // every
    return lax.while_loop(lambda state: state[0] >= 0, segment, (last, sums))[1]


def _own(free: PyTree, flags: tuple[bool, ...], lanes: int, axis: Any) -> PyTree:
    """Give every lane its own copy of what may be differentiated: no sum over lanes inside the loop."""
    leaves, tree = jax.tree.flatten(free)
    copies = [
        broadcast(x[..., None], (*x.shape, lanes), x.ndim, axis) if eqx.is_inexact_array(x) and not flag else x
        for x, flag in zip(leaves, flags, strict=True)
    ]
    return jax.tree.unflatten(tree, copies)


def _zeros(tree: PyTree) -> PyTree:
    """Return zero cotangents; whole numbers have none."""
    return jax.tree.map(lambda x: jnp.zeros_like(x) if eqx.is_inexact_array(x) else None, tree)
