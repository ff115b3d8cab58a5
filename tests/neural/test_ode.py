"""A network as vector field: exact where the network is linear, differentiable, and one loop under vmap."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import expm

from odekit.learn import fit
from odekit.neural import NeuralODE

MATRIX = np.array([[-0.3, 2.0], [-2.0, -0.1]])
TS = jnp.array([0.0, 0.4, 1.1, 2.0])


class Linear(eqx.Module):
    matrix: jax.Array

    def __call__(self, y):
        return self.matrix @ y


def linear(**options):
    return NeuralODE(Linear(jnp.asarray(MATRIX)), rtol=1e-9, atol=1e-11, **options)


def test_a_linear_network_is_its_exponential():
    y0 = jnp.array([1.0, -0.5])
    want = np.stack([expm(MATRIX * float(t)) @ np.asarray(y0) for t in TS])
    np.testing.assert_allclose(linear()(y0, TS), want, rtol=0, atol=1e-7)


def test_the_gradient_of_a_linear_network_is_the_exponentials():
    y0, step = np.array([1.0, -0.5]), 1e-6
    grad = eqx.filter_grad(lambda model: model(jnp.asarray(y0), TS)[-1].sum())(linear()).net.matrix
    want = np.zeros((2, 2))
    for i, j in np.ndindex(2, 2):
        change = np.zeros((2, 2))
        change[i, j] = step
        want[i, j] = ((expm(2 * (MATRIX + change)) - expm(2 * (MATRIX - change))) @ y0).sum() / (2 * step)
    np.testing.assert_allclose(grad, want, rtol=0, atol=1e-6)


def test_every_series_may_have_its_own_times():
    y0 = jnp.array([[1.0, -0.5], [0.2, 2.0], [0.0, 1.0]])
    ts = jnp.array([[0.0, 0.5, 1.0], [0.0, 0.1, 0.2], [1.0, 2.0, 4.0]])
    together = jax.vmap(linear())(y0, ts)
    for one, y, t in zip(together, y0, ts, strict=True):
        np.testing.assert_allclose(one, linear()(y, t), rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("augment", "reached"), [(0, False), (1, True)])
def test_only_an_augmented_flow_turns_a_line_around(augment, reached):
    """No flow on a line maps x to -x: the best ordered map has mean squared error 1/3. One more dimension suffices."""
    x = jnp.linspace(-1, 1, 16)[:, None]
    net = eqx.nn.MLP(1 + augment, 1 + augment, 16, 1, jnp.tanh, key=jax.random.key(0))
    model = NeuralODE(net, augment=augment, rtol=1e-3, atol=1e-4)

    def loss(model, batch, key):
        ends = jax.vmap(model, in_axes=(0, None))(batch, jnp.array([0.0, 1.0]))[:, -1]
        return jnp.mean((ends + batch) ** 2)

    _, history = fit(loss, model, x, key=jax.random.key(1), steps=200, batch=16, optimizer=optax.adam(3e-2), every=200)
    assert (history.loss[-1] < 0.02) == reached
    assert reached or history.loss.min() > 0.33
