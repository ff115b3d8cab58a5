"""The two halves of a call: what is compiled in, and the arrays; a problem traced once as a function of its arrays."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import eval_jaxpr
from jax.sharding import AbstractMesh, AxisType, get_abstract_mesh, use_abstract_mesh

from odekit import errors
from odekit.event import Event, check_value
from odekit.loops.brownian import Terms
from odekit.loops.events import Watched
from odekit.typing import PyTree


class Static(NamedTuple):
    """The part of a pytree that is compiled in: its structure and the leaves that are no numbers."""

    tree: Any
    leaves: tuple[Any, ...]

    def join(self, arrays: list[Any]) -> PyTree:
        """Return the pytree with its arrays put back."""
        own = iter(arrays)
        return jax.tree.unflatten(self.tree, [next(own) if leaf is _ARRAY else leaf for leaf in self.leaves])


class _Array:
    def __repr__(self) -> str:
        return "array"


_ARRAY = _Array()


def split(tree: PyTree, *, numbers: bool) -> tuple[list[Any], Static]:
    """Return the arrays of `tree` (with `numbers`, also its Python floats) and the rest, which must be hashable."""
    kinds = (jax.Array, np.ndarray, np.generic, float, complex) if numbers else (jax.Array, np.ndarray, np.generic)
    leaves, structure = jax.tree.flatten(tree)
    arrays, kept = [], []
    for leaf in leaves:
        traced = numbers if type(leaf) is float else isinstance(leaf, kinds)  # most are floats, which this is fast for
        if traced:
            arrays.append(leaf)
        kept.append(_ARRAY if traced else leaf)
    static = Static(structure, tuple(kept))
    try:
        hash(static)
    except TypeError as error:
        raise TypeError(f"`args` or `problem` holds something that is neither array nor hashable: {error}.") from None
    return arrays, static


class Traced(NamedTuple):
    """A function `fn(free, t, y)` of one lane that was traced once; every stage evaluates what was traced.

    Attributes:
        anywhere: whether it can run inside a `shard_map` that is made after it was traced.
        consts: which of the closed-over arrays are its own.
    """

    jaxpr: Any
    structure: Any
    anywhere: bool
    consts: slice = slice(None)

    def __call__(self, free: tuple[list[Any], list[Any]], t: Array, y: PyTree) -> PyTree:
        """Return what it has at `(t, y)`."""
        out = eval_jaxpr(self.jaxpr, free[0][self.consts], *free[1], t, *jax.tree.leaves(y))
        return jax.tree.unflatten(self.structure, out)


def close(
    problem: Any, t: Array, y: PyTree, args: PyTree, events: tuple[Event, ...] = ()
) -> tuple[Traced, tuple[Watched, ...], PyTree]:
    """Return `fn(free, t, y)`, the events likewise, and `free`: every array they read, closed-over ones included."""
    leaves, static = split((problem, args, events), numbers=True)
    consts: list[Any] = []

    def trace(pick: Callable[[Any, Any], Any], check: Callable[[PyTree], None]) -> Traced:
        def flat(leaves: list[Any], t: Array, y: PyTree) -> PyTree:
            own_problem, own_args, own_events = static.join(leaves)
            return pick(own_problem, own_events)(t, y, own_args)

        (traced, shape), anywhere = _traced(flat, leaves, t, y)
        check(shape)
        mine = slice(len(consts), len(consts) + len(traced.consts))
        consts.extend(jnp.asarray(x) for x in traced.consts)
        return Traced(traced.jaxpr, jax.tree.structure(shape), anywhere, mine)

    fn = trace(lambda problem, events: problem, partial(check_answer, y))
    watched = []
    for i, event in enumerate(events):
        value = trace(lambda problem, events, i=i: events[i].fn, check_value)
        after = partial(errors.check_field, y, name="event's `apply`")
        apply = event.apply and trace(lambda problem, events, i=i: events[i].apply, after)
        watched.append(Watched(value, apply, event.sign, event.terminal))
    return fn, tuple(watched), (consts, [jnp.asarray(x) for x in leaves])


def check_answer(y: PyTree, answer: Any) -> None:
    """Raise where what a problem answers does not fit the state; terms on a path have been checked one by one."""
    if not isinstance(answer, Terms):
        errors.check_field(y, answer)


def _traced(fn: Any, *arrays: PyTree) -> tuple[Any, bool]:
    """Return the jaxpr of `fn` with the shapes of what it returns, and whether it can run anywhere.

    JAX evaluates a jaxpr on the mesh it was traced on, while each device's own loop sees that mesh from inside. Where a
    mesh of Explicit axes splits nothing that `fn` reads, it is therefore traced as for no mesh; a field that closes
    over arrays of the mesh stays what it is.
    """
    kinds = [jax.typeof(x) for x in jax.tree.leaves(arrays)]
    meshes = [get_abstract_mesh(), *[kind.sharding.mesh for kind in kinds]]
    if not any(AxisType.Explicit in mesh.axis_types for mesh in meshes):
        return jax.make_jaxpr(fn, return_shape=True)(*arrays), True
    if not any(any(kind.sharding.spec) for kind in kinds):
        bare = [jax.ShapeDtypeStruct(kind.shape, kind.dtype, weak_type=kind.weak_type) for kind in kinds]
        with use_abstract_mesh(AbstractMesh((), ())):
            out = jax.make_jaxpr(fn, return_shape=True)(*jax.tree.unflatten(jax.tree.structure(arrays), bare))
        jaxpr = out[0].jaxpr
        read = [*jaxpr.constvars, *[x for eqn in jaxpr.eqns for x in eqn.outvars]]
        if all(x.aval.sharding.mesh.empty for x in read):
            return out, True
    return jax.make_jaxpr(fn, return_shape=True)(*arrays), False
