"""A whole loop as one native function on CPU.

XLA on CPU runs a program as a list of kernels, one a fused loop, and pays some ten nanoseconds for each; in an
integrator of a few variables that is most of the time. A call marked as small is compiled into one function instead,
loops and conditionals included. The mark is a promise that the callee holds only operations which need no library: it
is given only to programs of the primitives below.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import Array, lax
from jax.core import eval_jaxpr
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import jaxprs_in_params

from odekit.typing import PyTree

MARK = "xla_cpu_small_call"
_LARGEST_SUM = 2048
"""Elements of a reduction that XLA still writes as a plain loop: larger ones become library calls."""

ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bitcast_convert_type cbrt ceil clamp complex conj
    copy cos cosh convert_element_type digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow
    is_finite le le_to lgamma log log1p logistic lt lt_to max min mul ne neg nextafter not or pow real rem round
    rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub
    tan tanh xor
"""
SHAPES = """
    broadcast_in_dim concatenate dynamic_slice dynamic_update_slice empty2 expand_dims gather iota pad pvary reshape rev
    slice split squeeze stack tile transpose unstack
"""
CALLS = """
    closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr jit pjit checkpoint remat2 while cond
    scan custom_linear_solve
"""
SUMS = "argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum"


def refusal(jaxpr: Any) -> str | None:
    """Return what keeps a program out of one kernel, in words, or None."""
    plain, sums = set(f"{ELEMENTWISE} {SHAPES} {CALLS}".split()), set(SUMS.split())
    for eqn in equations(jaxpr):
        name = eqn.primitive.name
        if name in sums:
            size = max(v.aval.size for v in eqn.invars)
            if size > _LARGEST_SUM:
                return f"a sum over an array of {size} elements"
        elif name not in plain:
            return f"the operation {name}"
    return None


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yield every equation of a jaxpr, those inside loops, branches and calls included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


def one_kernel(fn: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """Return `fn(*args)`, compiled into one function on CPU where its operations allow it.

    The call returns an entry of everything it was given as well: a parameter that the optimiser leaves without a use
    has no place in the table of buffers of such a function, and the compiler stops the process. The barrier keeps
    constants from being moved into it, which would leave them without a use again.
    """
    flat, tree = jax.tree.flatten(args)
    traced, shape = jax.make_jaxpr(lambda *flat: fn(*jax.tree.unflatten(tree, flat)), return_shape=True)(*flat)
    given = [*traced.consts, *flat]

    def run(*given: Array) -> list[Array]:
        return eval_jaxpr(traced.jaxpr, given[: len(traced.consts)], *given[len(traced.consts) :])

    @jax.custom_jvp
    def small(*given: Array) -> list[Array]:
        call = jax.jit(lambda *given: (run(*given), [_corner(x) for x in given]))
        out: Any = call(*lax.optimization_barrier(given))
        marked: Any = set_xla_metadata(out, **{MARK: "true", "inlineable": "false"})
        return marked[0]

    @small.defjvp
    def plain(given: Any, tangents: Any) -> Any:  # a derivative has inputs of its own, which nothing would keep in use
        return jax.jvp(run, given, tangents)

    out = run(*given) if refusal(traced.jaxpr) else lax.platform_dependent(*given, cpu=small, default=run)
    return jax.tree.unflatten(jax.tree.structure(shape), out)


def _corner(x: Array) -> Array:
    return lax.slice(x, (0,) * x.ndim, tuple(min(n, 1) for n in x.shape))
