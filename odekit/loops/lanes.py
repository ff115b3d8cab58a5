"""From `vmap` to lanes: one solve is one lane, and every axis that `jax.vmap` adds becomes more of them.

An *engine* is a function `engine(lanes, flags, last, free) -> (last, lead)` on arrays that have their lanes as trailing
axis (`last`), or that may be shared by all lanes (`free`: where the flag of a leaf is set it has the lanes as leading
axis). What it returns is lanes last, or lanes leading (`lead`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap
from jax.sharding import AxisType, NamedSharding, get_abstract_mesh
from jax.sharding import PartitionSpec as P

from odekit.typing import PyTree

Engine = Callable[[int, tuple[bool, ...], PyTree, PyTree], tuple[PyTree, PyTree]]


def single(engine: Engine, last: PyTree, free: PyTree) -> tuple[PyTree, PyTree]:
    """Run `engine` on one lane; under any number of `vmap`s it runs once, on all lanes together."""
    last = jax.tree.map(lambda x: jnp.expand_dims(x, -1), last)
    flags = tuple(False for _ in jax.tree.leaves(free))
    out_last, out_lead = _many(engine, 1, flags, last, free)
    return jax.tree.map(lambda x: x[..., 0], out_last), jax.tree.map(lambda x: x[0], out_lead)


def _many(engine: Engine, lanes: int, flags: tuple[bool, ...], last: PyTree, free: PyTree) -> tuple[PyTree, PyTree]:
    trees = jax.tree.structure(last), jax.tree.structure(free)

    # Lists of arrays cross the call, not pytrees: JAX's forward mode of it takes a None in them for a leaf.
    @custom_vmap
    def call(last: list[Array], free: list[Array]) -> tuple[PyTree, PyTree]:
        return engine(lanes, flags, jax.tree.unflatten(trees[0], last), jax.tree.unflatten(trees[1], free))

    @call.def_vmap
    def fold(size: int, batched: Any, last: list[Array], free: list[Array]) -> tuple[Any, Any]:
        on_last, on_free = batched
        if not any(on_last + on_free):  # forward mode with only tangents batched asks for this
            out = engine(lanes, flags, jax.tree.unflatten(trees[0], last), jax.tree.unflatten(trees[1], free))
            return out, jax.tree.map(lambda _: False, out)
        axis = next((axis_of(x, 0) for x, b in zip(last + free, on_last + on_free, strict=True) if b), None)
        wide = [_fold_last(x, b, size, axis) for x, b in zip(last, on_last, strict=True)]
        own = [_fold_lead(x, b, f, size, lanes, axis) for x, b, f in zip(free, on_free, flags, strict=True)]
        more = tuple(f or b for f, b in zip(flags, on_free, strict=True))
        trees_of = zip(trees, (wide, own), strict=True)
        out_last, out_lead = _many(engine, size * lanes, more, *[jax.tree.unflatten(t, x) for t, x in trees_of])
        out = (
            jax.tree.map(lambda x: _unfold_last(x, size), out_last),
            jax.tree.map(lambda x: x.reshape(size, lanes, *x.shape[1:]) if lanes > 1 else x[:, None], out_lead),
        )
        return out, jax.tree.map(lambda _: True, out)

    return call(jax.tree.leaves(last), jax.tree.leaves(free))


def axis_of(x: Array, axis: int) -> NamedSharding | None:
    """Return the mesh and the mesh axes that `axis` of x is split over by its type (Explicit meshes), else None."""
    sharding = jax.typeof(x).sharding
    spec = sharding.spec
    return NamedSharding(sharding.mesh, P(spec[axis])) if axis < len(spec) and spec[axis] is not None else None


def broadcast(x: Array, shape: tuple[int, ...], axis: int, split: NamedSharding | None) -> Array:
    """Broadcast to `shape`, whose new `axis` is split as `split` says, None for not at all."""
    if split is None:
        return jnp.broadcast_to(x, shape)
    new = len(shape) - x.ndim
    kept = [axis_of(x, i) for i in range(x.ndim)]
    spec = [None] * new + [None if part is None else part.spec[0] for part in kept]
    spec[axis] = split.spec[0]
    return jnp.broadcast_to(x, shape, out_sharding=NamedSharding(split.mesh, P(*spec)))


def _merge(x: Array, axis: int) -> Array:
    """Merge `axis` and the one behind it; the mesh axes of the first stay those of the result."""
    shape = (*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])
    split = axis_of(x, axis)
    if split is None:
        return x.reshape(shape)
    spec = jax.typeof(x).sharding.spec
    return jnp.reshape(x, shape, out_sharding=NamedSharding(split.mesh, P(*spec[: axis + 1], *spec[axis + 2 :])))


def _fold_last(x: Array, batched: bool, size: int, axis: Any) -> Array:
    """(size, ..., lanes) to (..., size * lanes)."""
    lanes = x.shape[-1]
    if not batched:
        x = broadcast(x[None], (size, *x.shape), 0, axis)
    if lanes == 1:
        return jnp.moveaxis(x[..., 0], 0, -1)
    return _merge(jnp.moveaxis(x, 0, -2), x.ndim - 2)


def _unfold_last(x: Array, size: int) -> Array:
    """(..., size * lanes) to (size, ..., lanes)."""
    lanes = x.shape[-1] // size
    if lanes == 1:
        return jnp.expand_dims(jnp.moveaxis(x, -1, 0), -1)
    return jnp.moveaxis(x.reshape(*x.shape[:-1], size, lanes), -2, 0)


def _fold_lead(x: Array, batched: bool, flag: bool, size: int, lanes: int, axis: Any) -> Array:
    """Shared stays shared; otherwise (size, lanes, ...) to (size * lanes, ...)."""
    if not batched and not flag:
        return x
    if lanes == 1 and batched:
        return x[:, 0] if flag else x
    if not batched:
        x = broadcast(x[None], (size, *x.shape), 0, axis)
    elif not flag:
        x = jnp.broadcast_to(x[:, None], (size, lanes, *x.shape[1:]))
    return _merge(x, 0)


def varying(tree: PyTree) -> PyTree:
    """Return the arrays of `tree` marked as varying over the manual mesh axes that any of them varies over.

    Inside a checked `shard_map` a loop carries what varies; a derivative with respect to what didn't is then summed
    over the devices by the transpose of this mark.
    """
    leaves, structure = jax.tree.flatten(tree)
    axes = frozenset().union(*[_manual(x) for x in leaves])
    marked = [lax.pcast(x, tuple(sorted(axes - _manual(x))), to="varying") for x in leaves]
    return jax.tree.unflatten(structure, marked)


def varies(tree: PyTree) -> bool:
    """Return whether the types say that an array of `tree` varies over manual mesh axes (a checked `shard_map`)."""
    return any(_manual(x) for x in jax.tree.leaves(tree))


def _manual(x: Array) -> frozenset[str]:
    kind = jax.typeof(x)
    return getattr(getattr(kind, "manual_axis_type", None), "varying", getattr(kind, "vma", frozenset()))


def on_devices(engine: Engine) -> Engine:
    """Return `engine` run by every device on its own lanes, where their type says how they are split over a mesh.

    The devices share no condition: each loop ends with the slowest lane of its own device. Lanes whose states are
    themselves split stay in one loop.
    """

    def divided(lanes: int, flags: tuple[bool, ...], last: PyTree, free: PyTree) -> tuple[PyTree, PyTree]:
        leaves, tree = jax.tree.flatten(free)
        at = [(x, x.ndim - 1) for x in jax.tree.leaves(last)]
        at += [(x, 0 if flag else None) for x, flag in zip(leaves, flags, strict=True)]
        split = next((found for x, i in at if i is not None and (found := axis_of(x, i))), None)
        if split is None or any(axis_of(x, j) for x, i in at for j in range(x.ndim) if j != i):
            return engine(lanes, flags, last, free)
        (name,) = split.spec

        def own(last: PyTree, leaves: list[Array]) -> tuple[PyTree, PyTree]:
            few = jax.tree.leaves(last)[0].shape[-1]
            out_last, out_lead = engine(few, flags, last, jax.tree.unflatten(tree, leaves))
            return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), out_last), out_lead

        at_end = jax.tree.map(lambda x: P(*[None] * (x.ndim - 1), name), last)
        ahead = [P(name) if flag else P() for flag in flags]
        names = {name} if isinstance(name, str) else set(name)
        specs = {"in_specs": (at_end, ahead), "out_specs": P(name)}
        each = jax.shard_map(own, mesh=split.mesh, axis_names=names, check_vma=False, **specs)
        out_last, out_lead = each(last, leaves)
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), out_last), out_lead

    return divided


def scattered(tree: PyTree) -> bool:
    """Return whether devices may each hold a part of these arrays, by their types or in a way that no type tells."""
    shardings = [jax.typeof(x).sharding for x in jax.tree.leaves(tree)]
    meshes = [get_abstract_mesh(), *[sharding.mesh for sharding in shardings]]
    auto = any(
        kind == AxisType.Auto and n > 1
        for mesh in meshes
        for kind, n in zip(mesh.axis_types, mesh.axis_sizes, strict=True)
    )
    return auto or any(any(sharding.spec) for sharding in shardings)


def in_blocks(engine: Engine, width: int) -> Engine:
    """Return `engine` run on blocks of `width` lanes one after the other, so that a block's arrays stay in cache.

    The last block is filled up with copies of the last lane; what they give is dropped. Lanes that may be split over
    devices in a way unknown here stay one block, which no device has to gather.
    """

    def blocked(lanes: int, flags: tuple[bool, ...], last: PyTree, free: PyTree) -> tuple[PyTree, PyTree]:
        if lanes <= width or scattered((last, free)):
            return engine(lanes, flags, last, free)
        count = -(-lanes // width)
        fill = count * width - lanes
        leaves, tree = jax.tree.flatten(free)

        def split_last(x: Array) -> Array:
            x = jnp.concatenate([x, jnp.repeat(x[..., -1:], fill, axis=-1)], axis=-1) if fill else x
            return jnp.moveaxis(x.reshape(*x.shape[:-1], count, width), -2, 0)

        def split_lead(x: Array) -> Array:
            x = jnp.concatenate([x, jnp.repeat(x[-1:], fill, axis=0)], axis=0) if fill else x
            return x.reshape(count, width, *x.shape[1:])

        def one_block(block: tuple[PyTree, list[Array]]) -> tuple[PyTree, PyTree]:
            part_last, mine = block
            own = iter(mine)
            part = [next(own) if flag else x for x, flag in zip(leaves, flags, strict=True)]
            return engine(width, flags, part_last, jax.tree.unflatten(tree, part))

        mine = [split_lead(x) for x, flag in zip(leaves, flags, strict=True) if flag]
        out_last, out_lead = lax.map(one_block, (jax.tree.map(split_last, last), mine))

        def join_last(x: Array) -> Array:
            x = jnp.moveaxis(x, 0, -2)
            return x.reshape(*x.shape[:-2], count * width)[..., :lanes]

        out_lead = jax.tree.map(lambda x: x.reshape(count * width, *x.shape[2:])[:lanes], out_lead)
        return jax.tree.map(join_last, out_last), out_lead

    return blocked


def lanes_last(free: PyTree, flags: tuple[bool, ...]) -> PyTree:
    """Move the lanes of every flagged leaf from the leading to the trailing axis."""
    leaves, tree = jax.tree.flatten(free)
    moved = [jnp.moveaxis(x, 0, -1) if flag else x for x, flag in zip(leaves, flags, strict=True)]
    return jax.tree.unflatten(tree, moved)


def lift(fn: Callable[..., PyTree], lanes: int, free: PyTree, flags: tuple[bool, ...]) -> Callable[..., PyTree]:
    """Return `field(t, y)` over lanes from `fn(free, t, y)` of one lane; `free` has flagged lanes trailing."""
    if lanes == 1:
        leaves, tree = jax.tree.flatten(free)
        alone = jax.tree.unflatten(tree, [x[..., 0] if flag else x for x, flag in zip(leaves, flags, strict=True)])

        def one(t: Array, y: PyTree) -> PyTree:
            dy = fn(alone, jnp.reshape(t, ()), jax.tree.map(lambda x: x[..., 0], y))
            return jax.tree.map(lambda x: jnp.expand_dims(x, -1), dy)

        return one
    axes = jax.tree.unflatten(jax.tree.structure(free), [-1 if flag else None for flag in flags])
    mapped = jax.vmap(fn, in_axes=(axes, 0, -1), out_axes=-1)
    return lambda t, y: mapped(free, jnp.broadcast_to(t, (lanes,)), y)
