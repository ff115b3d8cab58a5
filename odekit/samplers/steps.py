"""Steps of several evaluations as rows of a table, and the table that undoes such steps.

A step that keeps the state it started from can be undone: with that state its evaluations can be repeated, and what
they added taken back. So inversion is a table too, with the same evaluations in the opposite order of steps.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from odekit.loops.table import SamplerTable


class Steps(NamedTuple):
    """K steps of m evaluations each, by what they do to the slots u and not row by row.

    Evaluation i of a step is made at `scale_i u_0 + sum_{j<i} points_ij F_j + kicks_i z`, z the step's draw of noise;
    afterwards the slots are `states u + evals F + noise z`.

    Attributes:
        t: (K, m) times handed to the model.
        t_state: (K, m) times that the evaluated states stand for.
        scale: (K, m), 1 in the first column.
        points: (K, m, m), strictly lower triangular.
        kicks: (K, m), 0 in the first column.
        states: (K, A, A).
        evals: (K, A, m).
        noise: (K, A).
    """

    t: Any
    t_state: Any
    scale: Any
    points: Any
    kicks: Any
    states: Any
    evals: Any
    noise: Any


def matrices(xp: Any, entries: list) -> Any:
    """Return (K, rows, columns) from rows of (K,) entries."""
    return xp.stack([xp.stack(row, axis=-1) for row in entries], axis=-2)


def _product(xp: Any, a: Any, b: Any) -> Any:
    """`a @ b` of stacked matrices as a sum of products, which accelerators do not round."""
    return xp.sum(a[..., :, :, None] * b[..., None, :, :], axis=-2)


def _apply(xp: Any, a: Any, v: Any) -> Any:
    """`a @ v` of stacked matrices and vectors."""
    return xp.sum(a * v[..., None, :], axis=-1)


def _first(xp: Any, row: Any, slots: int) -> Any:
    """(K, A, ...) with `row` (K, ...) for slot 0 and zeros for the others."""
    return xp.stack([row, *[xp.zeros_like(row)] * (slots - 1)], axis=1)


def _scaling(xp: Any, factor: Any, slots: int) -> Any:
    """(K, A, A) diagonal: `factor` for slot 0 and 1 for the others."""
    zero, one = xp.zeros_like(factor), xp.ones_like(factor)
    return matrices(xp, [[zero if a != b else one if a else factor for b in range(slots)] for a in range(slots)])


def to_table(
    xp: Any, steps: Steps, end: Any, draws: tuple[int, ...] | None = None, lags: tuple[int, ...] = (), **about: Any
) -> SamplerTable:
    """Return the rows of some steps: between evaluations of a step, slot 0 alone moves.

    Args:
        xp: NumPy or `jax.numpy`.
        steps: the steps.
        end: () time of the result.
        draws: K numbers of the steps' noises, None for a deterministic table.
        lags: as in `SamplerTable`.
        about: further fields of the table.
    """
    (count, m), slots = steps.scale.shape, steps.states.shape[1]
    states, evals, noise = [], [], []
    for i in range(m):
        last = i + 1 == m
        # u_0 from the state that was evaluated, then the next such state or the slots after the step
        back = _scaling(xp, 1 / steps.scale[:, i], slots)
        back_evals = _first(xp, -steps.points[:, i] / steps.scale[:, i, None], slots)
        back_noise = _first(xp, -steps.kicks[:, i] / steps.scale[:, i], slots)
        forth = steps.states if last else _scaling(xp, steps.scale[:, i + 1], slots)
        forth_evals = steps.evals if last else _first(xp, steps.points[:, i + 1], slots)
        forth_noise = steps.noise if last else _first(xp, steps.kicks[:, i + 1], slots)
        states.append(_product(xp, forth, back))
        evals.append(_product(xp, forth, back_evals) + forth_evals)
        noise.append(_apply(xp, forth, back_noise) + forth_noise)

    def rows(parts: list) -> Array:
        joined = xp.stack(parts, axis=1)
        return jnp.asarray(joined.reshape(count * m, *joined.shape[2:]))

    return SamplerTable(
        t=jnp.asarray(steps.t.reshape(-1)),
        states=rows(states),
        evals=rows(evals),
        noise=None if draws is None else rows(noise),
        t_state=jnp.append(jnp.asarray(steps.t_state.reshape(-1)), jnp.asarray(end)),
        draws=() if draws is None else tuple(number for number in draws for _ in range(m)),
        lags=lags,
        **about,
    )


def to_steps(table: SamplerTable) -> tuple[Any, Steps]:
    """Return the steps that a table with `lags` consists of, H rows each, and the namespace of their numbers."""
    concrete = not any(isinstance(leaf, Tracer) for leaf in (table.states, table.evals, table.noise))
    xp = np if concrete else jnp
    depth, slots = table.evals.shape[2], table.evals.shape[1]
    noise = xp.zeros(table.evals.shape[:2], table.evals.dtype) if table.noise is None else table.noise
    t, t_state, states, evals, noise = (
        xp.asarray(rows).reshape(-1, depth, *rows.shape[1:])
        for rows in (table.t, table.t_state[:-1], table.states, table.evals, noise)
    )
    total = xp.broadcast_to(xp.eye(slots, dtype=states.dtype), states.shape[:1] + states.shape[2:])
    added, kicked = xp.zeros_like(evals[:, 0]), xp.zeros_like(noise[:, 0])
    scale, points, kicks, strays = [], [], [], []
    for i in range(depth):
        scale.append(total[:, 0, 0])
        points.append(added[:, 0])
        kicks.append(kicked[:, 0])
        strays += [total[:, 0, 1:], evals[:, i, :, i + 1 :]]
        total = _product(xp, states[:, i], total)
        added = _product(xp, states[:, i], added) + evals[:, i]
        kicked = _apply(xp, states[:, i], kicked) + noise[:, i]
    scale, points, kicks = (xp.stack(part, axis=1) for part in (scale, points, kicks))
    steps = Steps(t, t_state, scale, points, kicks, total, added, kicked)
    if concrete:
        back = np.linalg.inv(total)
        strays += [_product(xp, back, added)[:, 0], _apply(xp, back, kicked)[:, 0]]
        _check_reversible(table, strays)
    return xp, steps


def _check_reversible(table: SamplerTable, strays: list[np.ndarray]) -> None:
    size = max(1.0, *(float(np.max(np.abs(part))) for part in (table.states, table.evals)))
    worst = max(float(np.max(np.abs(part), initial=0.0)) for part in strays)
    if not worst <= 1e3 * np.finfo(np.asarray(table.states).dtype).eps * size:
        raise ValueError(
            f"`table` is {table.name!r} with numbers off by {worst:.1e} from those of steps that can be undone; use it "
            "as its builder made it."
        )


def inverse(table: SamplerTable) -> SamplerTable:
    """Return the table that undoes another: from where that one ends to where it started, in as many evaluations.

    For tables with `lags`: `bdia`, `belm`, `edict`, `rex`. It starts from all slots, as `sample(..., state=True)`
    returns them, draws the same noise from the same key, and ends with the slots that the other started from.
    `odekit.invert` runs it.

    Args:
        table: as its builder made it.

    Returns:
        A table with the rows' evaluations in the opposite order of steps.

    Raises:
        ValueError: the steps of the table cannot be undone.

    Example:
        >>> from odekit.samplers import bdia
        >>> from odekit.schedules import VPLinear
        >>> inverse(bdia(VPLinear(), [1.0, 0.5, 0.1])).t.tolist()
        [0.5, 1.0]

    Source: McCallum & Foster, 2024 (arXiv 2410.11648), for the coupled pair; each row here is its own inverse's.
    """
    if not table.lags:
        raise ValueError(f"`table` is {table.name!r}, whose steps cannot be undone; take `bdia`, `belm` or `rex`.")
    xp, steps = to_steps(table)
    back = xp.linalg.inv(steps.states)
    # every step ends by undoing the mixing of the one before it, so that slot 0 is what that step evaluated first
    mix = xp.concatenate([xp.eye(len(table.lags), dtype=back.dtype)[None], back[:-1]])
    undo = _product(xp, mix, back)
    undone = steps._replace(states=mix, evals=-_product(xp, undo, steps.evals), noise=-_apply(xp, undo, steps.noise))
    depth = table.evals.shape[2]
    numbers = (table.draws or tuple(range(table.nfe)))[::depth]
    undone = to_table(
        xp,
        Steps(*(part[::-1] for part in undone)),
        table.t_state[0],
        None if table.noise is None else numbers[::-1],
        view=table.view,
        name=f"{table.name} inverse",
        source=table.source,
    )
    return dataclasses.replace(undone, start=jnp.asarray(back[-1]))


def amplification(table: SamplerTable) -> Array:
    """Return by how much undoing a table multiplies rounding errors: how much its steps shrink volumes, in all.

    Apart from their linear part the steps are shears, so that this does not depend on the model. Of `bdia` it is
    `gamma**-(N-1)`; undone in float64, errors of 1e-16 times it are to be expected in what a sample started from.

    Args:
        table: with `lags`, as its builder made it.

    Returns:
        ().

    Raises:
        ValueError: the steps of the table cannot be undone.

    Example:
        >>> from odekit.samplers import bdia
        >>> from odekit.schedules import VPLinear
        >>> float(amplification(bdia(VPLinear(), [1.0, 0.5, 0.1], gamma=0.5)))
        2.0

    Source: Zhang, Lewis & Kleijn, BDIA, ECCV 2024 (arXiv 2307.10829), for the factor of each step.
    """
    if not table.lags:
        raise ValueError(f"`table` is {table.name!r}, whose steps cannot be undone; take `bdia`, `belm` or `rex`.")
    xp, steps = to_steps(table)
    return jnp.asarray(xp.prod(1 / xp.abs(xp.linalg.det(steps.states))))
