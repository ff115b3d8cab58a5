"""From samples back to what they are sampled from: exactly where a table can be undone, else by sampling upwards."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from odekit.loops.table import SamplerTable, TableState
from odekit.samplers.dpm import dpm
from odekit.samplers.sample import check, sample, start_of
from odekit.samplers.steps import amplification, inverse
from odekit.schedules import Schedule
from odekit.trees import common_real
from odekit.typing import PyTree


class Inversion(NamedTuple):
    """What a sample was, or could have been, sampled from.

    Attributes:
        x: the encoding, slot 0 of that; sampled from alone, it errs by the table's own error.
        state: all slots to start from: `sample(model, table, state)` is the sample again.
        error: () largest distance of an entry of that from the sample; None if it was not measured.
        amplification: () how much undoing the table multiplies rounding errors, whatever the model: gamma**-(N-1) of
            `bdia`; None for a table that cannot be undone.
    """

    x: PyTree
    state: TableState
    error: Array | None
    amplification: Array | None


def invert(
    model: Any,
    table: SamplerTable,
    x: PyTree,
    *,
    key: Array | None = None,
    cond: Any = None,
    encoder: SamplerTable | None = None,
    measure: bool = True,
) -> Inversion:
    """Find what a sample is sampled from: exact for tables that can be undone, else by sampling from data to noise.

    Exact are `bdia`, `belm`, `edict` and `rex`, to rounding errors times the reported amplification. A sample that the
    table made goes back to its own start if given as `sample(..., state=True)` returned it. Any other, such as an
    image, is given alone; slots that hold earlier states then start by a step of DDIM towards noise. Other tables are
    not undone: their times are run upwards, to an encoding whose error is the solver's. Costs as many evaluations as
    the table has, and as many again to measure the error.

    Args:
        model: a `Denoiser`, or any object with a method named like the table's view; where it has to be sampled
            upwards also with `schedule` and `noise`.
        table: what samples from the encoding; of `noise` only `rex` can be inverted, see `encode_noise` for others.
        x: pytree of float arrays, a sample; or the `TableState` that it was sampled with.
        key: for a stochastic table, the key that the sample is made with.
        cond: handed to the model.
        encoder: for a table that cannot be undone: one on the reversed grid, `build(schedule, ts[::-1])`. None takes
            `dpm` of order 2 at the times of `table`, which amplifies less than one on the data prediction.
        measure: whether to sample again and report the error.

    Returns:
        An `Inversion`.

    Raises:
        TypeError: as for `sample`, or the model lacks what sampling upwards takes.
        ValueError: as for `sample`; the table is stochastic and cannot be undone; an encoder is given for one that can.

    Example:
        >>> from odekit.samplers import bdia, gaussian
        >>> from odekit.schedules import VPLinear
        >>> model, table = gaussian([1.0], 0.5, VPLinear()), bdia(VPLinear(), [1.0, 0.6, 0.3, 0.001])
        >>> float(invert(model, table, jnp.array([0.7])).error) < 1e-5
        True

    Source: Song, Meng & Ermon, ICLR 2021, section 5.4 (arXiv 2010.02502), for encoding; `table.source` for the rest.
    """
    x = start_of(x)
    if table.lags:
        if encoder is not None:
            raise ValueError(f"`encoder` is given, but the table {table.name!r} can be undone exactly; drop it.")
        up, grown = inverse(table), amplification(table)
        start = x if isinstance(x, TableState) else _started(model, table, x, cond)
    else:
        if table.stochastic:
            raise ValueError(f"`table` is {table.name!r}, which adds noise; take `encode_noise`, or build it without.")
        start = x.slots[0] if isinstance(x, TableState) else x
        up, grown = encoder or _encoder(model, table), None
    check(model, up, start, key)
    state = TableState(sample(model, up, start, key=key, cond=cond, state=True).slots)
    if not table.lags:
        state = TableState(state.slots[:1] * table.evals.shape[1])
    if not measure:
        return Inversion(state.slots[0], state, None, grown)
    again = sample(model, table, state, key=key, cond=cond)
    error = _distance(again, x.slots[0] if isinstance(x, TableState) else x)
    return Inversion(state.slots[0], state, error, grown)


@eqx.filter_jit
def _distance(a: PyTree, b: PyTree) -> Array:
    wide = common_real(a)
    far = [
        jnp.max(jnp.abs(x - y), initial=0.0).astype(wide) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    ]
    return jnp.max(jnp.stack(far))


def schedule_of(model: Any, why: str) -> Schedule:
    """Return the schedule of a model; without one, say what takes it."""
    if not isinstance(schedule := getattr(model, "schedule", None), Schedule):
        raise TypeError(f"`model` is a {type(model).__name__} without a schedule, which {why}.")
    return schedule


def _started(model: Any, table: SamplerTable, x: PyTree, cond: Any) -> TableState:
    """All slots for a sample given alone: those that lag behind it by a step of DDIM towards noise."""
    slots = {0: x}
    for lag in set(table.lags) - {0}:
        schedule = schedule_of(model, "a sample given alone takes; give the `TableState` that it was sampled with")
        ends = table.t_state[jnp.array([table.nfe, table.nfe - lag * table.evals.shape[2]])]
        slots[lag] = sample(model, dpm(schedule, ends, 1), x, cond=cond)
    return TableState(tuple(slots[lag] for lag in table.lags))


def _encoder(model: Any, table: SamplerTable) -> SamplerTable:
    """The times of a table from data to noise, without those that it meets twice."""
    schedule = schedule_of(model, "sampling upwards takes; give `encoder`, a table on the reversed grid")
    if isinstance(table.t_state, Tracer):
        raise TypeError("`table` is traced, so its times cannot be put in order; give `encoder`.")
    ts = np.unique(np.asarray(table.t_state, np.float64))
    ts = ts if schedule.lam(ts[0]) > schedule.lam(ts[-1]) else ts[::-1]
    to_pure_noise = bool(schedule.alpha(ts[-1]) == 0)
    return dpm(schedule, ts, 2, lower_order_final="last" if to_pure_noise else False)
