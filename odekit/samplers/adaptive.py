"""Samplers that choose their steps by an error estimate, sample by sample: a lane of the adaptive loop each."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from odekit import errors
from odekit.control import PID
from odekit.samplers.continuous import Alone, keys_of, probability_flow, reverse_sde
from odekit.samplers.pairs import DPM12, DPM23
from odekit.solution import Solution
from odekit.solve import solve
from odekit.solvers.stochastic import StochasticHeun
from odekit.trees import common_real
from odekit.typing import PyTree, Scalar

_PAIRS = {2: DPM12, 3: DPM23}


def by_larger(err: PyTree, y0: PyTree, y1: PyTree, rtol: PyTree, atol: PyTree) -> Array:
    """Return the mean of `|err / max(atol, rtol max(|y0|, |y1 - err|))|**2`, the norm of the published loops.

    A `norm` for `PID`: where the house rule adds the tolerances, this one takes the larger, and it measures against the
    solution of lower order.
    """
    wide = common_real(y1)

    def squares(e: Array, a: Array, b: Array) -> Array:
        size = jnp.maximum(jnp.abs(a), jnp.abs(b - e)).astype(wide)
        bound = jnp.maximum(jnp.asarray(atol, wide), jnp.asarray(rtol, wide) * size)
        return jnp.sum((jnp.abs(e).astype(wide) / bound) ** 2, axis=tuple(range(e.ndim - 1)))

    total = sum(map(squares, *map(jax.tree.leaves, (err, y0, y1))), jnp.zeros((), wide))
    return total / max(1, sum(leaf.size // leaf.shape[-1] for leaf in jax.tree.leaves(y1)))


def adaptive_sample(
    model: Any,
    x_init: PyTree,
    *,
    order: int = 3,
    rtol: Scalar = 0.05,
    atol: Scalar = 0.0078,
    cond: Any = None,
    start: Scalar | None = None,
    end: Scalar | None = None,
    dt0: Scalar = 0.05,
    controller: PID | None = None,
    max_steps: int | None = None,
    throw: bool | str = True,
) -> Solution:
    """Sample by DPM-Solver-12 or -23 with steps in lam chosen by its error, for every sample its own.

    For an unknown model and a wanted accuracy; a table with a good grid is cheaper where the number of evaluations is
    given. The published loop judges a batch by its worst sample and lets steps grow without limit; this one has a lane
    for each sample, and steps that grow tenfold at most. Costs `order` evaluations a try.

    Args:
        model: a `Denoiser`, or any object with a method `velocity(x, t, cond)` and a `schedule`.
        x_init: (batch, ...) float arrays, sigma(start) times unit normals.
        order: 2 or 3.
        rtol: relative tolerance.
        atol: absolute tolerance, in the units of x; the default is two of 256 steps of data in [-1, 1].
        cond: handed to the model, one entry a sample: leaves lead with the batch.
        start: first time; None for the schedule's own.
        end: last time; likewise.
        dt0: first step, in lam.
        controller: takes the place of the tolerances.
        max_steps: most attempts.
        throw: as for `solve`.

    Returns:
        The solutions, whose `y1` are the samples, and whose `stats` count evaluations sample by sample.

    Raises:
        ValueError: order is not 2 or 3, or lam is infinite at an end.
        TypeError: the model has no velocity or no schedule.

    Example:
        >>> import odekit as ok
        >>> model = ok.samplers.gaussian([2.0], 0.1, ok.schedules.VPLinear())
        >>> adaptive_sample(model, jnp.zeros((5, 1))).y1.shape
        (5, 1)

    Source: Lu et al., DPM-Solver, NeurIPS 2022, appendix C (arXiv 2206.00927).
    """
    if order not in _PAIRS:
        raise ValueError(f"`order` is {order!r}; it must be 2 or 3.")
    problem, at = probability_flow(Alone(model), "lam"), model.schedule
    lam = {}
    for name, t in (("start", at.t_start if start is None else start), ("end", at.t_end if end is None else end)):
        lam[name] = at.lam(t)
        errors.require_finite(f"lam({name}={t})", lam[name], "choose a time between noise and data")
    pid = PID(rtol, atol, norm=by_larger) if controller is None else controller
    method = _PAIRS[order](at)

    def one(x: PyTree, cond: Any) -> Solution:
        return solve(
            problem, x, lam["start"], lam["end"], method, cond, controller=pid, dt0=dt0, max_steps=max_steps,
            throw=throw,
        )  # fmt: skip

    sol = jax.vmap(one)(x_init, cond)
    return eqx.tree_at(lambda s: (s.ts, s.t1), sol, (at.t_of_lam(sol.ts), at.t_of_lam(sol.t1)))


def gotta_go_fast(
    model: Any,
    x_init: PyTree,
    key: Array,
    *,
    rtol: Scalar = 0.05,
    atol: Scalar = 0.0078,
    eta: Scalar = 1.0,
    cond: Any = None,
    start: Scalar | None = None,
    end: Scalar | None = None,
    denoise: bool = True,
    controller: PID | None = None,
    max_steps: int | None = None,
    throw: bool | str = True,
) -> Solution:
    """Sample by the reverse SDE with steps chosen by their error, for every sample its own: `StochasticHeun`.

    For stochastic samples of a wanted accuracy. The published loop draws new noise when it refuses a step and so
    prefers small noise: the variance of a two-dimensional mixture came out 18 % too large at the tolerances below. Here
    a refused step is tried again on its own path. Costs two evaluations a try; steps follow an error that goes with
    the length to the power 3/2.

    Args:
        model: a `Denoiser`, or any object with a method `velocity(x, t, cond)` and a `schedule`.
        x_init: (batch, ...) float arrays, sigma(start) times unit normals.
        key: one key, or (batch,) keys.
        rtol: relative tolerance.
        atol: absolute tolerance, in the units of x.
        eta: amount of noise, as for `reverse_sde`.
        cond: handed to the model, one entry a sample: leaves lead with the batch.
        start: first time; None for the schedule's own.
        end: last time; likewise.
        denoise: whether to return the data prediction at the end, which costs one evaluation.
        controller: takes the place of the tolerances.
        max_steps: most attempts.
        throw: as for `solve`.

    Returns:
        The solutions, whose `y1` are the samples, and whose `stats` count evaluations sample by sample.

    Raises:
        TypeError: the model has no velocity or no schedule.
        ValueError: eta is negative, or alpha is 0 at the start.

    Example:
        >>> import odekit as ok
        >>> model = ok.samplers.gaussian([2.0], 0.1, ok.schedules.VPLinear())
        >>> gotta_go_fast(model, jnp.zeros((5, 1)), jax.random.key(0)).y1.shape
        (5, 1)

    Source: Jolicoeur-Martineau et al., Gotta Go Fast, 2021, algorithm 1 (arXiv 2105.14080).
    """
    problem, at = reverse_sde(Alone(model), eta), model.schedule
    first, last = (at.t_start if start is None else start), (at.t_end if end is None else end)
    if errors.known(first) and at.alpha(np.asarray(first)) == 0:
        raise ValueError(f"`start` is {first:g}, where there is no data in the state; start a little later.")
    pid = PID(rtol, atol, norm=by_larger) if controller is None else controller

    def one(x: PyTree, key: Array, cond: Any) -> Solution:
        return solve(
            problem, x, first, last, StochasticHeun(), cond, key=key, controller=pid, max_steps=max_steps, throw=throw
        )

    sol = jax.vmap(one)(x_init, keys_of(key, x_init), cond)
    if not denoise:
        return sol
    clean = model.data(sol.y1, last, cond)
    return eqx.tree_at(lambda s: (s.y1, s.ys), sol, (clean, jax.tree.map(lambda x: x[:, None], clean)))
