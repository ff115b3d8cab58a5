"""Check and convert what `solve` is given, in Python, before anything is compiled."""

import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from odekit import errors
from odekit.adjoint.base import Adjoint
from odekit.adjoint.recorded import Recorded
from odekit.control import PID
from odekit.event import as_events
from odekit.loops.brownian import Driven
from odekit.problem import SDE, Bound, Problem, SemiLinear, as_problem
from odekit.solution import SaveAt
from odekit.solvers.base import Method
from odekit.solvers.exponential import Krogstad4
from odekit.solvers.stochastic import EulerMaruyama, StochasticHeun
from odekit.solvers.tableaus import Tsit5
from odekit.tracing import Static, split
from odekit.trees import common_real
from odekit.typing import PyTree, Scalar

MAX_STEPS = 4096
HORIZON = 1e30
"""Where a solve to `t1=inf` gives up its event."""
_TSIT5, _RECORDED, _END = Tsit5(), Recorded(), SaveAt()
_PID = jax.tree.structure(PID(0.0, 0.0))  # filled, it is made in 2 microseconds; by its class in 35


class Spec(NamedTuple):
    """The static half of a request; equal ones share one compilation."""

    bundle: Static
    method: Static
    adjoint: Adjoint
    saveat: SaveAt
    keep_rows: bool
    n_steps: int | None
    max_steps: int
    endless: bool = False


class Arrays(NamedTuple):
    """The numbers of a request."""

    y0: PyTree
    t0: Array
    t1: Array
    dt0: Array | None
    ts: Array | None
    fractions: Array | None
    key: Array | None
    bundle: list[Any]
    method: list[Any]


class Request(NamedTuple):
    """A checked call: its static half and its arrays."""

    spec: Spec
    arrays: Arrays


def prepare(
    problem: Any,
    y0: PyTree,
    t0: Scalar,
    t1: Scalar,
    method: Method | None,
    args: PyTree,
    *,
    rtol: PyTree = 1e-5,
    atol: PyTree = 1e-6,
    controller: PID | None = None,
    n_steps: int | None = None,
    dt: Scalar | None = None,
    dt0: Scalar | None = None,
    saveat: Any = None,
    event: Any = None,
    adjoint: Adjoint | None = None,
    key: Array | None = None,
    max_steps: int | None = None,
) -> Request:
    """Check and convert the arguments of `solve`; raises as `solve` does, before anything is compiled."""
    problem = as_problem(problem)
    y0 = jax.tree.map(_state_leaf, y0)
    dtype = common_real(y0)
    events = as_events(event)
    t0 = _time("t0", t0, dtype)
    endless = any(e.terminal for e in events) and errors.concrete(t1) is not None and bool(np.isinf(t1))
    t1 = _time("t1", np.copysign(HORIZON, t1) if endless else t1, dtype)
    saveat = _END if saveat is None else saveat if isinstance(saveat, SaveAt) else SaveAt(ts=saveat)
    save_ts = None if saveat.ts is None else _save_times(saveat.ts, t0, t1, dtype)
    fractions, n_steps = _grid(n_steps, dt, t0, t1, dtype)
    method = _default_method(problem, n_steps) if method is None else method
    _check_method(problem, method, n_steps, key)
    if method.follows:
        problem, key = Driven.of(problem, key, t0, t1), None  # pyright: ignore[reportArgumentType] (checked)
        dt0 = 0.01 * (t1 - t0) if dt0 is None else dt0  # a path has no second derivative to find a first step by
    pid: PID = jax.tree.unflatten(_PID, (rtol, atol)) if controller is None else controller
    pid = _check_marks(pid, t0, t1, dtype)
    if n_steps is not None and (events or pid.stops is not None or pid.jumps is not None):
        raise ValueError(
            "`event`, `stops` or `jumps` were given with a fixed grid; they need adaptive steps: drop n_steps or dt."
        )
    if n_steps is None:
        pid = check_tolerances(pid, y0, dtype)
    steps = MAX_STEPS if max_steps is None else max_steps
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"`max_steps` was {max_steps!r}; it must be positive, a Python int.")
    if n_steps is not None and fractions is None:
        method = _prepare_on_host(problem, method, y0, t0, t1, n_steps)
    arrays, static = split((problem, args, pid, events), numbers=True)
    method_arrays, method_static = split(method, numbers=False)
    asked = jax.tree.map(lambda ts: None, saveat)
    spec = Spec(static, method_static, adjoint or _RECORDED, asked, saveat.rows, n_steps, steps, endless)
    step = None if dt0 is None else _first_length(dt0, t0, t1, dtype)
    return Request(spec, Arrays(y0, t0, t1, step, save_ts, fractions, key, arrays, method_arrays))


