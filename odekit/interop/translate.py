"""diffrax's types as ours, or one sentence that names the argument which has no counterpart."""

import dataclasses
from functools import cached_property
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jax import Array

from odekit import errors
from odekit.adjoint.base import Adjoint
from odekit.adjoint.forward import Forward
from odekit.adjoint.recorded import Recorded
from odekit.control import PID
from odekit.interop.controllers import Limited
from odekit.interop.method import ByOdekit
from odekit.request import Static, check_tolerances, split
from odekit.solvers.base import Method
from odekit.solvers.runge_kutta import RungeKutta
from odekit.solvers.tableaus import Bosh3, Dopri5, Dopri8, Euler, Heun, Midpoint, Ralston, Tsit5
from odekit.trees import common_real
from odekit.typing import PyTree

_GIVEN = ("event", "discrete_terminating_event", "solver_state", "controller_state", "made_jump")
_MARKS = ("step_ts", "jump_ts")
UNBOUNDED = 2**31 - 1


def _same_error(method: RungeKutta) -> tuple[type, RungeKutta]:
    """Return diffrax's class of that name, and the method with the error weights that are chosen there."""
    theirs = getattr(diffrax, method.name)
    if method.b_err is None:
        return theirs, method
    return theirs, dataclasses.replace(method, b_err=tuple(float(x) for x in theirs.tableau.b_error))


_METHODS = dict(map(_same_error, (Euler(), Heun(), Midpoint(), Ralston(), Bosh3(), Dopri5(), Tsit5(), Dopri8())))
_PARTED = {kind: split(method, numbers=False) for kind, method in _METHODS.items()}


class Arguments(NamedTuple):
    """What `diffeqsolve` is given."""

    terms: Any
    solver: Any
    t0: Any
    t1: Any
    dt0: Any
    y0: PyTree
    args: PyTree
    saveat: Any
    stepsize_controller: Any
    adjoint: Any
    event: Any
    max_steps: Any
    throw: Any
    progress_meter: Any
    solver_state: Any
    controller_state: Any
    made_jump: Any
    discrete_terminating_event: Any


class Settings(NamedTuple):
    """The numbers of a `PIDController` that are compiled in."""

    pcoeff: float
    icoeff: float
    dcoeff: float
    safety: float
    factormin: float
    factormax: float
    error_order: float | None


class Limits(NamedTuple):
    """The numbers of a `PIDController` that may change without compiling again."""

    rtol: PyTree
    atol: PyTree
    dtmin: Any
    dtmax: Any


class Call(Arguments):
    """The arguments of `diffeqsolve`, and what is read off them."""

    @property
    def subs(self) -> list[Any]:
        """Every SubSaveAt."""
        return jax.tree.leaves(self.saveat.subs, is_leaf=is_sub)

    @property
    def pid(self) -> Any:
        """The controller, taken out of one that clips it."""
        kind = self.stepsize_controller
        return kind.controller if type(kind) is diffrax.ClipStepSizeController else kind

    @property
    def adaptive(self) -> bool:
        """Whether the error chooses the steps."""
        return type(self.pid) is diffrax.PIDController

    @cached_property
    def settings(self) -> Settings | None:
        """The coefficients of a `PIDController`; None where one of them is traced."""
        own = [getattr(self.pid, name) for name in Settings._fields]
        return Settings(*[None if x is None else float(x) for x in own]) if errors.known(*own) else None

    @cached_property
    def dtype(self) -> Any:
        """The dtype in which diffrax keeps time: what the times were given in, or the default float."""
        times = [t for t in (self.t0, self.t1, self.dt0, *(sub.ts for sub in self.subs)) if t is not None]
        if all(type(t) is float for t in times):
            return jax.dtypes.canonicalize_dtype(float)
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.result_type(*times)
        return jnp.result_type(float) if jnp.issubdtype(dtype, jnp.integer) else dtype

    @cached_property
    def grid(self) -> np.ndarray | None:
        """The lengths of the steps of a fixed grid as diffrax takes them; None where they are not known now."""
        return None if self.adaptive else grid_of(self)

    @property
    def looped(self) -> bool:
        """Whether the adaptive loop runs it; a grid that is known now is scanned instead."""
        return self.grid is None

    @property
    def needs_bound(self) -> bool:
        """Whether something is saved for each of `max_steps` steps."""
        return self.saveat.dense or any(sub.steps for sub in self.subs)


def is_sub(x: Any) -> bool:
    """Return whether `x` is a leaf of `SaveAt(subs=...)`."""
    return isinstance(x, diffrax.SubSaveAt)


def method_of(solver: Any) -> Method | None:
    """Return our method with the numbers of a diffrax solver, or None."""
    return solver.method if isinstance(solver, ByOdekit) else _METHODS.get(type(solver))


def parted(solver: Any) -> tuple[list[Any], Static]:
    """Return the trained coefficients of our method for a solver, and what is compiled in."""
    return _PARTED.get(type(solver)) or split(method_of(solver), numbers=False)


