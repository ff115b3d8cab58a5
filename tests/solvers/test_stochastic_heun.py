"""The improved Euler scheme on a path: its strong order, its steps, its gradient, what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import odekit as ok
from odekit.loops.brownian import Driven

PROBLEM = ok.SDE(lambda t, y, p: -p * y + jnp.sin(3 * t), lambda t, y, p: (1 + t) * 0.6 * jnp.ones_like(y), "additive")
KEYS = jax.random.split(jax.random.key(1), 128)
METHOD, P, Y0 = ok.StochasticHeun(), 0.8, jnp.ones(2)


@jax.jit
def by_hand(n, p):
    """Ends and their derivatives by p after n even steps, by the method's own step on the paths of KEYS."""

    def one(key):
        path = Driven.of(PROBLEM, key, jnp.array(0.0), jnp.array(1.0))
        dt = 1 / n.astype(float)

        def run(p):
            problem = lambda t, y: path(t, y, p)  # noqa: E731

            def step(k, state):
                new = METHOD.step(problem, k * dt, dt, *state)
                return new.y, new.carry

            return lax.fori_loop(0, n, step, (Y0, METHOD.init(problem, jnp.array(0.0), Y0)))[0]

        return jax.jvp(run, (p,), (jnp.ones_like(p),))

    return jax.vmap(one)(KEYS)


@jax.jit
def adaptive(atol, keys):
    return jax.vmap(lambda key: ok.solve(PROBLEM, Y0, 0.0, 1.0, METHOD, P, key=key, rtol=0.0, atol=atol))(keys)


@functools.cache
def fine():
    return by_hand(jnp.array(1024), P)


def error(y):
    return float(jnp.sqrt(jnp.mean((y - fine()[0]) ** 2)))


def test_strong_order_one():
    counts = np.array([4, 8, 16, 32, 64])
    errors = [error(by_hand(jnp.array(n), P)[0]) for n in counts]
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] > 1 - 0.1


def test_adaptive_steps_converge_to_the_same_path_as_even_ones():
    loose, tight = adaptive(3e-2, KEYS), adaptive(1e-3, KEYS)
    assert error(tight.y1) < 0.3 * error(loose.y1) < 0.3 * 0.06
    assert len(set(np.asarray(tight.stats["accepted"]).tolist())) > 5
    backwards = adaptive(1e-3, KEYS[::-1])  # a lane does not see the others
    np.testing.assert_allclose(backwards.y1[::-1], tight.y1, rtol=1e-12)


def test_gradient_is_that_of_the_path():
    def total(p):  # by default this method
        return jnp.sum(ok.solve(PROBLEM, Y0, 0.0, 1.0, args=p, key=KEYS[0], rtol=0.0, atol=3e-3).y1)

    np.testing.assert_allclose(jax.grad(total)(P), jnp.sum(fine()[1][0]), rtol=1e-2)


def test_what_it_cannot_do_is_said():
    multiplicative = ok.SDE(lambda t, y, args: y, lambda t, y, args: y)
    with pytest.raises(TypeError, match="`method` StochasticHeun is for `noise` 'additive'; for 'diagonal'"):
        ok.solve(multiplicative, 1.0, 0.0, 1.0, METHOD, key=KEYS[0])
    with pytest.raises(ValueError, match="the drift's result has shape"):
        ok.solve(ok.SDE(lambda t, y, args: 0.0 * y[0], PROBLEM.diffusion, "additive"), Y0, 0.0, 1.0, key=KEYS[0])
    with pytest.raises(ValueError, match="`key` was None"):
        ok.solve(PROBLEM, Y0, 0.0, 1.0, args=1.0)
