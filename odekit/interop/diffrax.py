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
from odekit.interop.translate import Call
from odekit.problem import as_problem
from odekit.request import Arrays, Request, Spec, Static, prepare, split
from odekit.solution import SaveAt
from odekit.solve import run
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
    """The static half of a call; equal ones share one compilation."""

    spec: Spec
    subs: Static
    max_steps: int | None
    dtype: Any


class Parts(NamedTuple):
    """What the compiled half of a call returns."""

    t0: Array
    t1: Array
    ts: PyTree
    ys: PyTree
    result: Any
    code: Array
    end: Array
    counts: dict[str, Array]
    dense: Any


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
    why = "`engine` is 'diffrax'" if engine == "diffrax" else translate.obstacle(call)
    if why is None:
        return _solve(call)
    if engine == "odekit":
        raise ValueError(f"{why}; odekit's loop cannot serve that: change it, or give engine='auto'.")
    if engine == "auto" and why not in _NOTED:
        _NOTED.add(why)
        _LOG.warning("odekit.diffeqsolve is run by diffrax: %s.", why)
    return _THEIRS(**call._asdict())


def _solve(call: Call) -> diffrax.Solution:
    dtype = translate.time_dtype(call)
    field = Field(call.terms, dtype)
    plan, arrays, subs = _prepare(call, field, dtype)
    parts = _run(plan, arrays, subs)
    interpolation = None
    if call.saveat.dense:
        interpolation = output.Interpolation(parts.dense, parts.t0, parts.end, *split((field, call.args), numbers=True))
    sol = diffrax.Solution(
        t0=parts.t0,
        t1=parts.t1,
        ts=parts.ts,
        ys=parts.ys,
        interpolation=interpolation,  # pyright: ignore[reportArgumentType]
        stats={**parts.counts, "max_steps": call.max_steps},
        result=parts.result,
        solver_state=None,
        controller_state=None,
        made_jump=False if call.saveat.made_jump else None,
        event_mask=None,
    )
    if call.throw == "traced":
        return parts.result.error_if(sol, parts.code != Result.SUCCESS)
    if call.throw and errors.known(parts.code) and int(parts.code) != Result.SUCCESS:
        raise errors.SolveError(f"{diffrax.RESULTS[parts.result]} {errors.sentence(int(parts.code), float(parts.end))}")
    return sol


def _prepare(call: Call, field: Field, dtype: Any) -> tuple[Plan, Arrays, list[Any]]:
    """Return the call as a request of our own, and what is saved apart from it."""
    times = [jnp.asarray(sub.ts, dtype) for sub in call.subs if sub.ts is not None]
    steps = any(sub.steps for sub in call.subs)
    saveat = SaveAt(_joined(times, call) if times else None, steps=steps, dense=call.saveat.dense)
    request = prepare(
        field,
        translate.promoted(call.y0, dtype),
        call.t0,
        call.t1,
        args=call.args,
        saveat=saveat,
        adjoint=translate.adjoint_of(call),
        max_steps=translate.UNBOUNDED if call.max_steps is None else int(call.max_steps),
        **_steps(call, dtype),
    )
    if call.looped and not call.adaptive:
        request = _steady(call, field, request)
    subs, static = split(call.saveat.subs, numbers=False)
    return Plan(request.spec, static, call.max_steps, dtype), request.arrays, subs


def _steps(call: Call, dtype: Any) -> dict[str, Any]:
    """Return how steps are chosen, as arguments of our own."""
    method = translate.method_of(call.solver)
    if call.adaptive:
        controller = translate.controller_of(call)
        return {"method": method, "controller": controller, "dt0": translate.first_of(call, dtype)}
    lengths = translate.grid_of(call)
    if lengths is None:
        n, whole = translate.steps_of(jnp, jnp.asarray(call.t0), jnp.asarray(call.t1), jnp.asarray(call.dt0), dtype)
        whole, n = (x.astype(common_real(whole)) for x in (whole, n))
        return {"method": None, "dt0": jnp.where(whole == 0, 1, whole / n)}
    even = np.ptp(lengths) <= 4 * jnp.finfo(dtype).eps * np.sum(lengths)
    return {"method": method, "n_steps": len(lengths)} if even else {"method": method, "dt": lengths}


def _steady(call: Call, field: Field, request: Request) -> Request:
    """Return the request with steps of one length, which need no error estimate."""
    bundle, static = split((as_problem(field), call.args, Steady(), ()), numbers=True)
    own, method = split(translate.method_of(call.solver), numbers=False)
    return Request(
        request.spec._replace(bundle=static, method=method), request.arrays._replace(bundle=bundle, method=own)
    )


def _joined(times: list[Array], call: Call) -> Array:
    """Return the save times of all parts as one array, in the direction of the solve."""
    if len(times) == 1:
        return times[0]
    direction = jnp.where(jnp.asarray(call.t1) < jnp.asarray(call.t0), -1, 1).astype(times[0].dtype)
    return direction * jnp.sort(direction * jnp.concatenate(times))


@partial(jax.jit, static_argnums=0)
def _run(plan: Plan, arrays: Arrays, subs: list[Any]) -> Parts:
    """Run the request and lay out what is saved."""
    args = plan.spec.bundle.join(arrays.bundle)[1]
    sol = run(plan.spec, arrays)
    end, n = (sol.t1, sol.y1), 0 if arrays.ts is None else arrays.ts.shape[0]
    times, steps = [jax.tree.map(lambda x, part=part: x[part], (sol.ts, sol.ys)) for part in (slice(n), slice(n, None))]
    saved = output.Saved((arrays.t0, arrays.y0), times, steps, end, sol.stats["accepted"])

    leaves, tree = jax.tree.flatten(plan.subs.join(subs), is_leaf=translate.is_sub)
    laid = [output.buffers(sub, saved, args, plan.max_steps, plan.dtype) for sub in leaves]
    ts, ys = (jax.tree.unflatten(tree, [pair[i] for pair in laid]) for i in (0, 1))
    accepted, rejected = sol.stats["accepted"], sol.stats["rejected"]
    counts = {
        "num_steps": accepted + rejected,
        "num_accepted_steps": accepted,
        "num_rejected_steps": rejected,
    }
    t0, t1, reached = (jnp.asarray(t, plan.dtype) for t in (arrays.t0, arrays.t1, sol.t1))
    return Parts(t0, t1, ts, ys, output.result_of(sol.result), sol.result, reached, counts, sol.dense)
