"""Automatic switching between an explicit and a linearly implicit method, lane by lane."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from odekit.solvers.base import Method, Step
from odekit.solvers.rosenbrock import Rodas5P, Rosenbrock
from odekit.solvers.runge_kutta import RungeKutta
from odekit.solvers.tableaus import Tsit5
from odekit.trees import common_real, select
from odekit.typing import PyTree


class Gear(NamedTuple):
    """What a step needs besides the state.

    Attributes:
        k: the derivative at the state.
        streak: whole numbers, one a lane: successive steps that looked stiff, or, below 0, on the implicit side, minus
            one minus successive steps that did not.
    """

    k: PyTree
    streak: Array


class AutoSwitch(Method):
    """Explicit steps where the problem is not stiff, linearly implicit ones where it is, chosen lane by lane.

    A step looks stiff where `dt rate > 0.9 stable`, with the fastest rate that an explicit step has met, or a bound on
    all rates, the row norm of the Jacobian, on an implicit one. After `patience` explicit steps in succession that look
    stiff a lane goes over, and comes back after `back` implicit ones that do not. A way that no lane takes is not
    computed. An explicit step costs one product with the Jacobian more than in `explicit` itself, an implicit one one
    evaluation more.

    Args:
        explicit: default `Tsit5()`.
        implicit: default `Rodas5P()`.
        stable: how far the stability region of `explicit` reaches along the negative real axis.
        patience: steps in succession that look stiff.
        back: steps in succession that do not.

    Raises:
        ValueError: `explicit` or `implicit` has no error estimate, or `explicit` has two.

    Example:
        >>> AutoSwitch().order
        5

    Source: Hairer & Wanner, Solving Ordinary Differential Equations II, 1996, IV.2; Rackauckas & Nie, J. Open Res.
    Softw. 5 (2017), 15.
    """

    explicit: RungeKutta = eqx.field(default_factory=Tsit5)
    implicit: Rosenbrock = eqx.field(default_factory=Rodas5P)
    stable: float = eqx.field(static=True, default=3.5)
    patience: int = eqx.field(static=True, default=10)
    back: int = eqx.field(static=True, default=3)
    stiff: Array | None = None
    name: str = eqx.field(static=True, default="AutoSwitch")
    source: str = eqx.field(static=True, default="Hairer & Wanner, Solving ODEs II, 1996, IV.2")

    def __check_init__(self) -> None:
        if not (self.explicit.adaptive and self.implicit.adaptive):
            raise ValueError("`explicit` and `implicit` need error estimates; give Tsit5() and Rodas5P().")
        if self.explicit.b_err_low is not None:
            raise ValueError(f"`explicit` was {self.explicit.name} with two error estimates; give Tsit5().")

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The smaller of the two orders."""
        return min(self.explicit.order, self.implicit.order)

    @property
    def adaptive(self) -> bool:
        """Both methods carry an error estimate."""
        return True

    @property
    def solves(self) -> bool:
        """A stage solves a linear system."""
        return True

    @property
    def stages(self) -> int:
        """Evaluations of a step, of the dearer of the two methods, with the one that begins the next step."""
        return max(self.explicit.stages, self.implicit.stages + 1)

    @property
    def switches(self) -> bool:
        """A step is explicit or implicit."""
        return True

    def way(self, carry: Gear) -> Array:
        """Return where the next step is implicit."""
        return carry.streak < 0

    def bound(self, way: Array | None) -> Method:
        """Return this method with its first step implicit where `way` says so."""
        return eqx.tree_at(lambda m: m.stiff, self, way, is_leaf=lambda x: x is None)

    def init(self, problem: Any, t: Array, y: PyTree) -> Gear:
        """Return the first stage; every lane begins explicitly."""
        zero = jnp.zeros(jnp.shape(t), jnp.int32)
        return Gear(problem(t, y), zero if self.stiff is None else jnp.where(self.stiff, -1, zero))

    def slope(self, carry: Gear) -> PyTree:
        """Return the first stage."""
        return carry.k

    def step(self, problem: Any, t: Array, dt: Array, y: PyTree, carry: Gear) -> Step:
        """Take one step, explicit or implicit."""
        stiff, moving = carry.streak < 0, dt != 0

        def explicit() -> tuple[Step, Array]:
            return self.explicit.judged(problem, t, dt, y, carry.k)

        def implicit() -> tuple[Step, Array]:
            new, rate = self.implicit.judged(problem, t, dt, y, carry.k)
            return new._replace(carry=problem(t + dt, new.y)), rate

        def rest() -> tuple[Step, Array]:  # what a step of no length does: a lane that has ended may wait on this side
            rate = jnp.zeros(jnp.shape(dt), common_real(y))
            return Step(y, jax.tree.map(jnp.zeros_like, y), carry.k), rate

        plain, plain_rate = lax.cond(jnp.any(moving & ~stiff), explicit, rest)
        hard, hard_rate = lax.cond(jnp.any(moving & stiff), implicit, rest)
        new = select(stiff, hard, plain)
        fast = jnp.abs(dt) * jnp.where(stiff, hard_rate, plain_rate) > 0.9 * self.stable
        return new._replace(carry=Gear(new.carry, self._count(carry.streak, fast)))

    def _count(self, streak: Array, fast: Array) -> Array:
        up = jnp.where(fast, streak + 1, 0)
        down = jnp.where(fast, -1, streak - 1)
        up = jnp.where(up >= self.patience, -1, up)
        return jnp.where(streak < 0, jnp.where(down < -self.back, 0, down), up)

    def dense(self, problem: Any, t: Array, dt: Array, y: PyTree, theta: Array) -> PyTree:
        """Interpolate by the method that took the step."""
        plain = self.explicit.dense(problem, t, dt, y, theta)
        if self.stiff is None:
            return plain
        return select(self.stiff, self.implicit.dense(problem, t, dt, y, theta), plain)
