"""A model's paths in continuous time, as problems for `solve`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from odekit.problem import ODE, SDE
from odekit.schedules import Schedule
from odekit.tracing import Static, split
from odekit.trees import real_dtype, scale
from odekit.typing import PyTree, Scalar


class Held(eqx.Module):
    """A model whose arrays are leaves and whose numbers, those of its schedule say, stay numbers of the program."""

    arrays: list[Any]
    rest: Static = eqx.field(static=True)

    @classmethod
    def of(cls, model: Any) -> "Held":
        """Hold a model."""
        return cls(*split(model, numbers=False))

    def __call__(self) -> Any:
        """Return the model."""
        return self.rest.join(self.arrays)


class Alone(eqx.Module):
    """A model of batches, asked for one sample without a batch axis."""

    model: Any

    @property
    def schedule(self) -> Schedule:
        """The model's schedule."""
        return self.model.schedule

    def velocity(self, x: PyTree, t: Array, cond: Any) -> PyTree:
        """Return the velocity of one sample."""
        x, cond = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (x, cond))
        return jax.tree.map(lambda leaf: leaf[0], self.model.velocity(x, t, cond))


def keys_of(key: Array, x: PyTree) -> Array:
    """Return a key for each sample: the ones given, or those that one key splits into."""
    alone = key.ndim == (0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else 1)
    return jax.random.split(key, jax.tree.leaves(x)[0].shape[0]) if alone else key


class Velocity(eqx.Module):
    """The velocity of a model as a vector field; `args` is what the network is conditioned on."""

    held: Held

    def __call__(self, t: Array, x: PyTree, args: Any) -> PyTree:
        """Return `dx/dt` of the probability flow."""
        return self.held().velocity(x, t, args)


class VelocityInLam(eqx.Module):
    """The velocity of a model per unit of lam."""

    held: Held

    def __call__(self, lam: Array, x: PyTree, args: Any) -> PyTree:
        """Return `dx/dlam` of the probability flow."""
        model = self.held()
        t = model.schedule.t_of_lam(lam)
        return scale(1 / model.schedule.lam_dot(t), model.velocity(x, t, args))


class ReverseDrift(eqx.Module):
    """`(1 + eta**2) velocity - eta**2 (alpha_dot / alpha) x`: the score never appears, nor a second evaluation."""

    held: Held
    eta: Array

    def __call__(self, t: Array, x: PyTree, args: Any) -> PyTree:
        """Return the drift at `(t, x)`."""
        model = self.held()
        rate = model.schedule.alpha_dot(t) / model.schedule.alpha(t)

        def leaf(x: Array, u: Array) -> Array:
            more = jnp.asarray(self.eta**2, t.dtype)
            return (1 + more).astype(real_dtype(x.dtype)) * u - (more * rate).astype(real_dtype(x.dtype)) * x

        return jax.tree.map(leaf, x, model.velocity(x, t, args))


class ReverseDiffusion(eqx.Module):
    """`eta g(t)`, `g**2 = 2 sigma (sigma_dot - sigma alpha_dot / alpha)`, the same for every entry."""

    held: Held
    eta: Array

    def __call__(self, t: Array, x: PyTree, args: Any) -> PyTree:
        """Return the diffusion at time `t`, shaped like `x`."""
        size = jnp.asarray(self.eta, t.dtype) * diffusion(self.held().schedule, t)
        return jax.tree.map(lambda x: jnp.full(x.shape, size.astype(real_dtype(x.dtype)), x.dtype), x)


def diffusion(schedule: Schedule, t: Any) -> Any:
    """Return the diffusion g(t) of the process whose marginals the schedule gives, in either direction of its time."""
    return jnp.sqrt(jnp.abs(schedule.squared_diffusion(t)))


def probability_flow(model: Any, variable: str = "time") -> ODE:
    """Return the ODE whose solutions have the marginal laws of a model's noising process.

    Integrate it from the time of noise to that of data to sample (t falls for most schedules, and rises where data is
    at t=1), the other way to encode. It is as regular as the model's velocity: a network that predicts the velocity has
    one at both ends; a prediction of noise leaves it undefined where alpha is 0, one of data or score where sigma is 0.
    One evaluation of the network each. A batch is one state with one step size; `jax.vmap` over `solve` gives each
    sample its own.

    Args:
        model: a `Denoiser`, or any object with a method `velocity(x, t, cond)`, and for "lam" a `schedule`.
        variable: what the ODE runs in: "time", or "lam", half the log signal-to-noise ratio, in which the flow of a
            diffusion model is evenly hard; both ends must then be finite.

    Returns:
        The problem; `args` of `solve` is the condition.

    Raises:
        TypeError: the model has no velocity or, where it is needed, no schedule.
        ValueError: there is no such variable.

    Example:
        >>> import odekit as ok
        >>> model = ok.samplers.gaussian([2.0], 0.1, ok.schedules.FlowMatching())
        >>> round(float(ok.solve(probability_flow(model), jnp.zeros(1), 1.0, 0.0).y1[0]), 3)
        2.0

    Source: Song et al., ICLR 2021, eq. 13 (arXiv 2011.13456).
    """
    _require("velocity", model)
    if variable not in ("time", "lam"):
        raise ValueError(f"`variable` is {variable!r}; it must be 'time' or 'lam'.")
    if variable == "time":
        return ODE(Velocity(Held.of(model)))
    _require("schedule", model)
    return ODE(VelocityInLam(Held.of(model)))


def reverse_sde(model: Any, eta: Scalar = 1.0) -> SDE:
    """Return the SDE that undoes a model's noising process, with `eta` times its noise.

    `dx = [f x - (1 + eta**2) g**2 score / 2] dt + eta g dw`: any eta has the marginal laws of the process, 0 is the
    probability flow, 1 the reversed diffusion. Noise forgives errors of the network. It runs from noise to data only.
    Undefined where alpha is 0: start a flow that is pure noise at 1 at 0.999. One evaluation of the network each.

    Args:
        model: a `Denoiser`, or any object with a method `velocity(x, t, cond)` and a `schedule`.
        eta: amount of noise, 0 or more.

    Returns:
        The problem, its noise additive; `args` of `solve` is the condition.

    Raises:
        TypeError: the model has no velocity or no schedule.
        ValueError: eta is negative.

    Example:
        >>> import odekit as ok
        >>> model = ok.samplers.gaussian([2.0], 0.1, ok.schedules.VPLinear())
        >>> reverse_sde(model).noise
        'additive'

    Source: Anderson, Stoch. Process. Appl. 12 (1982), 313-326; Song et al., ICLR 2021, eq. 6 (arXiv 2011.13456).
    """
    _require("velocity", model)
    _require("schedule", model)
    if isinstance(eta, float | int) and eta < 0:
        raise ValueError(f"`eta` is {eta}; it must be 0 or more.")
    held, eta = Held.of(model), jnp.asarray(eta, float)
    return SDE(ReverseDrift(held, eta), ReverseDiffusion(held, eta), noise="additive")


def _require(name: str, model: Any) -> None:
    if getattr(model, name, None) is None:
        kind = type(model).__name__
        raise TypeError(f"`model` is a {kind} without `{name}`; wrap the network in a `Denoiser`.")
