"""Free numbers and the tables they stand for: every family starts exactly at a named table.

A family is a rule `make(free) -> SamplerTable` together with the free numbers that training moves. Constraints hold by
construction: times stay inside their interval or stay ordered, consistent rows keep their sums.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from odekit.loops.table import SamplerTable
from odekit.samplers.denoiser import conversion
from odekit.typing import PyTree

CHOICES = ("coefficients", "times")


class Family(eqx.Module):
    """A rule that turns free numbers into a table, and the free numbers themselves.

    Attributes:
        make: a hashable or pytree callable, `make(free) -> SamplerTable`; arrays that it carries are constants.
        free: the pytree of arrays that training moves.
    """

    make: Callable[[PyTree], SamplerTable]
    free: PyTree

    def table(self) -> SamplerTable:
        """Return the table that the free numbers stand for."""
        return self.make(self.free)


def normal_form(table: SamplerTable, schedule: Any = None, view: str | None = None) -> SamplerTable:
    """Return the same solver as rows `y[k+1] = alpha[k] x_init + sum_j beta[k, j] F_j`, one evaluation F per row.

    Two deterministic tables with equal times are the same solver exactly when their normal forms in one view agree, so
    this is both an equality test and the widest family to train: no row can express more. The result is again a
    `SamplerTable`, with slots (state, x_init) and a ring that keeps every evaluation.

    Args:
        table: a deterministic table of N rows.
        schedule: the schedule that converts predictions; needed only with `view`.
        view: the prediction that the rows shall combine, "data", "velocity", "noise" or "score"; the table's own when
            None. Prefer "data" or "velocity" in float32: noise rows reach coefficients of 1/alpha.

    Returns:
        A table with states (N, 2, 2) and evals (N, 2, N).

    Raises:
        ValueError: the table is stochastic, has constants or a mixed start, or `view` is undefined at one of its times.

    Example:
        >>> import odekit as ok
        >>> schedule = ok.schedules.FlowMatching()
        >>> table = ok.samplers.euler(schedule, ok.time_grid(schedule, 4))
        >>> ok.learn.normal_form(table).evals.shape
        (4, 2, 4)

    Source: Shaul et al., "Bespoke Non-Stationary Solvers", ICML 2024 (the family); the equality is elementary.
    """
    if table.stochastic:
        raise ValueError("`table` has noise rows, which have no normal form; give a deterministic table (eta=0).")
    if table.offset is not None or table.start is not None:
        raise ValueError(
            "`table` has constants, or mixes its slots first, which a normal form does not hold; give another."
        )
    states, evals = (np.asarray(leaf, np.float64) for leaf in (table.states, table.evals))
    (n, slots, depth), own = evals.shape, np.eye(evals.shape[0] + 1)
    from_state, from_view = _conversion(table, schedule, view)
    # Every slot and ring entry is a vector of its coefficients over (x_init, F_0, ..., F_{N-1}).
    u, ring, rows = np.tile(own[0], (slots, 1)), np.zeros((depth, n + 1)), []
    for k in range(n):
        ring[k % depth] = from_state[k] * u[0] + from_view[k] * own[k + 1]
        u = states[k] @ u + evals[k] @ ring
        rows.append(u[0])
    alpha, beta = np.split(np.stack(rows), [1], axis=1)
    t, t_state = jnp.asarray(table.t), jnp.asarray(table.t_state)
    return from_rows(jnp.asarray(alpha[:, 0]), jnp.asarray(beta), t, t_state, view or table.view)


def _conversion(table: SamplerTable, schedule: Any, view: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return p, q with `prediction in the table's view = p * state + q * prediction in view` at every row."""
    n = table.t.shape[0]
    if view is None or view == table.view:
        return np.zeros(n), np.ones(n)
    if schedule is None:
        raise ValueError(f"`schedule` is needed to turn {table.view} rows into {view} rows; give the model's schedule.")

    t, at = jnp.asarray(table.t), schedule
    pair = conversion(view, table.view, at.alpha(t), at.sigma(t), at.alpha_dot(t), at.sigma_dot(t))
    p, q = (np.asarray(part, np.float64) for part in pair)
    bad = np.flatnonzero(~(np.isfinite(p) & np.isfinite(q)))
    if bad.size:
        k = int(bad[0])
        raise ValueError(
            f"`view` is {view!r}, which row {k} at t={float(table.t[k])} cannot turn into {table.view}; give another."
        )
    return p, q


def from_rows(
    alpha: Array, beta: Array, t: Array, t_state: Array, view: str, name: str = "normal form"
) -> SamplerTable:
    """Return the table with rows `y[k+1] = alpha[k] x_init + sum_{j<=k} beta[k, j] F_j`.

    Args:
        alpha: (N,) weight of the initial state.
        beta: (N, N) lower triangular weights of the evaluations.
        t: (N,) model times.
        t_state: (N+1,) times that the states stand for.
        view: the prediction that F is.
        name: what the table is listed under.

    Returns:
        A table with slots (state, x_init).
    """
    n = alpha.shape[0]
    states = jnp.zeros((n, 2, 2), alpha.dtype).at[:, 0, 1].set(alpha).at[:, 1, 1].set(1.0)
    evals = jnp.zeros((n, 2, n), alpha.dtype).at[:, 0].set(beta)
    return SamplerTable(t, states, evals, None, t_state, view, name)


