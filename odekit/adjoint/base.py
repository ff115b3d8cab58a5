"""What an adjoint is: it is handed a loop and returns it with a derivative."""

import abc
from collections.abc import Callable

import equinox as eqx

from odekit.loops.engine import Free, Last, Program
from odekit.loops.record import Raw, Rows
from odekit.typing import PyTree

Saved = Callable[[Last, Free], tuple[Raw, PyTree]]
Solve = Callable[[Last, Free], tuple[Raw, Rows | None]]


class Adjoint(eqx.Module):
    """How the derivative of an adaptive solve is taken. Accepted step lengths are constants to every adjoint."""

    @abc.abstractmethod
    def __call__(self, program: Program, keep_rows: bool) -> Solve:
        """Return the solve of one lane, `(last, free) -> (end, rows)`; `rows` is None unless they are kept."""

    def saved(self, program: Program) -> Saved | None:
        """Return the solve of one lane that reads the states at `free.ts` itself, `(last, free) -> (end, states)`.

        None: they are read off the kept rows.
        """
        return None
