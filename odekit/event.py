"""Events: what a solve watches for, as data."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.typing import PyTree

_SIGNS = {None: 0, "up": 1, "down": -1}


class Event(eqx.Module):
    """A place where `fn(t, y, args)` changes sign; `solve(event=)` ends there, or changes the state and goes on.

    The time is located to rounding (about 1e-15 of it in float64) by genuine steps of the method, lane by lane. An
    event where the solve starts, or goes on from, counts only after `fn` has left 0. Two changes inside one step are
    seen where they are further apart than a quarter of it. Of events at the same time only the first one given happens:
    give terminal ones first. Derivatives reach the time and all that follows; they are NaN where the solution only
    grazes the event.

    Args:
        fn: `fn(t, y, args)`, a real scalar, smooth near its sign change.
        direction: "up" for changes from - to +, "down" for + to -, None for both.
        terminal: whether the solve ends there, with `SUCCESS`. With `apply` it goes on; with neither, a step ends there
            (`SaveAt(steps=True)` shows it) and the solve goes on.
        apply: `apply(t, y, args)`, the state from there on, shaped like y.

    Raises:
        TypeError: `fn` or `apply` is not callable.
        ValueError: `direction` is none of the three.

    Example:
        >>> Event(lambda t, y, args: y[0], direction="down").terminal
        True

    Source: Shampine & Thompson, Comput. Math. Appl. 39 (2000), 43-54.
    """

    fn: Callable[..., Array]
    direction: Literal["up", "down"] | None = eqx.field(static=True, default=None)
    terminal: bool = eqx.field(static=True, default=True)
    apply: Callable[..., PyTree] | None = None

    def __init__(
        self,
        fn: Callable[..., Array],
        direction: Literal["up", "down"] | None = None,
        terminal: bool = True,
        apply: Callable[..., PyTree] | None = None,
    ) -> None:
        for name, each in (("fn", fn), ("apply", apply)):
            if not callable(each) and not (name == "apply" and each is None):
                raise TypeError(f"`{name}` was {type(each).__name__}; give a function of (t, y, args).")
        if direction not in _SIGNS:
            raise ValueError(f"`direction` was {direction!r}; give 'up', 'down' or None.")
        self.fn, self.direction, self.terminal, self.apply = fn, direction, terminal and apply is None, apply

    @property
    def sign(self) -> int:
        """The sign after a change in the wanted direction; 0 for both."""
        return _SIGNS[self.direction]


def as_events(event: Any) -> tuple[Event, ...]:
    """Return one event, several or None as a tuple."""
    events = () if event is None else tuple(event) if isinstance(event, list | tuple) else (event,)
    for each in events:
        if not isinstance(each, Event):
            raise TypeError(f"`event` was {type(each).__name__}; give odekit.Event(fn), or a sequence of them.")
    return events


def check_value(shape: Any) -> None:
    """Raise where an event's function returns no real scalar."""
    leaves = jax.tree.leaves(shape)
    if len(leaves) != 1 or jax.tree.structure(shape) != jax.tree.structure(0) or leaves[0].shape != ():
        given = [leaf.shape for leaf in leaves]
        raise ValueError(f"the event's `fn` returned arrays of shapes {given}; return one real scalar.")
    if not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise TypeError(
            f"the event's `fn` returned dtype {leaves[0].dtype}; return a real number that changes sign, such as "
            "y[0] - 1.0 for y[0] > 1.0."
        )
