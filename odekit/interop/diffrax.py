"""`diffeqsolve` as diffrax has it, run by our loop where that can serve."""

import logging
from functools import partial
from typing import Any, Literal, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from odekit import errors
from odekit.errors import Result
from odekit.interop import output, translate
from odekit.interop.controllers import Steady
from odekit.interop.obstacles import obstacle
from odekit.interop.translate import Call
from odekit.problem import as_problem
from odekit.request import Request, prepare
from odekit.solution import SaveAt
from odekit.solve import run
from odekit.tracing import Static, split
from odekit.trees import common_real
from odekit.typing import PyTree

_LOG = logging.getLogger("odekit")
_NOTED: set[str] = set()
_THEIRS = diffrax.diffeqsolve
_END, _CONSTANT = diffrax.SaveAt(t1=True), diffrax.ConstantStepSize()
_RECURSIVE, _SILENT = diffrax.RecursiveCheckpointAdjoint(), diffrax.NoProgressMeter()


class Field(eqx.Module):
    """The vector field of an `ODETerm`, which sees time in the dtype that diffrax shows it in."""

    term: diffrax.ODETerm
    dtype: Any = eqx.field(static=True)

    def __call__(self, t: Array, y: PyTree, args: PyTree) -> PyTree:
        """Return `dy`."""
        return self.term.vf(jnp.asarray(t, self.dtype), y, args)


class Plan(NamedTuple):
    """The static half of a call, with the coefficients that are compiled in; equal ones share one compilation."""

    call: Static
    method: Static
    settings: translate.Settings | None
    n_steps: int | None


class Numbers(NamedTuple):
    """The numbers of a call, and what has to be worked out from them before it is compiled."""

    call: list[Any]
    method: list[Any]
    marks: tuple[Any, Any]
    lengths: Any


