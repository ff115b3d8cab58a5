"""diffrax's types as ours, or one sentence that names the argument which has no counterpart."""

import dataclasses
from functools import cached_property
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from odekit import errors
from odekit.adjoint.base import Adjoint
from odekit.adjoint.forward import Forward
from odekit.adjoint.recorded import Recorded
from odekit.control import PID
from odekit.interop.controllers import Limited
from odekit.interop.method import ByOdekit
from odekit.request import check_tolerances
from odekit.solvers.base import Method
from odekit.solvers.runge_kutta import RungeKutta
from odekit.solvers.tableaus import Bosh3, Dopri5, Dopri8, Euler, Heun, Midpoint, Ralston, Tsit5
from odekit.tracing import Static, split
from odekit.trees import common_real
from odekit.typing import PyTree

MARKS = ("step_ts", "jump_ts")
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
        return Settings._make(None if x is None else float(x) for x in own) if errors.known(*own) else None

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
    rtol, atol, dt_min, dt_max = limits
    *coefficients, order = settings
    p, i, d, safety, low, high = coefficients
    return Limited(PID(rtol, atol, p, i, d, safety, low, high, dt_min, dt_max, *marks), order)


def marks_of(call: Call) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the times that steps are clipped to and those of jumps: inside the interval, in the solve's direction."""
    kind = call.stepsize_controller
    stops, jumps = (_inside(getattr(kind, name, None), call) for name in MARKS)
    return stops, jumps


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
