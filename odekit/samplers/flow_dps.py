"""FlowDPS: a stochastic table, and a model whose data prediction is made consistent with a measurement."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.loops.table import SamplerTable
from odekit.samplers.denoiser import Denoiser, fitted
from odekit.samplers.grids import on_grid
from odekit.samplers.multistep import multistep
from odekit.schedules import Schedule
from odekit.typing import PyTree, Scalar

_SOURCE = "Kim, Kim & Ye, FlowDPS, ICCV 2025, algorithm 1 (arXiv 2503.08136)"


def flow_dps(schedule: Schedule, ts: Any) -> SamplerTable:
    """FlowDPS: of no order, one evaluation per step, most of the noise fresh in the last steps.

    For inverse problems with a flow, around the model that `consistent` makes. The share of fresh noise does not shrink
    with the step, so more steps do not lead to the law of the data but to a narrower one: without a measurement, take
    `ddim` or `sa`. With t the end of a step and `c = sigma_t / (alpha_t + sigma_t)`,
    `x_t = alpha_t data + sigma_t (sqrt(c) noise + sqrt(1 - c) z)`.

    Args:
        schedule: the noise schedule.
        ts: (N+1,) times from noise to data.

    Returns:
        A stochastic table of N rows in the data view.

    Raises:
        ValueError: the grid is not monotone.

    Example:
        >>> from odekit.schedules import FlowMatching
        >>> flow_dps(FlowMatching(), [1.0, 0.5, 0.0]).evals.ravel().tolist()
        [0.5, 1.0]

    Source: Kim, Kim & Ye, FlowDPS, ICCV 2025, algorithm 1 (arXiv 2503.08136).
    """
    grid = on_grid(schedule, ts)
    xp, alpha, sigma = grid.xp, grid.alpha[1:], grid.sigma[1:]
    share, left = sigma / (alpha + sigma), sigma > 0
    # the square root has no derivative where the noise ends
    keep = grid.keep * xp.where(left, xp.sqrt(xp.where(left, share, 1.0)), 0.0)
    gain, noise = alpha - grid.alpha[:-1] * keep, sigma * xp.sqrt(1 - share)
    return multistep(grid, keep, gain[:, None], noise, view="data", name="flow_dps", source=_SOURCE)


class _Consistent(eqx.Module):
    """The data prediction that a `flow_dps` row must be given for only its data, not its noise, to be refined."""

    model: Any
    refine: Callable
    times: Array
    weights: Array

    def __call__(self, x: PyTree, t: Array, cond: Any) -> PyTree:
        data = self.model.data(x, t, cond)
        row = jnp.argmin(jnp.abs(t[..., None] - self.times.astype(t.dtype)), axis=-1)
        weight = self.weights.astype(t.dtype)[row]
        return jax.tree.map(lambda d, new: d + fitted(weight, d) * (new - d), data, self.refine(data))


def consistent(model: Any, table: SamplerTable, refine: Callable[[PyTree], PyTree]) -> Denoiser:
    """Return the model whose data prediction a measurement has refined, for one `flow_dps` table.

    The refined data enter a row in the proportion of its noise, sigma / (alpha + sigma), and the noise that the row
    keeps is that of the unrefined prediction.

    Args:
        model: a denoiser, usually guided, or a known model with a schedule.
        table: from `flow_dps`, with the model's schedule.
        refine: `refine(data)` returns data that agree better with the measurement; `descent` makes one.

    Returns:
        A denoiser that predicts the data, for this table only.

    Raises:
        ValueError: the table is another sampler's.

    Example:
        >>> from odekit.samplers import gaussian, sample, time_grid
        >>> from odekit.schedules import FlowMatching
        >>> flow = FlowMatching()
        >>> table = flow_dps(flow, time_grid(flow, 20))
        >>> model = consistent(gaussian([0.0], 1.0, flow), table, lambda data: 0 * data + 1.5)
        >>> sample(model, table, jnp.zeros(1), key=jax.random.key(0)).shape
        (1,)

    Source: Kim, Kim & Ye, FlowDPS, ICCV 2025, algorithm 1 (arXiv 2503.08136).
    """
    if table.name != "flow_dps":
        raise ValueError(f"`table` is {table.name!r}; the refinement is weighed for the rows of `flow_dps`.")
    schedule, gain = model.schedule, table.evals[:, 0, 0]
    alpha, sigma = schedule.alpha(table.t), schedule.sigma(table.t)
    weights = schedule.alpha(table.t_state[1:]) * sigma / (alpha + sigma) / gain
    return Denoiser(_Consistent(model, refine, table.t, weights), schedule, "data")


class _Descent(eqx.Module):
    residual: Callable
    rate: Scalar
    steps: int = eqx.field(static=True)

    def __call__(self, data: PyTree) -> PyTree:
        def norm(data: PyTree) -> Array:
            square = sum(jnp.sum(r**2) for r in jax.tree.leaves(self.residual(data)))
            return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)

        slope = jax.grad(norm)
        for _ in range(self.steps):
            data = jax.tree.map(lambda d, g: d - jnp.asarray(self.rate, d.dtype) * g, data, slope(data))
        return data


def descent(residual: Callable[[PyTree], PyTree], rate: Scalar, steps: int = 3) -> Callable[[PyTree], PyTree]:
    """Return a refinement of data: some steps down the gradient of a residual's norm, for one sample.

    `jax.vmap` of it refines a batch.

    Args:
        residual: `residual(data)`, zero where the data agree with the measurement.
        rate: step size; the gradient of a norm does not fade near its minimum.
        steps: number of steps.

    Returns:
        `refine(data)`, a pytree.

    Example:
        >>> float(descent(lambda data: data - 1.0, 0.25)(jnp.array([0.0]))[0])
        0.75

    Source: Kim, Kim & Ye, FlowDPS, ICCV 2025, algorithm 1 (arXiv 2503.08136).
    """
    return _Descent(residual, rate, steps)