def check_order(problem: Any, y0: PyTree) -> None:
    """Raise where another library's order of arguments was used."""
    if isinstance(y0, Method) or type(y0).__module__.startswith("diffrax"):
        raise TypeError("`y0` was a solver: the order is solve(problem, y0, t0, t1, method); diffrax's differs.")
    if type(problem).__module__.startswith("diffrax"):
        raise TypeError("`problem` was a diffrax term; give its vector field f(t, y, args).")


def _state_leaf(x: Any) -> Array:
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact) and not jax.typeof(x).weak_type:
        return x
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        if not (jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == jnp.bool_):
            raise TypeError(f"`y0` holds a leaf of dtype {x.dtype}; give float or complex arrays.")
        x = x.astype(jnp.result_type(float))
    return jnp.asarray(x, x.dtype)


def _time(name: str, t: Any, dtype: Any) -> Array:
    errors.require_finite(name, t, "end at a finite time")
    t = t if isinstance(t, jax.Array) else np.asarray(t)  # no work for the device where the host knows the value
    if t.ndim:
        raise ValueError(f"`{name}` has shape {t.shape}; give a scalar, and vmap over several.")
    return t.astype(dtype)


def _save_times(ts: Any, t0: Array, t1: Array, dtype: Any) -> Array:
    ts = (ts if isinstance(ts, jax.Array) else np.asarray(ts)).astype(dtype)
    check_times("ts", ts, t0, t1)
    return ts


def _check_marks(pid: PID, t0: Array, t1: Array, dtype: Any) -> PID:
    """Return the controller with stops and jumps as arrays of times; raise where they are no times of the interval."""
    for name in ("stops", "jumps"):
        given = getattr(pid, name)
        if given is None:
            continue
        times = given if isinstance(given, jax.Array) else np.asarray(given, float)
        if times.ndim != 1:
            raise ValueError(f"`{name}` has shape {times.shape}; give a one-dimensional array of times.")
        errors.require_finite(name, times, "drop the others")
        check_times(name, times, t0, t1)
        times = times.astype(dtype) if times.size else None
        pid = eqx.tree_at(lambda p, name=name: getattr(p, name), pid, times, is_leaf=lambda x: x is None)
    return pid


def check_times(name: str, ts: Any, t0: Array, t1: Array) -> None:
    """Raise where known times run against the direction of the solve or lie outside of the interval."""
    known = [errors.concrete(x) for x in (ts, t0, t1)]
    if any(x is None for x in known):
        return
    times, first, end = (np.asarray(x, float) for x in known)
    direction = -1 if end < first else 1
    steps = direction * np.diff(times)
    if np.any(steps < 0):
        i = int(np.argmax(steps < 0))
        verb = "increase" if direction > 0 else "decrease"
        raise ValueError(
            f"`{name}` must {verb}: {name}[{i + 1}]={times[i + 1]:g} follows {name}[{i}]={times[i]:g}; sort it."
        )
    outside = (direction * (times - first) < 0) | (direction * (times - end) > 0)
    if np.any(outside):
        raise ValueError(
            f"`{name}` must lie between t0={first:g} and t1={end:g}: it holds {times[outside][0]:g}; move t1."
        )


def _grid(n_steps: Any, dt: Any, t0: Array, t1: Array, dtype: Any) -> tuple[Array | None, int | None]:
    """Return the fractions of the steps of a fixed grid (None where equal) and their number (None where adaptive)."""
    if n_steps is not None:
        if dt is not None:
            raise ValueError("`n_steps` and `dt` were both given; give one of them.")
        if not isinstance(n_steps, int | np.integer) or n_steps < 1:
            raise ValueError(f"`n_steps` was {n_steps!r}; give a positive Python int.")
        return None, int(n_steps)
    if dt is None:
        return None, None
    errors.require_finite("dt", dt, "give a positive length")
    length, size = errors.concrete(t1 - t0), errors.concrete(dt)
    if size is not None and np.ndim(size) == 0:
        if length is None:
            raise ValueError("`dt` needs t0 and t1 known outside of jit, to count its steps; give `n_steps` instead.")
        whole, size = abs(float(length)), abs(float(size))
        if size == 0:
            raise ValueError("`dt` was 0; give a positive length.")
        n = max(1, int(np.ceil(whole / size - 1e-6)))
        if abs(n * size - whole) <= 1e-6 * size or whole == 0:
            return None, n
        return jnp.asarray(np.r_[np.full(n - 1, size), whole - (n - 1) * size] / whole, dtype), n
    lengths = jnp.asarray(dt).astype(dtype)
    if lengths.ndim != 1:
        raise ValueError(
            "`dt` was a traced scalar; the number of steps must be known: give `n_steps`, or (N,) lengths."
        )
    if length is not None and size is not None:
        total = float(np.sum(np.abs(size)))
        if np.any(size == 0) or abs(total - abs(float(length))) > 1e-5 * total:
            raise ValueError(
                f"`dt` adds up to {total:g} but t1 - t0 is {float(length):g}; give lengths that add up to it."
            )
    lengths = jnp.abs(lengths)
    return lengths / jnp.sum(lengths), lengths.shape[0]