def diffeqsolve(
    terms: Any,
    solver: Any,
    t0: Any,
    t1: Any,
    dt0: Any,
    y0: PyTree,
    args: PyTree = None,
    *,
    saveat: diffrax.SaveAt = _END,
    stepsize_controller: Any = _CONSTANT,
    adjoint: Any = _RECURSIVE,
    event: Any = None,
    max_steps: int | None = 4096,
    throw: bool | str = True,
    progress_meter: Any = _SILENT,
    solver_state: PyTree = None,
    controller_state: PyTree = None,
    made_jump: Any = None,
    discrete_terminating_event: Any = None,
    engine: Literal["auto", "odekit", "diffrax"] = "auto",
) -> diffrax.Solution:
    """Solve what `diffrax.diffeqsolve` solves, with the same arguments and the same `diffrax.Solution` back.

    An `ODETerm` with an explicit Runge-Kutta solver and a `PIDController`, a `ClipStepSizeController` of one,
    `ConstantStepSize` or `StepTo` runs in odekit's loop: under `jax.vmap` all solves are lanes of one loop, each with
    its own steps. Anything else goes to diffrax as it is, and the logger "odekit" says once which argument was the
    reason.

    Steps are diffrax's, adaptive ones to the float32 of the controller, but for this: without `dt0` the first one is
    estimated (diffrax 0.7 takes 0.01 whatever the problem), within 1 % of t1 or of a clipping time a step goes there
    (and does not shorten the next), and constant steps over traced times all have one length. Between steps a method
    is read by its own interpolant or by the cubic Hermite with the slopes of both ends; `sol.derivative(t)` is the
    vector field at `sol.evaluate(t)`. A field or state that is not finite ends the solve there with
    `RESULTS.nonfinite`, a step below what time can resolve with `RESULTS.dt_min_reached`; complex states bring no
    warning.

    Args:
        terms: a term, or a pytree of terms.
        solver: a diffrax solver, or `as_diffrax(method)`.
        t0: start.
        t1: end; may be smaller than t0.
        dt0: length of the first step, or of all; None for a `PIDController` to choose, and for `StepTo`.
        y0: initial state; becomes as wide as the times, as in diffrax.
        args: passed to the vector field.
        saveat: what is saved. Times outside of the interval that are known only inside `jit` leave infinities.
        stepsize_controller: how steps are chosen.
        adjoint: how derivatives are taken. `RecursiveCheckpointAdjoint` becomes `adjoint.Recorded`, `ForwardMode`
            becomes `adjoint.Forward`; fixed grids are differentiated in any mode.
        event: goes to diffrax.
        max_steps: most attempted steps, or None.
        throw: whether a failed solve raises: after the compiled call where our loop ran outside of any
            transformation. Inside `jit` and `vmap` nothing raises there, and the cause is in `sol.result`, unless this
            is "traced": no host callback is compiled in.
        progress_meter: goes to diffrax.
        solver_state: goes to diffrax.
        controller_state: goes to diffrax.
        made_jump: goes to diffrax.
        discrete_terminating_event: goes to diffrax, which has deprecated it.
        engine: "odekit" raises where our loop cannot serve, "diffrax" always delegates.

    Returns:
        A `diffrax.Solution`; `result` is a member of `diffrax.RESULTS`.

    Raises:
        ValueError: `engine` is "odekit" and an argument has no counterpart; the message names it.
        SolveError: a solve of ours did not reach t1 (a RuntimeError, with diffrax's sentence for it).

    Example:
        >>> import diffrax
        >>> float(diffeqsolve(diffrax.ODETerm(lambda t, y, args: -y), diffrax.Tsit5(), 0.0, 1.0, 0.1, 1.0).ys[0])
        0.36788

    Source: Kidger, On Neural Differential Equations, 2021, chapter 5.
    """
    call = Call(
        terms, solver, t0, t1, dt0, y0, args, saveat, stepsize_controller, adjoint, event, max_steps, throw,
        progress_meter, solver_state, controller_state, made_jump, discrete_terminating_event,
    )  # fmt: skip
    if engine not in ("auto", "odekit", "diffrax"):
        raise ValueError(f"`engine` was {engine!r}; give 'auto', 'odekit' or 'diffrax'.")
    why = "`engine` is 'diffrax'" if engine == "diffrax" else obstacle(call)
    if why is None:
        return _solve(call)
    if engine == "odekit":
        raise ValueError(f"{why}; odekit's loop cannot serve that: change it, or give engine='auto'.")
    if engine == "auto" and why not in _NOTED:
        _NOTED.add(why)
        _LOG.warning("odekit.diffeqsolve is run by diffrax: %s.", why)
    return _THEIRS(**call._asdict())


def _solve(call: Call) -> diffrax.Solution:
    sol, code, reached = _run(*_plan(call))
    sol.stats["max_steps"] = call.max_steps
    if call.saveat.made_jump:
        sol = eqx.tree_at(lambda s: s.made_jump, sol, False, is_leaf=lambda x: x is None)
    if call.throw == "traced":
        return sol.result.error_if(sol, code != Result.SUCCESS)
    if call.throw and errors.known(code) and int(code) != Result.SUCCESS:
        raise errors.SolveError(f"{diffrax.RESULTS[sol.result]} {errors.sentence(int(code), float(reached))}")
    return sol


def _plan(call: Call) -> tuple[Plan, Numbers]:
    """Return both halves of a call; all that its values alone tell is settled here."""
    method, fixed = translate.parted(call.solver)
    settings, n_steps, lengths, marks = None, None, call.grid, (None, None)
    if call.adaptive:
        settings, marks = call.settings, translate.marks_of(call)
    elif lengths is not None:
        n_steps = len(lengths)
        even = np.ptp(lengths) <= 4 * jnp.finfo(call.dtype).eps * np.sum(lengths)
        lengths = None if even else lengths
    numbers, static = split(translate.traceable(call), numbers=True)
    return Plan(static, fixed, settings, n_steps), Numbers(numbers, method, marks, lengths)


