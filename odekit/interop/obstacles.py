"""Why our loop cannot serve a call of `diffeqsolve`."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix

from odekit import errors
from odekit.interop.translate import MARKS, Call, method_of

_GIVEN = ("event", "discrete_terminating_event", "solver_state", "controller_state", "made_jump")


def obstacle(call: Call) -> str | None:
    """Return why our loop cannot serve a call, as a sentence that begins with the argument; None where it can."""
    for check in (_of_problem, _of_times, _of_controller, _of_saving, _of_adjoint):
        why = check(call)
        if why is not None:
            return why
    return None


def _of_problem(call: Call) -> str | None:
    if type(call.terms) is not diffrax.ODETerm:
        return f"`terms` is {_name(call.terms)}, not an ODETerm"
    if method_of(call.solver) is None:
        return f"`solver` is {_name(call.solver)}, which has no counterpart in odekit"
    given = next((name for name in _GIVEN if getattr(call, name) is not None), None)
    if given is not None:
        return f"`{given}` was given"
    if type(call.progress_meter) is not diffrax.NoProgressMeter:
        return f"`progress_meter` is {_name(call.progress_meter)}"
    try:
        hash(tuple(x for x in jax.tree.leaves((call.terms, call.args)) if not isinstance(x, jax.Array | np.ndarray)))
    except TypeError:
        return "`args` holds something that is neither an array nor hashable"
    return None


def _of_times(call: Call) -> str | None:
    if not jnp.issubdtype(call.dtype, jnp.floating):
        return "`t0` and the other times are not real numbers"
    t0, t1 = errors.concrete(call.t0), errors.concrete(call.t1)
    dt0 = None if call.dt0 is None else errors.concrete(call.dt0)
    if t0 is None or t1 is None:
        return None
    if not (np.isfinite(t0) and np.isfinite(t1)):
        return "`t1` is not finite"
    if dt0 is not None and not np.isfinite(dt0):
        return "`dt0` is not finite"
    if dt0 is not None and (dt0 == 0 or (t1 - t0) * dt0 < 0):
        return "`dt0` does not lead from t0 to t1"
    return None


def _of_controller(call: Call) -> str | None:
    kind = call.stepsize_controller
    if call.adaptive:
        return _of_pid(call, call.pid) or _of_marks(call, kind)
    if type(kind) not in (diffrax.ConstantStepSize, diffrax.StepTo):
        return f"`stepsize_controller` is {_name(kind)}"
    if (call.dt0 is None) == (type(kind) is diffrax.ConstantStepSize):
        return f"`dt0` does not fit the {_name(kind)}"
    return _of_step_to(call, kind) if type(kind) is diffrax.StepTo else None


def _of_step_to(call: Call, kind: Any) -> str | None:
    if call.grid is None:
        return "`stepsize_controller` is a StepTo with traced times"
    ts = np.asarray(kind.ts)
    if call.max_steps is not None and len(ts) - 1 > call.max_steps:
        return "`max_steps` is smaller than the number of steps"
    ends = np.asarray([call.t0, call.t1], ts.dtype)
    if not np.array_equal(ts[[0, -1]], ends) or {*np.sign(np.diff(ts))} != {np.sign(ends[1] - ends[0])}:
        return "`stepsize_controller` is a StepTo whose times do not lead from t0 to t1"
    return None


def _of_pid(call: Call, pid: Any) -> str | None:
    if not getattr(method_of(call.solver), "adaptive", False):
        return f"`solver` is {_name(call.solver)}, which has no error estimate"
    if pid.norm is not optimistix.rms_norm:
        return "`stepsize_controller` has a norm of its own"
    if pid.dtmin is not None and pid.force_dtmin:
        return "`stepsize_controller` has dtmin with force_dtmin"
    settings = call.settings
    if settings is None:
        return "`stepsize_controller` has a traced coefficient"
    if not 0 < settings.factormin < 1 < settings.factormax:
        return "`stepsize_controller` has factormin, factormax that are not on both sides of 1"
    if not any(_may_be_positive(x) for x in (pid.rtol, pid.atol)):
        return "`stepsize_controller` has no positive tolerance"
    return None


def _may_be_positive(x: Any) -> bool:
    return x > 0 if type(x) is float else not errors.known(x) or bool(np.any(np.asarray(x) > 0))


def _of_marks(call: Call, kind: Any) -> str | None:
    if kind is call.pid:
        return None
    given = next((n for n in ("store_rejected_steps", "callback_on_reject") if getattr(kind, n) is not None), None)
    if given is not None:
        return f"`stepsize_controller` has {given}"
    marks = [getattr(kind, name) for name in MARKS]
    if any(x is not None and errors.concrete(x) is None for x in (call.t0, call.t1, *marks)):
        return "`stepsize_controller` has times that are traced, or lie in an interval that is"
    return "`saveat` asks for the made_jump" if call.saveat.made_jump else None


def _of_saving(call: Call) -> str | None:
    for name in ("solver_state", "controller_state"):
        if getattr(call.saveat, name):
            return f"`saveat` asks for the {name}"
    if call.max_steps is None and (call.needs_bound or (call.looped and any(s.ts is not None for s in call.subs))):
        return "`max_steps` is None, and what `saveat` asks for needs a bound"
    t0, t1 = errors.concrete(call.t0), errors.concrete(call.t1)
    for sub in call.subs:
        ts = None if sub.ts is None else errors.concrete(sub.ts)
        if ts is None or t0 is None or t1 is None:
            continue
        direction = -1 if t1 < t0 else 1
        ts, low, high = (direction * np.asarray(x, call.dtype) for x in (ts, t0, t1))
        if not (np.all(np.diff(ts) >= 0) and np.all((low <= ts) & (ts <= high))):
            return "`saveat` has times that are unsorted or not between t0 and t1"
    return None


def _of_adjoint(call: Call) -> str | None:
    kinds = (diffrax.RecursiveCheckpointAdjoint, diffrax.ForwardMode, diffrax.DirectAdjoint)
    if type(call.adjoint) not in kinds:
        return f"`adjoint` is {_name(call.adjoint)}"
    if call.looped and type(call.adjoint) is diffrax.DirectAdjoint:
        return "`adjoint` is DirectAdjoint, which is differentiated in both modes"
    if call.max_steps is None and getattr(call.adjoint, "checkpoints", None) is not None:
        return "`adjoint` has checkpoints, and `max_steps` is None"
    return None


def _name(x: Any) -> str:
    return type(x).__name__