def _default_method(problem: Problem, n_steps: int | None) -> Method:
    if isinstance(problem, SDE):
        return StochasticHeun() if n_steps is None and problem.noise == "additive" else EulerMaruyama()
    return Krogstad4() if isinstance(problem, SemiLinear) and n_steps is not None else _TSIT5


def _check_method(problem: Problem, method: Any, n_steps: int | None, key: Array | None) -> None:
    if not isinstance(method, Method):
        raise TypeError(f"`method` was {type(method).__name__}; give a method of odekit such as Tsit5().")
    if n_steps is None and not method.adaptive:
        raise ValueError(f"`method` {method.name} has no error estimate; give n_steps or dt, or a method that has one.")
    if isinstance(problem, SDE):
        if key is None:
            raise ValueError("`key` was None; an SDE needs a key, such as jax.random.key(0).")
        if not method.stochastic:
            raise TypeError(f"`method` {method.name} knows no noise; for an SDE give EulerMaruyama().")
        if method.follows and problem.noise != "additive":
            raise TypeError(
                f"`method` {method.name} is for `noise` 'additive'; for {problem.noise!r} use EulerMaruyama()."
            )
    elif method.stochastic:
        raise TypeError(f"`method` {method.name} needs `problem` to be an SDE; for an ODE give Tsit5().")
    if n_steps is None and method.semilinear:
        raise ValueError(f"`method` {method.name} takes fixed steps; give n_steps or dt, or a method such as Tsit5().")
    if method.semilinear and not isinstance(problem, SemiLinear):
        raise TypeError(f"`method` {method.name} needs `problem` to be a SemiLinear(linear, nonlinear).")


def check_tolerances(pid: Any, y0: PyTree, dtype: Any) -> Any:
    """Return the controller with tolerances that the dtype can reach; raise where they make no sense."""
    floor, own = 8 * float(jnp.finfo(dtype).eps), (pid.rtol, pid.atol)  # 1e-6 in float32 is served as asked
    if type(own[0]) is type(own[1]) is float and floor <= own[0] < np.inf and 0 <= own[1] < np.inf:
        return pid
    for name, tol in (("rtol", pid.rtol), ("atol", pid.atol)):
        errors.check_tolerance(name, tol, y0)
        for leaf in jax.tree.leaves(tol):
            errors.require_finite(name, leaf, "give a positive number")
            value = errors.concrete(leaf)
            if value is not None and np.any(value < 0):
                raise ValueError(f"`{name}` was {np.min(value):g}; it must not be negative.")
    known = [errors.concrete(leaf) for leaf in jax.tree.leaves((pid.rtol, pid.atol))]
    if all(x is not None and not np.any(x) for x in known):
        raise ValueError("`rtol` and `atol` were both 0; make one of them positive.")

    def raise_to_floor(leaf: Any) -> Any:
        value = errors.concrete(leaf)
        if value is None or not np.any((value > 0) & (value < floor)):
            return leaf
        warnings.warn(f"`rtol` {np.min(value):g} is below 8 eps of {dtype}; {floor:.1e} is used.", stacklevel=4)
        return np.where(value > 0, np.maximum(value, floor), value)

    rtol = jax.tree.map(raise_to_floor, pid.rtol)
    return pid if rtol is pid.rtol else eqx.tree_at(lambda p: p.rtol, pid, rtol)


def _prepare_on_host(problem: Problem, method: Method, y0: PyTree, t0: Array, t1: Array, n_steps: int) -> Method:
    """Work out in float64 what depends on known step sizes alone; where they are traced the loop does it."""
    length, linear = errors.concrete(t1 - t0), getattr(problem, "linear", ())
    known = [errors.concrete(leaf) for leaf in jax.tree.leaves(linear)]
    if length is None or any(x is None for x in known) or not isinstance(problem, SemiLinear):
        return method
    host = SemiLinear(jax.tree.map(np.asarray, linear), problem.nonlinear)
    return method.prepare(Bound(host, None, y0), np.float64(length) / n_steps)


def _first_length(dt0: Any, t0: Array, t1: Array, dtype: Any) -> Array:
    errors.require_finite("dt0", dt0, "give a positive length, or None")
    known = [errors.concrete(x) for x in (dt0, t0, t1)]
    if all(x is not None for x in known):
        step, first, end = (float(x) for x in known if x is not None)
        if step == 0:
            raise ValueError("`dt0` was 0; give a positive length, or None.")
        if step < 0 < end - first:
            raise ValueError(f"`dt0` was {step:g} but t1 lies after t0; give a positive length.")
    dt0 = dt0 if isinstance(dt0, jax.Array) else np.asarray(dt0)
    return abs(dt0).astype(dtype)
