"""What a solve will do, in words, before anything is compiled."""

from typing import Any

import jax
from jax import Array

from odekit.adjoint.recorded import BACK_WIDTH, Recorded
from odekit.loops.engine import SMALL, size
from odekit.loops.kernel import equations, refusal
from odekit.loops.refill import BLOCKS
from odekit.request import Request, prepare
from odekit.solve import run
from odekit.stepping import lay_out
from odekit.typing import PyTree, Scalar


def explain(
    problem: Any, y0: PyTree, t0: Scalar, t1: Scalar, method: Any = None, args: PyTree = None, **options: Any
) -> str:
    """Return which loop, method, controller and compiled form a solve uses, why, and what its gradient keeps.

    Nothing is compiled or run: the problem is traced, as `solve` would.

    Args:
        problem: as for `solve`.
        y0: as for `solve`.
        t0: as for `solve`.
        t1: as for `solve`.
        method: as for `solve`; a method of odekit.
        args: as for `solve`.
        options: any keyword of `solve` that says what is computed.

    Returns:
        A few sentences, one a line.

    Raises:
        ValueError: as `solve` does.
        TypeError: as `solve` does.

    Example:
        >>> print(explain(lambda t, y, args: -y, 1.0, 0.0, 1.0).splitlines()[1])
        Loop: adaptive, at most 4096 attempts.

    Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, 1993, II.4.
    """
    request = prepare(problem, y0, t0, t1, method, args, **options)
    spec, arrays = request
    chosen = spec.method.join(arrays.method)
    leaves = jax.tree.leaves(arrays.y0)
    dtypes = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
    lines = [f"State: {sum(leaf.size for leaf in leaves)} numbers of {dtypes}, {size(arrays.y0)} bytes."]
    if spec.n_steps is not None:
        lines.append(f"Loop: a scan over {spec.n_steps} steps.")
    else:
        lines.append(f"Loop: adaptive, at most {spec.max_steps} attempts.")
    stages = f"{chosen.stages} evaluation{'s' if chosen.stages > 1 else ''} a step"
    lines.append(f"Method: {chosen.name}, order {chosen.order}, {stages} ({chosen.source}).")
    return "\n".join(lines if spec.n_steps is not None else lines + _adaptive(request))


def _adaptive(request: Request) -> list[str]:
    spec, arrays = request
    program, *_ = lay_out(spec, arrays)
    fn: Any = program.fn
    _, _, controller, events = spec.bundle.join(arrays.bundle)
    gains = "I" if controller.gains[1:] == (0.0, 0.0) else f"PID {controller.gains}"
    lines = [f"Controller: {gains}, rtol {_shown(controller.rtol)}, atol {_shown(controller.atol)}."]
    why = None if program.one_kernel else _why_not(fn.jaxpr, arrays.y0, controller)
    why = why or _in_the_loop(request)
    native = "one native function for the whole loop"
    lines.append(f"Compiled as: {native}." if why is None else f"Compiled as: XLA's kernels, because {why}.")
    if program.width < 1 << 62:
        many = f"from {BLOCKS * program.width} lanes on an ended lane makes room for the next"
        lines.append(f"Under vmap: blocks of {program.width} lanes, one after the other; {many}.")
    if events:
        lines.append(f"Events: {len(events)}, looked for after every accepted step.")
    adjoint = type(spec.adjoint).__name__
    if isinstance(spec.adjoint, Recorded):
        row = size(arrays.y0) + 2 * arrays.t0.dtype.itemsize
        kept = f"{row * spec.max_steps / 1024:.0f} KiB for {spec.max_steps} steps"
        lines.append(
            f"Gradient: {adjoint}, a row of {row} bytes a step and lane ({kept}), of {BACK_WIDTH} lanes at a time."
        )
    else:
        lines.append(f"Gradient: {adjoint}.")
    return lines


def _why_not(jaxpr: Any, y0: PyTree, controller: Any) -> str | None:
    if jax.default_backend() != "cpu":
        return f"the device is {jax.default_backend()}"
    if size(y0) > SMALL:
        return f"the state has {size(y0)} bytes, more than {SMALL}"
    if controller.jumps is not None:
        return "the controller has jumps"
    found = refusal(jaxpr)
    return None if found is None else f"the field has {found}"


def _in_the_loop(request: Request) -> str | None:
    """Return what keeps the loop itself out of one function, such as a method's library calls."""
    traced = jax.make_jaxpr(run, static_argnums=0)(*request)
    for eqn in equations(traced.jaxpr):
        if eqn.primitive.name == "while":
            found = refusal(eqn.params["body_jaxpr"].jaxpr)
            if found is not None:
                return f"the method has {found}"
    return None


def _shown(tol: PyTree) -> str:
    leaves: list[Array] = jax.tree.leaves(tol)
    return f"{float(leaves[0]):g}" if len(leaves) == 1 and getattr(leaves[0], "ndim", 0) == 0 else "an array"
