"""Stochastic interpolants: paths between any two distributions, and what drives a particle along them."""
# ruff: noqa: D102 - the methods of a schedule are documented once, on Schedule

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odekit.schedules.base import Schedule, namespace

Field = Callable[[Any, Any, Any], Any]


def _slope(fn: Callable[[Any], Any], t: Any) -> Any:
    """The derivative of `fn` to rounding: by forward mode for JAX, by a complex step for NumPy."""
    if isinstance(t, jax.Array):
        return jax.jvp(fn, (t,), (jnp.ones_like(t),))[1]
    return np.imag(fn(np.asarray(t, np.float64) + 1e-30j)) * 1e30


class Interpolant(eqx.Module):
    """`x_t = alpha(t) x_0 + beta(t) x_1 + sqrt(gamma2(t)) z`, t from 0 (x_0, base) to 1 (x_1, data), z unit normals.

    Give gamma squared: unlike gamma it is smooth at the ends, and only its slope is needed there. `linear`,
    `trigonometric` and `enc_dec` are the usual ones.

    Args:
        alpha: `alpha(t)`, 1 at 0 and 0 at 1; takes NumPy and JAX arrays, so it is made of operators and
            `schedules.namespace(t)`.
        beta: `beta(t)`, 0 at 0 and 1 at 1.
        gamma2: `gamma2(t)`, 0 at both ends; None for none.

    Example:
        >>> float(Interpolant.linear().at(jnp.array(0.25), 0.0, 8.0, 0.0))
        2.0

    Source: Albergo, Boffi & Vanden-Eijnden, 2023 (arXiv 2303.08797).
    """

    alpha: Callable[[Any], Any]
    beta: Callable[[Any], Any]
    gamma2: Callable[[Any], Any] | None = None

    @classmethod
    def linear(cls, c: float = 0.0) -> "Interpolant":
        """Return `1 - t`, `t`, and `gamma2 = c t (1 - t)`; c=2 is a Brownian bridge of variance 2."""
        return cls(lambda t: 1 - t, lambda t: t, (lambda t: c * t * (1 - t)) if c else None)

    @classmethod
    def trigonometric(cls, c: float = 0.0) -> "Interpolant":
        """Return the cosine and sine of a quarter turn, and `gamma2 = c t (1 - t)`."""
        return cls(
            lambda t: namespace(t).sin(np.pi / 2 * (1 - t)),
            lambda t: namespace(t).sin(np.pi / 2 * t),
            (lambda t: c * t * (1 - t)) if c else None,
        )

    @classmethod
    def enc_dec(cls) -> "Interpolant":
        """Return the path that is pure noise half way: `cos(pi t)**2` before and after, `gamma = sin(pi t)**2`."""

        def half(t, first):
            xp = namespace(t)
            return xp.where((t < 0.5) == first, xp.cos(np.pi * t) ** 2, xp.zeros_like(t))

        return cls(lambda t: half(t, True), lambda t: half(t, False), lambda t: namespace(t).sin(np.pi * t) ** 4)

    def at(self, t: Any, x0: Any, x1: Any, z: Any = 0.0) -> Any:
        """Return the point of a path at time `t`, for training: the network regresses on `alpha' x0 + beta' x1` and z.

        Args:
            t: () or of a shape that broadcasts with the states.
            x0: base samples.
            x1: data samples.
            z: unit normals like them; not needed without gamma.
        """
        x = self.alpha(t) * x0 + self.beta(t) * x1
        return x if self.gamma2 is None else x + namespace(t).sqrt(self.gamma2(t)) * z

    def velocity(self, t: Any, x0: Any, x1: Any) -> Any:
        """Return `alpha' x0 + beta' x1`, whose mean given `x_t` is the velocity that `drift` wants."""
        return _slope(self.alpha, t) * x0 + _slope(self.beta, t) * x1

    def score(self, t: Any, noise: Any) -> Any:
        """Return the score from the predicted noise, the mean of z given `x_t`: `-noise / gamma`."""
        if self.gamma2 is None:
            raise ValueError("`gamma2` is None, so the noise says nothing of the score; use `one_sided`.")
        return -noise / namespace(t).sqrt(self.gamma2(t))

    def drift(
        self, velocity: Field, score: Field | None = None, epsilon: Callable[[Any], Any] | float = 0.0
    ) -> Callable[[Any, Any, Any], Any]:
        """Return `f(t, x, args) = velocity - gamma gamma' score + epsilon score`, for `solve` or the drift of an SDE.

        With epsilon 0 it is the ODE from base to data, or back. `SDE(drift, lambda t, x, args: sqrt(2 epsilon))` runs
        forward with the same marginals, and backward in time with -epsilon here.

        Args:
            velocity: `velocity(t, x, args)`, the mean of `alpha' x0 + beta' x1` given x.
            score: `score(t, x, args)`; may be None where nothing multiplies it.
            epsilon: amount of noise, a number or a function of time.

        Raises:
            ValueError: the score is needed, and None.
        """
        if score is None:
            if self.gamma2 is not None or callable(epsilon) or epsilon != 0:
                raise ValueError("`score` is None, but gamma or epsilon is not zero; give the score.")
            return velocity

        def field(t: Any, x: Any, args: Any) -> Any:
            weight = epsilon(t) if callable(epsilon) else epsilon
            if self.gamma2 is not None:
                weight = weight - 0.5 * _slope(self.gamma2, jnp.asarray(t))
            return velocity(t, x, args) + weight * score(t, x, args)

        return field

    def one_sided(self) -> "OneSided":
        """Return the schedule for a Gaussian base: sigma is alpha here, alpha is beta, time still runs from 0 to 1."""
        return OneSided(interpolant=self)


