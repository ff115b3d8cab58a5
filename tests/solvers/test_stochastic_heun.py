"""The improved Euler scheme on a path: its strong order, its steps, its gradient, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok

PROBLEM = ok.SDE(lambda t, y, p: -p * y + jnp.sin(3 * t), lambda t, y, p: (1 + t) * 0.6 * jnp.ones_like(y), "additive")
KEYS = jax.random.split(jax.random.key(1), 256)


def ends(p=0.8, **options):
    def one(key):
        return ok.solve(PROBLEM, jnp.ones(2), 0.0, 1.0, ok.StochasticHeun(), p, key=key, **options)

    return jax.vmap(one)(KEYS)


def test_strong_order_one_on_the_same_path():
    counts, fine = np.array([4, 8, 16, 32, 64]), ends(n_steps=1024).y1
    errors = [float(jnp.sqrt(jnp.mean((ends(n_steps=int(n)).y1 - fine) ** 2))) for n in counts]
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] > 1 - 0.1
    loose, tight = (ends(rtol=0.0, atol=atol) for atol in (3e-2, 3e-3))
    off = [float(jnp.sqrt(jnp.mean((sol.y1 - fine) ** 2))) for sol in (loose, tight)]
    assert off[1] < 0.3 * off[0] < 0.3 * 3e-2  # adaptive steps converge to the same path
    assert np.mean(tight.stats["accepted"]) > 3 * np.mean(loose.stats["accepted"])


def test_lanes_choose_their_own_steps_and_do_not_depend_on_each_other():
    together = ends(rtol=0.0, atol=1e-2)
    assert len(set(np.asarray(together.stats["accepted"]).tolist())) > 3
    alone = ok.solve(PROBLEM, jnp.ones(2), 0.0, 1.0, args=0.8, key=KEYS[3], rtol=0.0, atol=1e-2)  # by default this method
    np.testing.assert_allclose(alone.y1, together.y1[3], rtol=1e-12)
    assert alone.method == "StochasticHeun"


def test_gradient_is_that_of_the_path():
    # dy = (-p y + sin 3t) dt + ... : the derivative by p obeys v' = -p v - y on the same path
    def total(p):
        return jnp.sum(ok.solve(PROBLEM, jnp.ones(2), 0.0, 1.0, args=p, key=KEYS[0], rtol=0.0, atol=3e-3).y1)

    def fine(p):
        return jnp.sum(ok.solve(PROBLEM, jnp.ones(2), 0.0, 1.0, ok.StochasticHeun(), p, key=KEYS[0], n_steps=1024).y1)

    np.testing.assert_allclose(jax.grad(total)(0.8), (fine(0.8 + 1e-4) - fine(0.8 - 1e-4)) / 2e-4, rtol=1e-2)


def test_what_it_cannot_do_is_said():
    multiplicative = ok.SDE(lambda t, y, args: y, lambda t, y, args: y)
    with pytest.raises(TypeError, match="`method` StochasticHeun is for `noise` 'additive'; for 'diagonal'"):
        ok.solve(multiplicative, 1.0, 0.0, 1.0, ok.StochasticHeun(), key=jax.random.key(0))
    with pytest.raises(ValueError, match="the drift's result has shape"):
        ok.solve(ok.SDE(lambda t, y, args: 0.0 * y[0], PROBLEM.diffusion, "additive"), jnp.ones(2), 0, 1, key=KEYS[0])
    with pytest.raises(ValueError, match="`key` was None"):
        ok.solve(PROBLEM, jnp.ones(2), 0.0, 1.0, args=1.0)
