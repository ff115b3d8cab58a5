"""The path of a key: a function of time, with the law of a Brownian motion wherever it is read."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import kstest

import odekit as ok
from odekit.loops.brownian import Driven

STILL = ok.SDE(lambda t, y, args: 0 * y, lambda t, y, args: jnp.ones_like(y), noise="additive")


def paths(ts, n, t0=0.0, t1=2.0, dtype=float):
    """(n, len(ts)) where the paths of n keys are."""
    t0, t1, ts = (jnp.asarray(x, dtype) for x in (t0, t1, ts))

    def one(key):
        problem = Driven.of(STILL, key, t0, t1)
        return jax.vmap(lambda t: problem(t, jnp.zeros((), dtype), None).path)(ts)

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), n)))


def test_increments_have_the_law_of_brownian_motion():
    ts = np.array([0.0, 0.3, 0.3000001, 1.0, 1.7, 2.0])
    w = paths(ts, 4096)
    np.testing.assert_array_equal(w[:, 0], 0.0)
    z = np.diff(w, axis=1) / np.sqrt(np.diff(ts))
    assert all(kstest(column, "norm").pvalue > 1e-4 for column in z.T)
    np.testing.assert_allclose(z.T @ z / len(z), np.eye(5), atol=5 / np.sqrt(len(z)))


def test_below_its_finest_interval_a_path_is_still_one():
    """The spread of a single reading is right however close the time is to one that is a multiple of 2**-24."""
    w = paths([0.5, 0.5 + 2.0**-27, 0.5 + 2.0**-26], 4096, t1=1.0, dtype=jnp.float32)
    assert np.all(np.isfinite(w))
    w = paths([1e-12, 3e-11], 4096, t1=1.0)
    np.testing.assert_allclose(w.std(axis=0), np.sqrt([1e-12, 3e-11]), rtol=0.05)


def test_a_path_runs_from_t0_in_either_direction():
    w = paths([2.0, 1.0, 0.0], 4096, t0=2.0, t1=0.0)
    np.testing.assert_array_equal(w[:, 0], 0.0)
    np.testing.assert_allclose(w[:, 1:].std(axis=0), np.sqrt([1.0, 2.0]), rtol=0.05)


def test_a_solve_reads_the_path_of_its_key_whatever_its_steps():
    key = jax.random.key(2)
    y = {"a": jnp.zeros(2), "b": jnp.zeros((), complex)}
    problem = ok.SDE(
        lambda t, y, args: jax.tree.map(jnp.zeros_like, y), lambda t, y, args: jax.tree.map(jnp.ones_like, y), "additive"
    )
    there = Driven.of(problem, key, jnp.array(0.0), jnp.array(2.0))
    ts = jnp.array([0.4, 1.1, 2.0])
    sol = ok.solve(problem, y, 0.0, 2.0, key=key, saveat=ts)
    grid = ok.solve(problem, y, 0.0, 2.0, ok.StochasticHeun(), key=key, n_steps=5)
    for got, want in zip(jax.tree.leaves(sol.ys), jax.tree.leaves(jax.vmap(lambda t: there(t, y, None).path)(ts)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)
    for got, want in zip(jax.tree.leaves(grid.y1), jax.tree.leaves(sol.y1), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_complex_paths_have_half_the_variance_in_each_part():
    problem = ok.SDE(STILL.drift, STILL.diffusion, "additive")

    def one(key):
        return Driven.of(problem, key, jnp.array(0.0), jnp.array(1.0))(jnp.array(1.0), jnp.zeros((), complex), None).path

    w = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(3), 4096)))
    np.testing.assert_allclose([w.real.var(), w.imag.var()], 0.5, rtol=0.1)
