"""Euler-Maruyama: its order on paths whose exact solution is known, its law, and where its noise comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

import odekit as ok
from odekit.loops.brownian import increments

PATHS = 4096
RATE, NOISE = 0.8, 0.6


def path_sums(keys, n, y):
    """The Brownian path at t=1 that `n` equal steps see, from the same counter-based increments."""

    def path(key):
        return jax.vmap(lambda k: increments(key)(k, jnp.array(1 / n), y))(jnp.arange(n, dtype=jnp.uint32))

    return jax.vmap(path)(keys)


def geometric(keys, n):
    problem = ok.SDE(lambda t, y, args: RATE * y, lambda t, y, args: NOISE * y)
    return jax.vmap(lambda key: ok.solve(problem, 1.0, 0.0, 1.0, key=key, n_steps=n).y1)(keys)


def slope(errors, counts):
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


@pytest.mark.slow
def test_strong_order_one_half_on_multiplicative_noise():
    counts, errors = np.array([8, 16, 32, 64, 128]), []
    keys = jax.random.split(jax.random.key(1), PATHS)
    for n in counts:
        w = path_sums(keys, int(n), jnp.array(1.0)).sum(axis=1)
        exact = jnp.exp((RATE - NOISE**2 / 2) + NOISE * w)
        errors.append(float(jnp.sqrt(jnp.mean((geometric(keys, int(n)) - exact) ** 2))))
    assert slope(errors, counts) > 0.5 - 0.1


def test_strong_order_one_on_additive_noise():
    # dy = -y dt + s dW has y(1) = e^-1 y0 + s int e^(t-1) dW; the finest grid's own path stands for the integral.
    fine, counts, errors = 1024, np.array([4, 8, 16, 32, 64]), []
    keys = jax.random.split(jax.random.key(2), PATHS)
    dw = path_sums(keys, fine, jnp.array(1.0))
    exact = np.exp(-1) + NOISE * (dw @ jnp.exp((jnp.arange(float(fine)) + 0.5) / fine - 1))
    problem = ok.SDE(lambda t, y, args: -y, lambda t, y, args: NOISE * jnp.ones_like(y), noise="additive")
    method = ok.EulerMaruyama()
    for n in counts:
        # The same path, coarser: sums of its increments handed to the method's own step.
        coarse = dw.reshape(PATHS, int(n), -1).sum(axis=2)

        class Given:
            def __init__(self, row):
                self.noise = lambda k, dt, y: row[k]

            def __call__(self, t, y):
                return problem(t, y)

            def combine(self, y, dt, row, ks):
                return y + dt * row[0] * ks[0]

            def diffusion(self, t, y):
                return problem.diffusion(t, y, None)

        def run(row, n=int(n)):
            bound, y = Given(row), jnp.array(1.0)
            carry = method.init(bound, jnp.array(0.0), y)
            for k in range(n):
                new = method.step(bound, jnp.array(k / n), jnp.array(1 / n), y, carry)
                y, carry = new.y, new.carry
            return y

        errors.append(float(jnp.sqrt(jnp.mean((jax.jit(jax.vmap(run))(coarse) - exact) ** 2))))
    assert slope(errors, counts) > 1 - 0.1


def test_mean_is_that_of_the_scheme():
    # E[y_n] = (1 + rate h)^n exactly: the average over paths lies within four of its standard errors.
    n, keys = 16, jax.random.split(jax.random.key(3), 1 << 16)
    ends = np.asarray(geometric(keys, n))
    assert abs(ends.mean() - (1 + RATE / n) ** n) < 4 * ends.std() / np.sqrt(ends.size)


def test_increments_are_normal_independent_and_fixed_by_key_and_index():
    draw = jax.vmap(lambda k: increments(jax.random.key(4))(k, jnp.array(0.25), jnp.zeros(64)))
    z = np.asarray(draw(jnp.arange(2048, dtype=jnp.uint32))) / 0.5
    assert kstest(z.ravel(), "norm").pvalue > 1e-5
    assert abs(np.mean(z[1:] * z[:-1])) < 5 / np.sqrt(z.size)
    assert abs(np.mean(z[:, 1:] * z[:, :-1])) < 5 / np.sqrt(z.size)
    np.testing.assert_array_equal(z, np.asarray(draw(jnp.arange(2048, dtype=jnp.uint32))) / 0.5)


def test_a_path_does_not_depend_on_its_batch():
    keys = jax.random.split(jax.random.key(5), 7)
    alone = jnp.stack([geometric(keys[i : i + 1], 32)[0] for i in range(7)])
    # The increments are the same to the bit; the sums may be fused otherwise.
    np.testing.assert_allclose(geometric(keys, 32), alone, rtol=1e-14)
    y = jnp.array(1.0)
    np.testing.assert_array_equal(path_sums(keys, 32, y)[3:4], path_sums(keys[3:4], 32, y))


def test_complex_and_nested_states_keep_their_dtypes():
    y0 = {"a": jnp.zeros(3, jnp.complex64), "b": jnp.ones((), jnp.float32)}
    problem = ok.SDE(lambda t, y, args: y, lambda t, y, args: jax.tree.map(jnp.ones_like, y), noise="additive")
    sol = ok.solve(problem, y0, 0.0, 1.0, key=jax.random.key(6), n_steps=4)
    assert (sol.y1["a"].dtype, sol.y1["b"].dtype) == (jnp.complex64, jnp.float32)
    assert np.all(np.isfinite(sol.y1["a"]))


def test_gradient_is_that_of_the_frozen_path():
    problem = ok.SDE(lambda t, y, p: p[0] * y, lambda t, y, p: p[1] * y)

    def end(p):
        return ok.solve(problem, 1.0, 0.0, 1.0, args=p, key=jax.random.key(7), n_steps=20).y1

    p, h = jnp.array([RATE, NOISE]), 1e-6
    for i, got in enumerate(jax.grad(end)(p)):
        e = jnp.zeros(2).at[i].set(h)
        np.testing.assert_allclose(got, (end(p + e) - end(p - e)) / (2 * h), rtol=1e-7)


def test_what_the_scheme_cannot_do_is_said():
    problem = ok.SDE(lambda t, y, args: y, lambda t, y, args: y)
    with pytest.raises(ValueError, match="`key` was None; an SDE needs a key"):
        ok.solve(problem, 1.0, 0.0, 1.0, n_steps=4)
    with pytest.raises(TypeError, match="`method` Tsit5 knows no noise; for an SDE give EulerMaruyama"):
        ok.solve(problem, 1.0, 0.0, 1.0, ok.Tsit5(), key=jax.random.key(0), n_steps=4)
    with pytest.raises(ValueError, match="`method` EulerMaruyama has no error estimate; give n_steps or dt"):
        ok.solve(problem, 1.0, 0.0, 1.0, key=jax.random.key(0))
    with pytest.raises(TypeError, match="`method` EulerMaruyama needs `problem` to be an SDE"):
        ok.solve(lambda t, y, args: y, 1.0, 0.0, 1.0, ok.EulerMaruyama(), n_steps=4)
    with pytest.raises(TypeError, match="`saveat` asks for times between steps"):
        ok.solve(problem, 1.0, 0.0, 1.0, key=jax.random.key(0), n_steps=4, saveat=jnp.array([0.3]))
    with pytest.raises(ValueError, match="`noise` was 'general'; give 'diagonal' or 'additive'"):
        ok.SDE(lambda t, y, args: y, lambda t, y, args: y, noise="general")
