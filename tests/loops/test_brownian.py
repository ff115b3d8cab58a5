"""The path of a key: a function of time, with the law of a Brownian motion wherever it is read."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import kstest

import odekit as ok
from odekit.loops.brownian import Driven

STILL = ok.SDE(
    lambda t, y, args: jax.tree.map(jnp.zeros_like, y), lambda t, y, args: jax.tree.map(jnp.ones_like, y), "additive"
)
N = 4096


@jax.jit
def compiled(ts, t0, t1):
    def one(key):
        path = Driven.of(STILL, key, t0, t1)
        return jax.vmap(lambda t: path(t, jnp.zeros_like(t), None).path)(ts)

    return jax.vmap(one)(jax.random.split(jax.random.key(1), N))


def paths(ts, t0, t1):
    """(N, 4) where the paths of N keys are at four times."""
    return np.asarray(compiled(jnp.array(ts), jnp.array(t0), jnp.array(t1)))


def test_increments_have_the_law_of_brownian_motion():
    ts = np.array([0.3, 0.3000001, 1.0, 2.0])
    z = np.diff(paths(ts, 0.0, 2.0), axis=1, prepend=0.0) / np.sqrt(np.diff(ts, prepend=0.0))
    assert all(kstest(column, "norm").pvalue > 1e-4 for column in z.T)
    np.testing.assert_allclose(z.T @ z / N, np.eye(4), atol=5 / np.sqrt(N))


def test_below_its_finest_interval_a_path_still_spreads_as_one():
    ts = np.array([1e-12, 3e-11, 0.5 + 1e-11, 1.0])
    w = paths(ts, 0.0, 1.0)
    np.testing.assert_allclose(w.std(axis=0), np.sqrt(ts), rtol=0.05)


def test_a_path_runs_from_t0_in_either_direction():
    ts = np.array([2.0, 1.5, 1.0, 0.0])
    w = paths(ts, 2.0, 0.0)
    np.testing.assert_array_equal(w[:, 0], 0.0)
    np.testing.assert_allclose(w.std(axis=0), np.sqrt(2.0 - ts), rtol=0.05)


def test_a_solve_reads_the_path_of_its_key_whatever_its_steps():
    key, y = jax.random.key(2), {"a": jnp.zeros(2), "b": jnp.zeros((), complex)}
    path = Driven.of(STILL, key, jnp.array(0.0), jnp.array(2.0))
    ts = jnp.array([0.4, 1.1, 2.0])
    want = jax.vmap(lambda t: path(t, y, None).path)(ts)
    sol = ok.solve(STILL, y, 0.0, 2.0, ok.StochasticHeun(), key=key, n_steps=5, saveat=ts)
    for name in y:
        assert sol.ys[name].dtype == y[name].dtype
        np.testing.assert_allclose(sol.ys[name], want[name], atol=1e-12)


def test_complex_paths_have_half_the_variance_in_each_part():
    def one(key):
        return Driven.of(STILL, key, jnp.array(0.0), jnp.array(1.0))(jnp.array(1.0), jnp.zeros((), complex), None).path

    w = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), N)))
    np.testing.assert_allclose([w.real.var(), w.imag.var()], 0.5, rtol=0.1)