class _Rows(eqx.Module):
    """Rows in normal form, each with its own time: `free` overrides what `start` says."""

    start: dict[str, Any]
    sums: Array  # (N,) row sums of beta, which consistent rows keep
    shift: Array  # (N,) start minus its sigmoid, so that the start is exact also at an end of the interval
    t_state: Array  # (N+1,)
    interval: tuple[float, float] = eqx.field(static=True)
    view: str = eqx.field(static=True)
    consistent: bool = eqx.field(static=True)

    def __call__(self, free: dict[str, Any]) -> SamplerTable:
        alpha, lower = free.get("coefficients", self.start["coefficients"])
        n = self.sums.shape[0]
        beta = jnp.zeros((n, n), lower.dtype).at[np.tril_indices(n, -self.consistent)].set(lower)
        if self.consistent:
            alpha, beta = self.start["coefficients"][0], beta + jnp.diag(self.sums - beta.sum(1))
        t = self._times(free.get("times", self.start["times"]))
        return from_rows(alpha, beta, t, self.t_state, self.view, "learned")

    def _times(self, logits: Array) -> Array:
        lo, hi = self.interval
        u = jax.nn.sigmoid(logits) + self.shift
        u = jnp.where(u > 1, 2 - u, jnp.where(u < 0, -u, u))  # an end of the interval is a fold: no time sticks to it
        return lo + (hi - lo) * u


def free_rows(
    table: SamplerTable,
    interval: tuple[float, float] | None = None,
    *,
    train: Collection[str] = CHOICES,
    consistent: bool = False,
) -> Family:
    """Return the family of all rows and times, started exactly at `table`.

    N + N(N+1)/2 coefficients and N times. The times are independent of each other and of the grid that the
    coefficients came from, and the first is free as well: at pure noise a network says nothing that depends on the
    state, so a first evaluation pinned there is wasted.

    Args:
        table: a deterministic table of N rows; it is brought to its normal form.
        interval: (lowest, highest) time that an evaluation may take; the ends of `table.t_state` when None.
        train: which numbers are free: "coefficients", "times" or both.
        consistent: keep every row's sum of weights, and its weight of x_init, at the start's: a prediction that is
            constant stays exact whatever is learned. N(N-1)/2 coefficients are then free.

    Returns:
        A `Family` whose `table()` equals the normal form of `table`.

    Raises:
        ValueError: `train` names something else, or a time of the table is outside of the interval.

    Source: Shaul et al., "Bespoke Non-Stationary Solvers", ICML 2024.
    """
    unknown = sorted(set(train) - set(CHOICES))
    if unknown or not train:
        raise ValueError(f"`train` is {tuple(train)}; name one or both of {CHOICES}.")
    table = normal_form(table)
    ends = sorted((float(table.t_state[0]), float(table.t_state[-1])))
    lo, hi = ends if interval is None else map(float, interval)
    u = (np.asarray(table.t, np.float64) - lo) / (hi - lo)
    if not (lo < hi and np.all((u > -1e-6) & (u < 1 + 1e-6))):
        raise ValueError(f"`interval` is ({lo}, {hi}), but the table evaluates at {np.asarray(table.t)}; widen it.")
    n, soft = len(u), np.clip(u, 0.04, 0.96)  # nearer to an end the sigmoid is flat: 0.01 costs 0.4 dB (VP, six rows)
    beta = table.evals[:, 0]
    start = {
        "coefficients": (table.states[:, 0, 1], beta[np.tril_indices(n, -consistent)]),
        "times": jnp.asarray(np.log(soft) - np.log1p(-soft)),
    }
    make = _Rows(start, beta.sum(1), jnp.asarray(u - soft), table.t_state, (lo, hi), table.view, consistent)
    return Family(make, {name: start[name] for name in CHOICES if name in train})


class _Grid(eqx.Module):
    """A builder's table on a grid whose gaps are softmax shares of the interval."""

    ends: Array  # (2,) first and last time
    schedule: Any
    builder: Callable[..., SamplerTable] = eqx.field(static=True)

    def __call__(self, free: Array) -> SamplerTable:
        t0, t1 = self.ends
        inner = t0 + (t1 - t0) * jnp.cumsum(jax.nn.softmax(free))[:-1]
        return self.builder(self.schedule, jnp.concatenate([self.ends[:1], inner, self.ends[1:]]))


def free_grid(builder: Callable[..., SamplerTable], schedule: Any, ts: Array | Sequence[float]) -> Family:
    """Return the family of one builder's tables on all monotone grids with the ends of `ts`, started at `ts`.

    The builder's own formula recomputes every coefficient from the moving grid, so whatever is learned keeps the
    builder's order. N numbers; the first and last time stay. For free coefficients use `free_rows`.

    Args:
        builder: `builder(schedule, ts) -> SamplerTable`, such as `ok.samplers.ddim`.
        schedule: its first argument.
        ts: (N+1,) strictly monotone times from noise to data.

    Returns:
        A `Family`; zeros added to its numbers change nothing, and any numbers give a monotone grid.

    Raises:
        ValueError: `ts` is not strictly monotone.

    Source: the softmax grid of Wang et al., "Differentiable Solver Search", 2025.
    """
    grid = np.asarray(ts, np.float64)
    shares = np.diff(grid) / (grid[-1] - grid[0])
    if not np.all(shares > 0):
        raise ValueError(f"`ts` must be strictly monotone, but it is {grid}; sort it and drop repeated times.")
    return Family(_Grid(jnp.asarray(grid[[0, -1]]), schedule, builder), jnp.asarray(np.log(shares)))