def traceable(call: Call) -> Call:
    """Return what a call traces: whole numbers that may change as floats, of a controller its limits, no solver."""

    def real(x: Any) -> Any:
        return float(x) if isinstance(x, int) else x

    return call._replace(
        t0=real(call.t0),
        t1=real(call.t1),
        dt0=real(call.dt0),
        y0=jax.tree.map(real, call.y0),
        stepsize_controller=_limits(call) if call.adaptive else None,
        max_steps=None if call.max_steps is None else int(call.max_steps),
        solver=None,
        progress_meter=None,
        throw=None,
    )


def _limits(call: Call) -> Limits:
    """Return the limits of a `PIDController`, with tolerances that the dtype of the state can reach."""
    limits = Limits(*[getattr(call.pid, name) for name in Limits._fields])
    if type(limits.rtol) is type(limits.atol) is float and limits.rtol >= 1e-6 and limits.atol >= 0:
        return limits  # any dtype reaches them
    with jax.numpy_dtype_promotion("standard"):
        dtypes = [jnp.result_type(y, call.dtype) for y in jax.tree.leaves(call.y0)]
    return check_tolerances(limits, call.y0, common_real([jax.ShapeDtypeStruct((), dtype) for dtype in dtypes]))


def promoted(y0: PyTree, dtype: Any) -> PyTree:
    """Return the state in the dtype that diffrax integrates it in: no narrower than time."""

    def leaf(y: Any) -> Array:
        with jax.numpy_dtype_promotion("standard"):
            return jnp.asarray(y, jnp.result_type(y, dtype))

    return jax.tree.map(leaf, y0)


def controller_of(limits: Limits, settings: Settings, marks: tuple[Any, Any]) -> Limited:
    """Return our controller with the fields of a `PIDController` and the times that it is clipped to."""
    rtol, atol, *bounds = limits
    return Limited(PID(rtol, atol, *settings[:-1], *bounds, *marks), settings.error_order)


def marks_of(call: Call) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the times that steps are clipped to and those of jumps: inside the interval, in the solve's direction."""
    kind = call.stepsize_controller
    return (None, None) if kind is call.pid else tuple(_inside(getattr(kind, name), call) for name in _MARKS)


def _inside(times: Any, call: Call) -> np.ndarray | None:
    """Return the times strictly inside the interval, in the direction of the solve."""
    if times is None:
        return None
    t0, t1, times = float(call.t0), float(call.t1), np.asarray(times, float)
    times = np.unique(times[(times > min(t0, t1)) & (times < max(t0, t1))])
    return (times if t0 < t1 else times[::-1]) if times.size else None


def first_of(call: Call) -> Any:
    """Return the length of the first adaptive step of a traced call, within its limits; None where it is not given."""
    _, _, low, high = call.stepsize_controller
    if call.dt0 is None or (low is None and high is None):
        return call.dt0
    length = jnp.abs(jnp.asarray(call.dt0, call.dtype))
    return jnp.clip(length, *(None if x is None else jnp.asarray(x, call.dtype) for x in (low, high)))


def adjoint_of(call: Call) -> Adjoint:
    """Return our adjoint in place of diffrax's; a solve without a bound on its steps keeps none of them."""
    if type(call.adjoint) is diffrax.ForwardMode or call.max_steps is None:
        return Forward()
    checkpoints = getattr(call.adjoint, "checkpoints", None)
    return Recorded() if checkpoints is None else Recorded(max(1, -(-call.max_steps // checkpoints)))


def grid_of(call: Call) -> np.ndarray | None:
    """Return the lengths of the steps of a fixed grid as diffrax takes them; None where they are not known now."""
    kind, dtype = call.stepsize_controller, call.dtype
    given = kind.ts if type(kind) is diffrax.StepTo else call.dt0
    t0, t1, own = (errors.concrete(x) for x in (call.t0, call.t1, given))
    if t0 is None or t1 is None or own is None:
        return None
    if type(kind) is diffrax.StepTo:
        return np.abs(np.diff(own.astype(dtype)))
    n, whole = steps_of(np, t0, t1, own, dtype)
    if whole == 0 or not n <= (call.max_steps or n):
        return None
    ends = whole * (np.arange(int(n) + 1) / int(n))
    ends[1] = min(np.abs(own), whole)  # the first step is dt0 itself, the others share out what is left
    return np.diff(ends)


def steps_of(xp: Any, t0: Any, t1: Any, dt0: Any, dtype: Any) -> tuple[Any, Any]:
    """Return how many steps of dt0 lead from t0 to t1, and the length of all."""
    whole, dt0 = (xp.abs(xp.asarray(x, dtype)) for x in (t1 - t0, dt0))
    return xp.maximum(xp.ceil(whole / xp.nextafter(dt0, xp.full_like(dt0, xp.inf))), 1), whole


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
    marks = [getattr(kind, name) for name in _MARKS]
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
