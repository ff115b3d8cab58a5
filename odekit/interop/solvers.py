"""diffrax's solvers as methods of `solve`: run by diffrax, with our solution back."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix
from jax import Array

from odekit import errors
from odekit.adjoint.forward import Forward
from odekit.adjoint.recorded import Recorded
from odekit.control import PID
from odekit.errors import Result
from odekit.problem import ODE, Problem, SemiLinear, as_problem, spread
from odekit.request import Request, prepare
from odekit.solution import Solution, check
from odekit.solve import solve_by
from odekit.solvers.tableaus import Tsit5
from odekit.trees import diagonal, leading
from odekit.typing import PyTree, Scalar

_STAND_IN = Tsit5()
_THEIRS = diffrax.diffeqsolve
_SPLIT = diffrax.MultiTerm[tuple[diffrax.AbstractTerm, diffrax.AbstractTerm]]
_CODES = (
    (diffrax.RESULTS.successful, Result.SUCCESS),
    (diffrax.RESULTS.max_steps_reached, Result.MAX_STEPS),
    (diffrax.RESULTS.nonfinite, Result.NONFINITE),
)


@solve_by.register(diffrax.AbstractSolver)
def _solve_by_diffrax(
    solver: Any,
    problem: Any,
    y0: PyTree,
    t0: Scalar,
    t1: Scalar,
    args: PyTree,
    *,
    rtol: PyTree,
    atol: PyTree,
    controller: PID | None,
    throw: bool | str,
    **options: Any,
) -> Solution:
    """Solve by a diffrax solver; an implicit one whose root finder is the default gets Newton's method.

    Statistics count no evaluations. A failure without a code of ours is `UNDERFLOW`, and is raised in diffrax's words.
    """
    problem, pid = as_problem(problem), PID(rtol, atol) if controller is None else controller
    terms = _terms(problem, solver)
    request = prepare(problem, y0, t0, t1, _STAND_IN, args, controller=pid, **options)
    kind = type(solver).__name__
    if request.spec.n_steps is None and not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(f"`method` {kind} has no error estimate; give n_steps or dt, or a method that has one.")
    if request.spec.saveat.judged:
        raise TypeError(f"`saveat` was given with `judged`, which `method` {kind} of diffrax cannot serve; drop it.")
    if not isinstance(request.spec.adjoint, Recorded | Forward):
        raise TypeError(f"`adjoint` was {type(request.spec.adjoint).__name__}; with diffrax give Recorded or Forward.")
    arrays, forward = request.arrays, isinstance(request.spec.adjoint, Forward)
    sol = _THEIRS(
        terms,
        _with_newton(solver, pid, request.spec.n_steps is not None),
        arrays.t0,
        arrays.t1,
        None if arrays.dt0 is None else arrays.dt0 * jnp.sign(arrays.t1 - arrays.t0),
        arrays.y0,
        args,
        saveat=_saveat(request),
        stepsize_controller=_controller(request, pid),
        adjoint=diffrax.ForwardMode() if forward else diffrax.RecursiveCheckpointAdjoint(),
        max_steps=request.spec.n_steps or request.spec.max_steps,
        throw=False,
    )
    if throw == "traced":
        sol = sol.result.error_if(sol, sol.result != diffrax.RESULTS.successful)
    out = _solution(sol, request, args, kind)
    if not throw or not errors.known(out.result, out.t1):
        return out
    if int(out.result) == Result.UNDERFLOW:
        raise errors.SolveError(f"`method` {kind} stopped at t={float(out.t1):.6g}: {diffrax.RESULTS[sol.result]}")
    return check(out)


def _terms(problem: Problem, solver: Any) -> Any:
    kind, wants = type(solver).__name__, solver.term_structure
    if wants == _SPLIT and isinstance(problem, SemiLinear):
        linear = problem.linear

        def stiff(t: Any, y: PyTree, args: PyTree) -> PyTree:
            return jax.tree.map(diagonal, spread(linear, y), y)

        return diffrax.MultiTerm(diffrax.ODETerm(problem.nonlinear), diffrax.ODETerm(stiff))
    if wants == _SPLIT:
        raise TypeError(f"`method` {kind} needs `problem` to be a SemiLinear(linear, nonlinear).")
    if wants not in (diffrax.AbstractTerm, diffrax.ODETerm) or not isinstance(problem, ODE | SemiLinear):
        raise TypeError(
            f"`method` {kind} with `problem` {type(problem).__name__} is not handed to diffrax; call diffeqsolve."
        )
    return diffrax.ODETerm(problem)


def _with_newton(solver: Any, pid: PID, fixed: bool) -> Any:
    """Replace a default root finder, which fails in float32 and on split problems, by Newton's method."""
    if not isinstance(solver, diffrax.AbstractImplicitSolver):
        return solver
    if not eqx.tree_equal(solver.root_finder, type(solver)().root_finder):
        return solver
    newton = diffrax.with_stepsize_controller_tols(optimistix.Newton)()
    if fixed:
        newton = optimistix.Newton(rtol=pid.rtol, atol=pid.atol, norm=optimistix.rms_norm)
    return eqx.tree_at(lambda s: s.root_finder, solver, newton)


