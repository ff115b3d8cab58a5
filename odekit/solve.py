"""The front door: check, convert, bind, pick the loop and the adjoint, wrap up."""

from collections.abc import Callable, Sequence
from functools import partial, singledispatch
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit import errors, stepping
from odekit.adjoint.base import Adjoint
from odekit.control import PID
from odekit.event import Event
from odekit.loops import fixed, saving
from odekit.loops.brownian import increments
from odekit.loops.events import Watched
from odekit.loops.landing import move_end
from odekit.loops.lanes import varying
from odekit.loops.record import Raw, Rows, Span
from odekit.problem import Bound
from odekit.request import Arrays, Request, Spec, check_order, prepare
from odekit.solution import Solution, check
from odekit.solvers.base import Method
from odekit.tracing import check_answer, split
from odekit.typing import PyTree, Scalar


def solve(
    problem: Any,
    y0: PyTree,
    t0: Scalar,
    t1: Scalar,
    method: Any = None,
    args: PyTree = None,
    *,
    rtol: PyTree = 1e-5,
    atol: PyTree = 1e-6,
    controller: PID | None = None,
    n_steps: int | None = None,
    dt: Scalar | None = None,
    dt0: Scalar | None = None,
    saveat: Any = None,
    event: Event | Sequence[Event] | None = None,
    adjoint: Adjoint | None = None,
    key: Array | None = None,
    max_steps: int | None = None,
    throw: bool | str = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> Solution:
    """Integrate a problem from t0 to t1, adaptively or on a fixed grid.

    Under `jax.vmap` all solves run as lanes of one loop, each with its own steps. New values of states, times,
    arguments and tolerances never compile again.

    Args:
        problem: `f(t, y, args) -> dy` for an ODE, or a `SemiLinear` or `SDE`. One lane: no batch axis is needed.
        y0: initial state; any pytree of float or complex arrays, float16 to complex128, whose dtypes are kept. Whole
            numbers become floats.
        t0: start, in the units of t. Times are kept in the real dtype of the state, at least float32.
        t1: end; may be smaller than t0.
        method: default `Tsit5()` for an ODE, `Krogstad4()` or `Tsit5()` for a semilinear problem on a uniform or
            adaptive grid, for an SDE `EulerMaruyama()`, or `StochasticHeun()` where steps are
            adaptive and the noise is additive. A diffrax solver is run by diffrax, an implicit one with
            Newton's method unless it has a root finder of its own.
        args: passed to the problem; any pytree.
        rtol: relative tolerance; a scalar, or a pytree like y0.
        atol: absolute tolerance, in the units of y; likewise.
        controller: step-size controller; replaces rtol and atol.
        n_steps: number of equal steps; the grid is then fixed.
        dt: length of the steps of a fixed grid (the last one is shortened to end at t1), or (N,) lengths that add up to
            `t1 - t0`.
        dt0: length of the first adaptive step; default from the size of the solution and its derivatives.
        saveat: None for the end alone, an array of times, or a `SaveAt`.
        event: an `Event` or several, for an adaptive solve: `t1` may then be infinite.
        adjoint: how derivatives of an adaptive solve are taken; default `adjoint.Recorded()`. Fixed grids are
            differentiated through their scan, step by step recomputed, in any mode.
        key: PRNG key of the noise of an SDE.
        max_steps: most attempts of an adaptive solve; default 4096. A recorded solve sets aside memory for each.
        throw: whether a failing lane raises on the host after the compiled call; inside `jit` nothing can raise, and
            the code is in `sol.result`, unless this is "traced".
        progress: None, or `progress(done, total, note)`, such as `odekit.progress.Bar("solve")`, called on the host
            between pieces of an eager adaptive solve that saves only its end.

    Returns:
        The solution: `ts`, `ys`, `y1`, `t1`, `result`, `stats`.

    Raises:
        ValueError: a value that no solve can use; the message names the argument.
        TypeError: a type or dtype that does not fit, or a method that cannot do what is asked.
        SolveError: a lane did not reach t1 (after the compiled call, outside of `jit`).

    Example:
        >>> sol = solve(lambda t, y, args: -y, 1.0, 0.0, 1.0, rtol=1e-6, atol=1e-6)
        >>> round(float(sol.y1), 4)
        0.3679

    Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, 1993, II.4.
    """
    check_order(problem, y0)
    if method is not None and not isinstance(method, Method):
        for name, given in (("event", event), ("key", key), ("progress", progress)):
            if given is not None:
                raise ValueError(f"`{name}` was given with a method of another library; drop it, or call diffeqsolve.")
        return solve_by(
            method, problem, y0, t0, t1, args, rtol=rtol, atol=atol, controller=controller, n_steps=n_steps, dt=dt,
            dt0=dt0, saveat=saveat, adjoint=adjoint, max_steps=max_steps, throw=throw,
        )  # fmt: skip
    request = prepare(
        problem, y0, t0, t1, method, args, rtol=rtol, atol=atol, controller=controller, n_steps=n_steps, dt=dt,
        dt0=dt0, saveat=saveat, event=event, adjoint=adjoint, key=key, max_steps=max_steps,
    )  # fmt: skip
    sol = run(*request) if progress is None else _watched(problem, request, args, progress)
    if throw == "traced":
        failed = sol.result != errors.Result.SUCCESS
        return eqx.error_if(sol, failed, "A solve did not reach t1; look at `sol.result` with `throw=False`.")
    return check(sol) if throw and errors.known(sol.result, sol.t1) else sol


@singledispatch
def solve_by(method: Any, *_: Any, **__: Any) -> Solution:
    """Solve by a method of another library; the doors register the types they know."""
    raise TypeError(f"`method` was {type(method).__name__}; give a method of odekit such as Tsit5().")


def _watched(problem: Any, request: Request, args: PyTree, progress: Callable[[int, int, str], None]) -> Solution:
    """Run by pieces of 256 steps, and tell `progress` the thousandths of the interval that are done."""
    spec, arrays = request
    if spec.n_steps is not None or spec.keep_rows or not errors.known(arrays.t0, arrays.t1):
        raise ValueError("`progress` was given; it needs an eager adaptive solve that saves only its end: drop it.")
    state = stepping.begin(spec, arrays)
    while int(state.result) == errors.Result.UNFINISHED:
        state = stepping.step(problem, state, n=256, args=args)
        share = float((state.t - state.t0) / (state.t1 - state.t0))
        progress(int(1000 * share), 1000, f"t={float(state.t):.4g}, {int(state.accepted)} steps")
    return stepping.finish(state, throw=False)


@partial(jax.jit, static_argnums=0)
def run(spec: Spec, arrays: Arrays) -> Solution:
    """Run a checked request."""
    arrays = varying(arrays)
    problem, args, controller, _ = spec.bundle.join(arrays.bundle)
    method = spec.method.join(arrays.method)
    if spec.n_steps is None:
        return _adaptive(spec, arrays, args, controller, method)
    return _fixed(spec, spec.n_steps, arrays, problem, args, controller, method)


def _adaptive(spec: Spec, arrays: Arrays, args: PyTree, controller: PID, method: Method) -> Solution:
    program, last, free = stepping.lay_out(spec, arrays)
    starts = 1 if arrays.dt0 is not None else 2
    rest = program.bind, free.field, method, args, controller, starts
    rows_asked = spec.saveat.steps or spec.saveat.dense or program.events or controller.jumps is not None
    saved = None if rows_asked else spec.adjoint.saved(program)
    if arrays.ts is not None and saved is not None:
        sign = Span.of(arrays.t0, arrays.t1).sign
        raw, ys = saving.in_order(lambda ts: saved(last, free._replace(ts=ts)), arrays.ts, sign)
        return _wrap(spec, arrays, raw, None, *rest, at_ts=ys)
    raw, rows = spec.adjoint(program, spec.keep_rows)(last, free)
    if program.events:
        span = Span.of(arrays.t0, arrays.t1, controller.jumps)
        raw = _ended(raw, program.events, partial(program.fn, free.field), free.field, span)
    return _wrap(spec, arrays, raw, rows, *rest)


def _fixed(spec: Spec, n: int, arrays: Arrays, problem: Any, args: PyTree, controller: PID, method: Method) -> Solution:
    check_answer(arrays.y0, jax.eval_shape(lambda t, y: problem(t, y, args), arrays.t0, arrays.y0))
    noise = None if arrays.key is None else increments(arrays.key)
    bound = Bound(problem, args, arrays.y0, noise)
    grid = fixed.Grid(n, arrays.fractions)
    raw, rows = fixed.run(method, bound, grid, arrays.y0, arrays.t0, arrays.t1, spec.keep_rows)
    leaves, static = split((problem, args), numbers=True)
    shapes = jax.eval_shape(lambda: arrays.y0)  # dense output leaves this call, and with it what `bind` holds

    def bind(free: list[Any]) -> Bound:
        own_problem, own_args = static.join(free)
        return Bound(own_problem, own_args, shapes)

    return _wrap(spec, arrays, raw, rows, bind, leaves, method, args, controller, starts=1)


def _ended(raw: Raw, watched: tuple[Watched, ...], field: Any, free: PyTree, span: Span) -> Raw:
    """Return the end with the derivative of the time of the event that has ended the solve."""
    own = tuple(e._replace(fn=partial(e.fn, free), apply=None) for e in watched)
    s = jnp.where(raw.event >= 0, span.share(raw.s), raw.s)
    t, y = move_end(own, field, raw.event, span.at(s), raw.y)
    return raw._replace(y=y, s=jnp.where(raw.event >= 0, span.sign * (t - span.t0), raw.s))


def _wrap(
    spec: Spec,
    arrays: Arrays,
    raw: Raw,
    rows: Rows | None,
    bind: Any,
    free: PyTree,
    method: Method,
    args: PyTree,
    controller: PID,
    starts: int,
    at_ts: PyTree = None,
) -> Solution:
    """Make the solution: read the saved values off the recorded steps and count what was done."""
    saveat = spec.saveat
    if rows is None:
        rows = Rows(jnp.zeros(1), jnp.zeros(1), jax.tree.map(lambda y: y[None], arrays.y0))
    event, code = jnp.full_like(raw.code, -1) if raw.event is None else raw.event, raw.code
    code = jnp.where((code == 0) & (event < 0), int(errors.Result.NO_EVENT), code) if spec.endless else code
    track = saving.Track(rows, raw.used, raw.s, raw.y, arrays.t0, arrays.t1, controller.jumps)
    if arrays.ts is not None and at_ts is None:
        at_ts = saving.at_times(bind, free, method, track, arrays.ts)
    ts, ys = saving.gather(saveat, track, arrays.y0, arrays.ts, at_ts)
    if saveat.fn is not None:
        ys = jax.vmap(saveat.fn, (0, 0, None))(ts, ys, args)
    stats = {
        "accepted": raw.accepted,
        "rejected": raw.tried - raw.accepted,
        "evaluations": starts + raw.tried * method.stages,
    }
    if saveat.judged:
        stats |= saving.judge(bind, free, method, track, controller)
    at_t1 = raw.code == 0 if raw.event is None else (raw.code == 0) & (event < 0)
    return Solution(
        ts=ts,
        ys=ys,
        y1=raw.y,
        t1=jnp.where(at_t1, arrays.t1, Span.of(arrays.t0, arrays.t1).at(raw.s)),
        result=code,
        stats=stats,
        event=event,
        dense=jax.tree_util.Partial(partial(saving.at_times, bind), free, method, track) if saveat.dense else None,
        method=method.name,
        source=method.source,
    )
