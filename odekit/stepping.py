"""The adaptive loop in pieces: `init`, `step`, `finish`, over a state of arrays.

They run what `solve` runs, step for step: resuming, streaming, hybrid systems and progress are uses of them.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit import errors
from odekit.control import PID
from odekit.errors import Result
from odekit.loops.adaptive import Lanes
from odekit.loops.engine import SMALL, Free, Last, Program, block_width, size
from odekit.loops.events import Watched
from odekit.loops.kernel import refusal
from odekit.loops.lanes import single, varying
from odekit.loops.record import Span
from odekit.problem import as_problem
from odekit.request import Arrays, Spec, prepare
from odekit.solution import Solution, check
from odekit.solvers.base import Method
from odekit.tracing import Static, Traced, close, split
from odekit.typing import PyTree, Scalar


class State(eqx.Module):
    """A solve under way. Every leaf is an array, so that it can be saved, sent and resumed; `vmap` puts axes in front.

    Attributes:
        lanes: what the loop carries, whose own properties read it inside of the loop, where lanes come last.
        t0: start of the interval.
        t1: end of the interval.

    Example:
        >>> bool(init(lambda t, y, args: -y, 1.0, 0.0, 1.0).done)
        False
    """

    lanes: Lanes
    t0: Array
    t1: Array
    method_arrays: list[Array]
    control_arrays: list[Array]
    event_arrays: list[Array]
    method: Static = eqx.field(static=True)
    control: Static = eqx.field(static=True)
    events: Static = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    endless: bool = eqx.field(static=True)

    @property
    def t(self) -> Array:
        """The time reached."""
        span = Span.of(self.t0, self.t1)
        here = span.at(self.lanes.clock[..., 0] + self.lanes.clock[..., 1])
        return jnp.where(self.done & (self.event < 0), self.t1, here)

    @property
    def y(self) -> PyTree:
        """The state at `t`."""
        return self.lanes.y

    @property
    def accepted(self) -> Array:
        """The number of accepted steps."""
        return self.lanes.counts[..., 0]

    @property
    def tried(self) -> Array:
        """The number of attempted steps."""
        return self.lanes.counts[..., 1]

    @property
    def done(self) -> Array:
        """Whether t1 is reached, or an event that ends the solve."""
        return self.lanes.clock[..., 2] == 0

    @property
    def event(self) -> Array:
        """Which event has ended the solve; -1 for none."""
        if not self.lanes.watch:
            return jnp.full_like(self.lanes.n, -1)
        return jnp.where(self.done, self.lanes.watch.whole[..., 0], -1)

    @property
    def result(self) -> Array:
        """The code of how it stands: 0 at its end, `UNFINISHED` under way, else why it stopped."""
        dt = self.lanes.clock[..., 2]
        under_way = jnp.where(self.lanes.n < self.max_steps, int(Result.UNFINISHED), int(Result.MAX_STEPS))
        code = jnp.where(dt > 0, under_way, -dt.astype(jnp.int32)).astype(jnp.int32)
        return jnp.where(self.done & (self.event < 0), int(Result.NO_EVENT), code) if self.endless else code


def init(
    problem: Any,
    y0: PyTree,
    t0: Scalar,
    t1: Scalar,
    method: Method | None = None,
    args: PyTree = None,
    *,
    rtol: PyTree = 1e-5,
    atol: PyTree = 1e-6,
    controller: PID | None = None,
    dt0: Scalar | None = None,
    event: Any = None,
    max_steps: int | None = None,
) -> State:
    """Return the state of an adaptive solve before its first step.

    Args:
        problem: as for `solve`.
        y0: as for `solve`.
        t0: as for `solve`.
        t1: as for `solve`.
        method: as for `solve`.
        args: as for `solve`; not kept in the state: give the same to `step`.
        rtol: as for `solve`.
        atol: as for `solve`.
        controller: as for `solve`.
        dt0: as for `solve`.
        event: as for `solve`; kept in the state. Derivatives of its time are those of `solve` alone.
        max_steps: most attempts in all.

    Returns:
        The state: arrays only, with `t`, `y`, `done` and `result`.

    Raises:
        ValueError: as `solve` does.
        TypeError: as `solve` does.

    Example:
        >>> state = init(lambda t, y, args: -y, 1.0, 0.0, 1.0)
        >>> float(state.t)
        0.0

    Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, 1993, II.4.
    """
    request = prepare(
        problem, y0, t0, t1, method, args, rtol=rtol, atol=atol, controller=controller, dt0=dt0, event=event,
        max_steps=max_steps,
    )  # fmt: skip
    return begin(request.spec, request.arrays)


def step(problem: Any, state: State, *, n: int = 64, args: PyTree = None) -> State:
    """Return the state at most `n` accepted steps later; at t1, or once it has failed, it stays as it is.

    Steps are those that one `solve` would take, to the bit: a pause shortens none.

    Args:
        problem: the one given to `init`.
        state: from `init` or `step`.
        n: most accepted steps; a new number doesn't compile again.
        args: the ones given to `init`.

    Returns:
        The state after the steps.

    Raises:
        TypeError: the vector field doesn't fit the state.

    Example:
        >>> state = step(lambda t, y, args: -y, init(lambda t, y, args: -y, 1.0, 0.0, 1.0))
        >>> bool(state.done)
        True

    Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, 1993, II.4.
    """
    bundle, static = split((as_problem(problem), args), numbers=True)
    return _proceed(static, bundle, state, jnp.asarray(n, jnp.int32))


def finish(state: State, *, throw: bool = True) -> Solution:
    """Return the solution as it stands: its end is the last accepted step.

    Args:
        state: from `init` or `step`.
        throw: whether a failed solve raises (outside of `jit`); one that is under way never does.

    Returns:
        The same `Solution` that one `solve` returns once t1 is reached.

    Raises:
        SolveError: the solve has failed.

    Example:
        >>> finish(init(lambda t, y, args: -y, 1.0, 0.0, 1.0)).message()
        'The solve stopped at t=0: it was not run to t1; call step again.'

    Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, 1993, II.4.
    """
    lanes, method = state.lanes, state.method.join(state.method_arrays)
    t, result = state.t, state.result
    accepted, tried = state.accepted, state.tried
    sol = Solution(
        ts=t[..., None],
        ys=jax.tree.map(lambda y: jnp.expand_dims(y, t.ndim), lanes.y),
        y1=lanes.y,
        t1=t,
        result=result,
        stats={
            "accepted": accepted,
            "rejected": tried - accepted,
            "evaluations": 1 + tried * method.stages,
        },
        event=state.event,
        method=method.name,
        source=method.source,
    )
    known = errors.known(result, t)
    under_way = known and bool(jnp.all((result == Result.UNFINISHED) | (result == Result.SUCCESS)))
    return check(sol) if throw and known and not under_way else sol


@partial(jax.jit, static_argnums=0)
def begin(spec: Spec, arrays: Arrays) -> State:
    """Return the state before the first step of a checked request."""
    arrays = varying(arrays)
    program, last, free = lay_out(spec, arrays)
    lanes, _ = single(program.begin(), last, free)
    _, _, controller, events = spec.bundle.join(arrays.bundle)
    event_arrays, static = split(events, numbers=True)
    return State(
        lanes=lanes,
        t0=arrays.t0,
        t1=arrays.t1,
        method_arrays=arrays.method,
        control_arrays=free.control,
        event_arrays=[jnp.asarray(x) for x in event_arrays],
        method=spec.method,
        control=split(controller, numbers=True)[1],
        events=static,
        max_steps=spec.max_steps,
        endless=spec.endless,
    )


def lay_out(spec: Spec, arrays: Arrays) -> tuple[Program, Last, Free]:
    """Return the loop of a checked request, what every lane has of its own, and what lanes may share."""
    problem, args, controller, events = spec.bundle.join(arrays.bundle)
    fn, watched, field = close(problem, arrays.t0, arrays.y0, args, events)
    program = program_of(fn, spec.method, controller, spec.max_steps, arrays.y0, watched)
    bounds = [jnp.asarray(x) for x in split(controller, numbers=True)[0]]
    return program, Last(arrays.y0, arrays.t0, arrays.t1, arrays.dt0), Free(field, arrays.method, bounds)


@partial(jax.jit, static_argnums=0)
def _proceed(static: Static, bundle: list[Any], state: State, n: Array) -> State:
    bundle, state, n = varying((bundle, state, n))
    problem, args = static.join(bundle)
    fn, watched, free = close(problem, state.t0, state.y, args, state.events.join(state.event_arrays))
    controller = state.control.join(state.control_arrays)
    program = program_of(fn, state.method, controller, state.max_steps, state.y, watched)
    last = (Last(state.y, state.t0, state.t1, None), state.lanes, state.accepted + n)
    own = Free(free, state.method_arrays, state.control_arrays)
    lanes, _ = single(program.proceed(), last, own)
    return eqx.tree_at(lambda s: s.lanes, state, lanes)


def program_of(
    fn: Traced,
    method: Static,
    controller: PID,
    max_steps: int,
    y: PyTree,
    events: tuple[Watched, ...] = (),
) -> Program:
    """Return the static half of the loop for a vector field, with blocks that suit the state and this machine.

    A field with jumps stays out of one kernel: there the pieces of a solve were one rounding off the whole.
    """
    control = split(controller, numbers=True)[1]
    on_cpu = jax.default_backend() == "cpu"
    one_kernel = on_cpu and refusal(fn.jaxpr) is None and size(y) <= SMALL and controller.jumps is None
    parts = [fn, *[f for e in events for f in (e.fn, e.apply) if f is not None]]
    return Program(
        fn,
        method.join,
        control.join,
        max_steps,
        width=block_width(y, 64 if one_kernel else 256),
        fenced=on_cpu,
        one_kernel=one_kernel,
        events=events,
        apart=all(part.anywhere for part in parts),
    )
