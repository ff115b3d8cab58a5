"""Neural ordinary differential equations."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from odekit.solve import solve
from odekit.solvers.base import Method
from odekit.solvers.tableaus import Tsit5


def _field(t: Array, y: Array, net: Callable[[Array], Array]) -> Array:
    return net(y)


class NeuralODE(eqx.Module):
    """A network as vector field, `y' = net(y)`, and its solution at given times.

    One series per call; `jax.vmap` over series runs them as lanes of one loop, each with its own times if need be.

    Args:
        net: `net(y) -> dy` on vectors of length d + augment, such as `eqx.nn.MLP`.
        augment: zeros appended to the state. A flow in d dimensions keeps its topology; in more it need not.
        method: any method of odekit.
        rtol: relative tolerance. A score that moves when it is lowered means that solver error was fitted.
        atol: absolute tolerance.

    Example:
        >>> import jax.numpy as jnp, odekit as ok
        >>> ok.neural.NeuralODE(lambda y: -y)(jnp.ones(1), jnp.array([0.0, 1.0])).shape
        (2, 1)

    Source: Chen et al., NeurIPS 2018 (arXiv 1806.07366); augmentation: Dupont et al., NeurIPS 2019 (arXiv 1904.01681).
    """

    net: Callable[[Array], Array]
    augment: int = eqx.field(static=True, default=0)
    method: Method = eqx.field(default_factory=Tsit5)
    rtol: float = eqx.field(static=True, default=1e-4)
    atol: float = eqx.field(static=True, default=1e-5)
    adjoint: Any = eqx.field(static=True, default=None)

    def __call__(self, y0: Array, ts: Array) -> Array:
        """Return the states (K, d) at the increasing times `ts` (K,), the first of which is the start `y0` (d,)."""
        lifted = jnp.concatenate([y0, jnp.zeros(self.augment, y0.dtype)])
        sol = solve(
            _field, lifted, ts[0], ts[-1], self.method, self.net, rtol=self.rtol, atol=self.atol, saveat=ts,
            adjoint=self.adjoint, throw=False,
        )  # fmt: skip
        return sol.ys[:, : y0.shape[0]]
