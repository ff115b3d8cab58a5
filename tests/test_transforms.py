"""Every transformation of a solve, for every dtype and every shape of a state: closed form, and dtypes kept."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok

DTYPES = ("float32", "float64", "complex128")
STATES = {
    "array": lambda d: jnp.array([1.0, -2.0, 0.5], d),
    "nested": lambda d: {"a": (jnp.array([1.0, 2.0], d), jnp.array(0.5, d)), "b": jnp.ones((2, 1), d)},
    "scalar": lambda d: jnp.array(1.5, d),
    "empty": lambda d: {"none": jnp.zeros((0, 2), d)},
}
RATE = 0.7


def grow(t, y, args):
    return jax.tree.map(lambda x: args.astype(x.dtype) * x, y)


def end(y0, rate, adjoint=None):
    return ok.solve(grow, y0, 0.0, 1.0, args=rate, rtol=2e-6, atol=1e-7, adjoint=adjoint).y1


def energy(y0, rate):
    """The sum of |y|^2 at the end: exp(2 rate) times that at the start."""
    leaves = [jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(end(y0, rate))]
    return sum(leaves[1:], leaves[0])


def scaled(y0, factor):
    return jax.tree.map(lambda x: factor * np.asarray(x), y0)


def lanes(y0):
    return jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x]), y0)


def eager(y0, rate):
    return end(y0, rate), scaled(y0, np.exp(RATE))


def jit(y0, rate):
    return jax.jit(end)(y0, rate), scaled(y0, np.exp(RATE))


def vmap(y0, rate):
    return jax.vmap(end, (0, None))(lanes(y0), rate), scaled(lanes(y0), np.exp(RATE))


def grad(y0, rate):
    # JAX's gradient of |y|^2 is twice the conjugate.
    return jax.grad(energy)(y0, rate), scaled(jax.tree.map(jnp.conj, y0), 2 * np.exp(2 * RATE))


def vmap_of_grad(y0, rate):
    many = lanes(y0)
    return jax.vmap(jax.grad(energy), (0, None))(many, rate), scaled(jax.tree.map(jnp.conj, many), 2 * np.exp(2 * RATE))


def jvp(y0, rate):
    _, tangent = jax.jvp(lambda r: end(y0, r, ok.adjoint.Forward()), (rate,), (jnp.ones_like(rate),))
    return tangent, scaled(y0, np.exp(RATE))


TRANSFORMS = (eager, jit, vmap, grad, vmap_of_grad, jvp)


def case(state, dtype, transform):
    """Derivatives of a nested state compile for long: by default in one dtype."""
    long = state == "nested" and dtype != "float64" and transform in (grad, vmap_of_grad, jvp)
    marks = [pytest.mark.slow] if long else []
    return pytest.param(transform, dtype, state, marks=marks, id=f"{state}-{dtype}-{transform.__name__}")


@pytest.mark.parametrize(
    ("transform", "dtype", "state"), [case(*parts) for parts in itertools.product(STATES, DTYPES, TRANSFORMS)]
)
def test_transforms(transform, dtype, state):
    y0 = STATES[state](dtype)
    if dtype == "complex128":
        y0 = jax.tree.map(lambda x: (1 + 0.5j) * x, y0)
    rate = jnp.asarray(RATE, jnp.float32 if dtype == "float32" else jnp.float64)
    got, want = transform(y0, rate)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=3e-5)