@partial(jax.jit, static_argnums=0)
def _run(plan: Plan, numbers: Numbers) -> tuple[diffrax.Solution, Array, Array]:
    """Solve, and return diffrax's solution, our code, the time that was reached."""
    call = plan.call.join(numbers.call)
    field, dtype = Field(call.terms, call.dtype), call.dtype
    request = _request(call, field, plan, numbers)
    arrays, own = request.arrays, run(*request)
    end, n = (own.t1, own.y1), 0 if arrays.ts is None else arrays.ts.shape[0]
    times, steps = [jax.tree.map(lambda x, part=part: x[part], (own.ts, own.ys)) for part in (slice(n), slice(n, None))]
    saved = output.Saved((arrays.t0, arrays.y0), times, steps, end, own.stats["accepted"])

    tree = jax.tree.structure(call.saveat.subs, is_leaf=translate.is_sub)
    laid = [output.buffers(sub, saved, call.args, call.max_steps, dtype) for sub in call.subs]
    ts, ys = (jax.tree.unflatten(tree, [pair[i] for pair in laid]) for i in (0, 1))
    accepted, rejected = own.stats["accepted"], own.stats["rejected"]
    t0, t1, reached = (jnp.asarray(t, dtype) for t in (arrays.t0, arrays.t1, own.t1))
    dense = None
    if call.saveat.dense:
        dense = output.Interpolation(own.dense, t0, reached, *split((field, call.args), numbers=True))
    sol = diffrax.Solution(
        t0=t0,
        t1=t1,
        ts=ts,
        ys=ys,
        interpolation=dense,  # pyright: ignore[reportArgumentType]
        stats={
            "num_steps": accepted + rejected,
            "num_accepted_steps": accepted,
            "num_rejected_steps": rejected,
        },
        result=output.result_of(own.result),
        solver_state=None,
        controller_state=None,
        made_jump=None,
        event_mask=None,
    )
    return sol, own.result, reached


def _request(call: Call, field: Field, plan: Plan, numbers: Numbers) -> Request:
    """Return the call as a request of our own."""
    times = [jnp.asarray(sub.ts, call.dtype) for sub in call.subs if sub.ts is not None]
    steps = any(sub.steps for sub in call.subs)
    saveat = SaveAt(_joined(times, call) if times else None, steps=steps, dense=call.saveat.dense)
    request = prepare(
        field,
        translate.promoted(call.y0, call.dtype),
        call.t0,
        call.t1,
        args=call.args,
        saveat=saveat,
        adjoint=translate.adjoint_of(call),
        max_steps=translate.UNBOUNDED if call.max_steps is None else call.max_steps,
        **_steps(call, plan, numbers),
    )
    if plan.settings is not None or plan.n_steps is not None:
        return request
    bundle, static = split((as_problem(field), call.args, Steady(), ()), numbers=True)
    spec = request.spec._replace(bundle=static, method=plan.method)
    return Request(spec, request.arrays._replace(bundle=bundle, method=numbers.method))


def _steps(call: Call, plan: Plan, numbers: Numbers) -> dict[str, Any]:
    """Return how steps are chosen, as arguments of our own."""
    method = plan.method.join(numbers.method)
    if plan.settings is not None:
        pid = translate.controller_of(call.stepsize_controller, plan.settings, numbers.marks)
        return {"method": method, "controller": pid, "dt0": translate.first_of(call)}
    if plan.n_steps is None:
        return {"method": None, "dt0": _steady_length(call)}
    grid = {"n_steps": plan.n_steps} if numbers.lengths is None else {"dt": numbers.lengths}
    return {"method": method, **grid}


def _steady_length(call: Call) -> Array:
    """Return the length of equal steps over times that are known only inside `jit`."""
    t0, t1, dt0 = (jnp.asarray(t) for t in (call.t0, call.t1, call.dt0))
    n, whole = translate.steps_of(jnp, t0, t1, dt0, call.dtype)
    whole, n = (x.astype(common_real(whole)) for x in (whole, n))
    return jnp.where(whole == 0, 1, whole / n)


def _joined(times: list[Array], call: Call) -> Array:
    """Return the save times of all parts as one array, in the direction of the solve."""
    if len(times) == 1:
        return times[0]
    direction = jnp.where(jnp.asarray(call.t1) < jnp.asarray(call.t0), -1, 1).astype(times[0].dtype)
    return direction * jnp.sort(direction * jnp.concatenate(times))