def _controller(request: Request, pid: PID) -> Any:
    spec, arrays = request
    if spec.n_steps is None:
        inner = diffrax.PIDController(
            pid.rtol, pid.atol, pcoeff=pid.pcoeff, icoeff=pid.icoeff, dcoeff=pid.dcoeff, dtmin=pid.dt_min,
            dtmax=pid.dt_max, force_dtmin=False, factormin=pid.factor_min, factormax=pid.factor_max, safety=pid.safety,
        )  # fmt: skip
        marked = pid.stops is not None or pid.jumps is not None
        return diffrax.ClipStepSizeController(inner, pid.stops, pid.jumps) if marked else inner
    shares = jnp.arange(1, spec.n_steps) / spec.n_steps
    if arrays.fractions is not None:
        shares = jnp.cumsum(arrays.fractions)[:-1]
    t0, t1 = jnp.asarray(arrays.t0), jnp.asarray(arrays.t1)
    inner = t0 + shares.astype(t0.dtype) * (t1 - t0)
    return diffrax.StepTo(jnp.concatenate([t0[None], inner, t1[None]]))


def _saveat(request: Request) -> Any:
    asked, ts = request.spec.saveat, request.arrays.ts
    subs = {"t1": diffrax.SubSaveAt(t1=True)}
    if asked.t0:
        subs["t0"] = diffrax.SubSaveAt(t0=True)
    if ts is not None:
        subs["ts"] = diffrax.SubSaveAt(ts=ts)
    if asked.steps:
        subs["steps"] = diffrax.SubSaveAt(steps=1)
    return diffrax.SaveAt(subs=subs, dense=asked.dense)


def _solution(sol: Any, request: Request, args: PyTree, kind: str) -> Solution:
    asked, arrays = request.spec.saveat, request.arrays
    end = jax.tree.map(lambda y, like: y[0].astype(like.dtype), sol.ys["t1"], arrays.y0)
    given = None if arrays.ts is None else jnp.asarray(arrays.ts)
    parts = []
    for name in ("t0", "ts", "steps", "t1"):
        if name in sol.ts and (name != "t1" or asked.t1):
            filled = jnp.isfinite(sol.ts[name])
            rows = jax.tree.map(
                lambda y, like, filled=filled: jnp.where(leading(filled, y), y.astype(like.dtype), jnp.nan),
                sol.ys[name],
                arrays.y0,
            )
            parts.append((given if name == "ts" else sol.ts[name], rows))
    ts, ys = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    fn = asked.fn
    if fn is not None:
        ys = jax.vmap(lambda t, y: fn(t, y, args))(ts, ys)
    code = jnp.asarray(int(Result.UNDERFLOW), jnp.int32)
    for theirs, ours in _CODES:
        code = jnp.where(sol.result == theirs, int(ours), code).astype(jnp.int32)
    return Solution(
        ts=ts,
        ys=ys,
        y1=end,
        t1=sol.ts["t1"][0],
        result=code,
        event=jnp.full_like(code, -1),
        stats={"accepted": sol.stats["num_accepted_steps"], "rejected": sol.stats["num_rejected_steps"]},
        dense=jax.tree_util.Partial(_read, sol.interpolation) if asked.dense else None,
        method=kind,
    )


def _read(interpolation: Any, ts: Array) -> PyTree:
    return jax.vmap(interpolation.evaluate)(ts)
