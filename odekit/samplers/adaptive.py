"""Samplers that choose their steps by an error estimate, sample by sample: a lane of the adaptive loop each."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from odekit import errors
from odekit.control import PID
from odekit.samplers.continuous import Alone, keys_of, lam_rate, probability_flow, reverse_sde
from odekit.schedules import Schedule
from odekit.solution import Solution
from odekit.solve import solve
from odekit.solvers.base import Method, Step
from odekit.solvers.exponential import ExponentialRK
from odekit.solvers.stochastic import StochasticHeun
from odekit.trees import common_real, lincomb, real_dtype, scale
from odekit.typing import PyTree, Scalar

_SOURCE = "Lu et al., DPM-Solver, NeurIPS 2022, appendix C (arXiv 2206.00927)"


class Grown(NamedTuple):
    """A field as the semilinear one of `z = x / sigma` in lam: `z' = z + nonlinear(lam, z)`, minus the noise."""

    problem: Any
    schedule: Schedule
    linear: PyTree

    def nonlinear(self, lam: Array, z: PyTree) -> PyTree:
        """Return `(x' - sigma' x) / sigma - z`."""
        t = self.schedule.t_of_lam(lam)
        sigma = self.schedule.sigma(t)
        growth = self.schedule.sigma_dot(t) / sigma / lam_rate(self.schedule, t)
        return lincomb((1 / sigma, -(1 + growth)), [self.problem(lam, scale(sigma, z)), z])


class ExponentialInLam(Method):
    """An exponential Runge-Kutta pair on `x / sigma`, for the probability flow in lam: exact for constant noise.

    Args:
        pair: the coefficients, for a linear part of 1.
        schedule: the noise schedule.
        order: that of the pair.
        name: its name.
        source: where it comes from.
    """

    pair: ExponentialRK
    schedule: Schedule
    order: int = eqx.field(static=True)
    name: str = eqx.field(static=True)
    source: str = eqx.field(static=True, default=_SOURCE)

    @property
    def adaptive(self) -> bool:
        """Whether the pair has an error estimate."""
        return self.pair.adaptive

    @property
    def stages(self) -> int:
        """Evaluations a step."""
        return self.pair.stages

    def init(self, problem: Any, t: Array, y: PyTree) -> PyTree:
        """Return nothing: the first stage belongs to the step."""
        return None

    def step(self, problem: Any, t: Array, dt: Array, y: PyTree, carry: PyTree) -> Step:
        """Take one step, `t` being lam."""
        first, last = (self.schedule.sigma(self.schedule.t_of_lam(lam)) for lam in (t, t + dt))
        one = jax.tree.map(lambda x: jnp.ones((), real_dtype(x.dtype)), y)
        new = self.pair.step(Grown(problem, self.schedule, one), t, dt, scale(1 / first, y), None)
        return Step(scale(last, new.y), None if new.err is None else scale(last, new.err), carry)

    def dense(self, problem: Any, t: Array, dt: Array, y: PyTree, theta: Array) -> PyTree:
        """Take a step of length `theta * dt`: as accurate inside a step as at its end."""
        return self.step(problem, t, theta * dt, y, None).y


def DPM12(schedule: Schedule) -> ExponentialInLam:
    """DPM-Solver-2 with DPM-Solver-1 inside it: order 2 in lam, two evaluations a step.

    For `probability_flow(model, "lam")`, as `adaptive_sample` runs it.

    Args:
        schedule: the noise schedule of the model.

    Returns:
        The method.

    Example:
        >>> from odekit.schedules import EDM
        >>> DPM12(EDM()).stages
        2

    Source: Lu et al., DPM-Solver, NeurIPS 2022, algorithm 1 and appendix C (arXiv 2206.00927).
    """
    pair = ExponentialRK(
        order=2,
        basis=((1, 1 / 2), (1, 1.0)),
        c=(0.0, 1 / 2),
        a=(((1 / 2, 0.0),),),
        b=((0.0, 0.0), (0.0, 1.0)),
        b_err=((0.0, -1.0), (0.0, 1.0)),
    )
    return ExponentialInLam(pair, schedule, 2, "DPM12")


def DPM23(schedule: Schedule) -> ExponentialInLam:
    """DPM-Solver-3 with DPM-Solver-2 inside it: order 3 in lam, three evaluations a step.

    For `probability_flow(model, "lam")`, as `adaptive_sample` runs it.

    Args:
        schedule: the noise schedule of the model.

    Returns:
        The method.

    Example:
        >>> from odekit.schedules import EDM
        >>> DPM23(EDM()).order
        3

    Source: Lu et al., DPM-Solver, NeurIPS 2022, algorithm 2 and appendix C (arXiv 2206.00927).
    """
    pair = ExponentialRK(
        order=3,
        basis=((1, 1 / 3), (1, 2 / 3), (2, 2 / 3), (1, 1.0), (2, 1.0)),
        c=(0.0, 1 / 3, 2 / 3),
        a=(
            ((1 / 3, 0.0, 0.0, 0.0, 0.0),),
            ((0.0, 2 / 3, -4 / 3, 0.0, 0.0), (0.0, 0.0, 4 / 3, 0.0, 0.0)),
        ),
        b=((0.0, 0.0, 0.0, 1.0, -3 / 2), (0.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0, 3 / 2)),
        b_err=((0.0, 0.0, 0.0, 3 / 2, -3 / 2), (0.0, 0.0, 0.0, -3 / 2, 0.0), (0.0, 0.0, 0.0, 0.0, 3 / 2)),
    )
    return ExponentialInLam(pair, schedule, 3, "DPM23")


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
    prefers small noise: the variance of a two-dimensional mixture came out 19 % too large at the tolerances below. Here
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
