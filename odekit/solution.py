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
        ts: (n,) times between t0 and t1, in the direction of the solve, repeats allowed; None for none.
        t0: whether the initial state is saved.
        t1: whether the end is saved; by default only where nothing else is.
        steps: whether the end of every accepted step is saved; rows that no step fills hold infinite times and NaN.
        dense: whether the solution can be called at any time, `sol(t)`.
        fn: `fn(t, y, args)`, saved in place of y.

    Raises:
        ValueError: `ts` is not one-dimensional, not finite, or empty.

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

    def __init__(
        self,
        ts: Any = None,
        *,
        t0: bool = False,
        t1: bool | None = None,
        steps: bool = False,
        dense: bool = False,
        fn: Callable[..., PyTree] | None = None,
    ) -> None:
        if ts is not None:
            ts = ts if isinstance(ts, jax.Array) else np.asarray(ts, float)
            if ts.ndim != 1 or ts.shape[0] == 0:
                raise ValueError(f"`ts` has shape {ts.shape}; give a one-dimensional array of at least one time.")
            errors.require_finite("ts", ts, "drop the others")
        self.ts = ts
        self.t0, self.steps, self.dense, self.fn = t0, steps, dense, fn
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
        stats: `accepted`, `rejected` and `evaluations` (of the vector field), int32 each.
        event: int32, which event ended it; -1 where none did.
        dense: what `sol(t)` reads, or None.
        method: name of the method that ran.

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
        return errors.sentence(int(code), float(t), event=int(np.asarray(self.event)[i]))


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