class OneSided(Schedule):
    """An interpolant whose base is Gaussian, as a schedule; `Interpolant.one_sided` makes it.

    Args:
        interpolant: without gamma.
        t_start: start of a grid, pure noise at 0.
        t_end: end of a grid, data at 1.

    Raises:
        ValueError: the interpolant has a gamma.

    Example:
        >>> float(Interpolant.linear().one_sided().lam(jnp.array(0.5)))
        0.0

    Source: Albergo, Boffi & Vanden-Eijnden, 2023, section 4 (arXiv 2303.08797).
    """

    interpolant: Interpolant
    t_start: float = 0.0
    t_end: float = 1.0

    def __check_init__(self):
        if self.interpolant.gamma2 is not None:
            raise ValueError("`interpolant` has a gamma; a schedule has one source of noise, its base.")

    def alpha(self, t: Any) -> Any:
        return self.interpolant.beta(t)

    def sigma(self, t: Any) -> Any:
        return self.interpolant.alpha(t)

    def alpha_dot(self, t: Any) -> Any:
        return _slope(self.interpolant.beta, t)

    def sigma_dot(self, t: Any) -> Any:
        return _slope(self.interpolant.alpha, t)

    def lam(self, t: Any) -> Any:
        xp = namespace(t)
        with np.errstate(divide="ignore"):
            return xp.log(self.alpha(t)) - xp.log(self.sigma(t))

    def t_of_lam(self, lam: Any) -> Any:
        xp = namespace(lam)

        def halve(_: Any, bracket: tuple) -> tuple:
            low, high = bracket
            middle = 0.5 * (low + high)
            up = self.lam(middle) < lam
            return xp.where(up, middle, low), xp.where(up, high, middle)

        # bisection: nothing is known of the curve but that it rises
        bracket = xp.zeros_like(lam), xp.ones_like(lam)
        if xp is np:
            for _ in range(60):
                bracket = halve(_, bracket)
        else:
            bracket = jax.tree.map(lax.stop_gradient, lax.fori_loop(0, 60, halve, bracket))
        # one Newton step carries the derivative
        inner = xp.isfinite(lam)
        t = xp.where(inner, 0.5 * (bracket[0] + bracket[1]), 0.5)
        t = t + (xp.where(inner, lam, 0.0) - xp.where(inner, self.lam(t), 0.0)) / self.lam_dot(t)
        return xp.where(inner, t, 0.5 + 0.5 * xp.sign(lam))
