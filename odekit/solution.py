"""What a solve returns, and what it is asked to save."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from odekit import errors
from odekit.typing import PyTree


class SaveAt(eqx.Module):
    """What a solve saves. Times are in the units of t; `solve(saveat=ts)` means `SaveAt(ts=ts)`.

    Args:
        ts: (n,) times between t0 and t1, in the direction of the solve, repeats allowed; None for none. Traced (under
            `vmap`, say) it may hold NaN for "no observation": NaN is saved there, without a gradient, so that lanes
            with different numbers of times can be padded.
        t0: whether the initial state is saved.
        t1: whether the end is saved; by default only where nothing else is.
        steps: whether the end of every accepted step is saved; rows that no step fills hold infinite times and NaN.
        dense: whether the solution can be called at any time, `sol(t)`.
        fn: `fn(t, y, args)`, saved in place of y.
        judged: with `steps`, whether `sol.stats` also holds what every accepted step says of the problem, in the order
            of the steps, NaN in rows that none fills: `error`, the ratio of its error estimate to the tolerance (NaN
            where the method has no estimate), and `stiffness`, its length times the fastest rate of the problem (NaN
            where the method has no measure of it). Each step is taken once more for that, after the solve.
            Differentiable, with the lengths of the steps as constants: a penalty on either makes a model cheaper to
            solve (Pal et al., ICML 2021).

    Raises:
        ValueError: `ts` is not one-dimensional, not finite, or empty; `judged` without `steps`.

    Example:
        >>> SaveAt(ts=[0.0, 0.5, 1.0]).ts.shape
        (3,)
    """

    ts: Array | np.ndarray | None = None
    t0: bool = eqx.field(static=True, default=False)
    t1: bool = eqx.field(static=True, default=False)
    steps: bool = eqx.field(static=True, default=False)
    dense: bool = eqx.field(static=True, default=False)
    fn: Callable[..., PyTree] | None = eqx.field(static=True, default=None)
    judged: bool = eqx.field(static=True, default=False)

    def __init__(
        self,
        ts: Any = None,
        *,
        t0: bool = False,
        t1: bool | None = None,
        steps: bool = False,
        dense: bool = False,
        fn: Callable[..., PyTree] | None = None,
        judged: bool = False,
    ) -> None:
        if judged and not steps:
            raise ValueError("`judged` was True without `steps`, which it speaks of; give steps=True too.")
        if ts is not None:
            ts = ts if isinstance(ts, jax.Array) else np.asarray(ts, float)
            if ts.ndim != 1 or ts.shape[0] == 0:
                raise ValueError(f"`ts` has shape {ts.shape}; give a one-dimensional array of at least one time.")
            errors.require_finite("ts", ts, "drop the others")
        self.ts = ts
        self.t0, self.steps, self.dense, self.fn, self.judged = t0, steps, dense, fn, judged
        self.t1 = (ts is None and not t0 and not steps) if t1 is None else t1

    @property
    def rows(self) -> bool:
        """Whether the steps have to be recorded for this."""
        return self.ts is not None or self.steps or self.dense


class Solution(eqx.Module):
    """A finished solve. Under `vmap` every field has the batch axes in front.

    Attributes:
        ts: (n,) saved times.
        ys: saved states, leaves (n, ...).
        y1: the state at the end: at t1, at the event that ended it, or the last good one of a lane that failed.
        t1: the time of `y1`.
        result: code of how it ended; 0 is success, see `Result`.
        stats: `accepted`, `rejected` and `evaluations` (of the vector field), int32 each; `error` and `stiffness` of
            the steps where `SaveAt(judged=True)` asks for them.
        event: int32, which event ended it; -1 where none did.
        dense: what `sol(t)` reads, or None.
        method: name of the method that ran.
        source: the publication that its numbers come from, see `cite`.

    Example:
        >>> import odekit as ok
        >>> ok.solve(lambda t, y, args: -y, 1.0, 0.0, 1.0).message()
        'The solve reached t1.'
    """

    ts: Array
    ys: PyTree
    y1: PyTree
    t1: Array
    result: Array
    stats: dict[str, Array]
    event: Array
    dense: Callable[[Array], PyTree] | None = None
    method: str = eqx.field(static=True, default="")
    source: str = eqx.field(static=True, default="")

    def __call__(self, t: Any) -> PyTree:
        """Return the state at the time or times `t` of any shape (dense output of a single solve)."""
        if self.dense is None:
            raise ValueError("the solution holds no dense output; solve with `saveat=SaveAt(dense=True)`.")
        t = jnp.asarray(t, self.t1.dtype)
        ys = self.dense(t.reshape(-1))
        return jax.tree.map(lambda y: y.reshape(*t.shape, *y.shape[1:]), ys)

    def message(self, i: Any = ()) -> str:
        """Return how lane `i` (an index, or a tuple of them) ended, in words."""
        code, t = np.asarray(self.result)[i], np.asarray(self.t1)[i]
        if code.ndim:
            raise ValueError(f"`i` was {i!r} for lanes of shape {self.result.shape}; give one index an axis.")
        told = errors.sentence(int(code), float(t), event=int(np.asarray(self.event)[i]))
        if code in (errors.Result.SUCCESS, errors.Result.UNFINISHED):
            return told
        accepted, rejected = (int(np.asarray(self.stats[name])[i]) for name in ("accepted", "rejected"))
        return f"{told} It had taken {accepted} steps and rejected {rejected}."


def check(sol: Solution) -> Solution:
    """Return `sol`, or raise with the first failing lanes named.

    Args:
        sol: a solution outside of `jit`.

    Returns:
        The same solution.

    Raises:
        SolveError: a lane did not reach t1; the message says which, when and why.
        ValueError: called on traced values.

    Example:
        >>> import odekit as ok
        >>> float(check(ok.solve(lambda t, y, args: -y, 1.0, 0.0, 1.0)).t1)
        1.0
    """
    codes, ts = errors.concrete(sol.result), errors.concrete(sol.t1)
    if codes is None or ts is None:
        raise ValueError("`sol` is traced; call `check` outside of jit, or solve with `throw='traced'`.")
    if np.any(codes != errors.Result.SUCCESS):
        raise errors.SolveError(errors.summary(codes, ts))
    return sol


def finite_or(sol: Solution, fill: PyTree) -> PyTree:
    """Return the end of a solve, or `fill` where it failed: for likelihoods, samplers and losses that go on.

    Args:
        sol: a solution, under `vmap` or not.
        fill: a number, or a pytree like `sol.y1` of numbers or of arrays that broadcast against its leaves.

    Returns:
        `sol.y1` where `sol.result` is `SUCCESS`, else `fill`, in the dtypes of `sol.y1`. No gradient flows back into
        a lane that failed, and none of its values into another.

    Raises:
        ValueError: `fill` has another structure than `sol.y1`.

    Example:
        >>> import odekit as ok
        >>> pole = ok.solve(lambda t, y, args: y**2, 1.0, 0.0, 2.0, throw=False)
        >>> float(finite_or(pole, -1.0))
        -1.0
    """
    good = sol.result == int(errors.Result.SUCCESS)

    def pick(y: Array, value: Any) -> Array:
        mask = good.reshape(good.shape + (1,) * (y.ndim - good.ndim))
        return jnp.where(mask, y, jnp.asarray(value).astype(y.dtype))

    one = jax.tree.structure(fill) == jax.tree.structure(0)
    return jax.tree.map(lambda y: pick(y, fill), sol.y1) if one else jax.tree.map(pick, sol.y1, fill)
