"""The loop as one native function: same bits as XLA's kernels, refused where it must be, safe with unused inputs."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok
from odekit.loops import engine, kernel
from odekit.loops.kernel import MARK, one_kernel, refusal

Y0 = jnp.array([[1.0, 0.0, 0.0]]) + 1e-2 * jax.random.normal(jax.random.key(0), (96, 3))


def lorenz(t, y, args):
    return jnp.stack([10.0 * (y[1] - y[0]), y[0] * (28.0 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])


def lotka_volterra(t, y, p):
    return jnp.stack([p[0] * y[0] - p[1] * y[0] * y[1], -p[2] * y[1] + p[3] * y[0] * y[1]])


def loss(p):
    y0 = 1.0 + 0.1 * jax.random.uniform(jax.random.key(1), (96, 2))
    return jnp.sum(jax.vmap(lambda y: ok.solve(lotka_volterra, y, 0.0, 5.0, args=p, max_steps=256).y1)(y0))


def both(monkeypatch, fn, *args):
    """Return what `fn` gives with one function and with XLA's kernels, in blocks of the same width."""
    native = jax.jit(lambda *x: fn(*x))
    assert MARK in native.lower(*args).as_text()
    first = native(*args)
    jax.clear_caches()  # traces of the loop are kept by its inputs, which stay what they are
    monkeypatch.setattr(kernel, "refusal", lambda jaxpr: "a test")
    plain = jax.jit(lambda *x: fn(*x))
    assert MARK not in plain.lower(*args).as_text()
    second = plain(*args)
    monkeypatch.undo()
    jax.clear_caches()
    return first, second


def test_an_ensemble_has_the_bits_of_the_plain_loop(monkeypatch):
    def ends(y0):
        solve = jax.vmap(lambda y: ok.solve(lorenz, y, 0.0, 2.0, ok.Dopri5(), rtol=1e-8, atol=1e-8))
        return [solve(y0).y1, solve(y0).stats["accepted"]]

    native, plain = both(monkeypatch, ends, Y0)
    np.testing.assert_array_equal(native[0], plain[0])
    np.testing.assert_array_equal(native[1], plain[1])


def test_a_gradient_agrees_with_the_plain_loop(monkeypatch):
    native, plain = both(monkeypatch, jax.grad(loss), jnp.array([1.5, 1.0, 3.0, 1.0]))
    np.testing.assert_allclose(native, plain, rtol=1e-13)


def test_refill_changes_no_bit(monkeypatch):
    stiffness = jnp.exp(jax.random.uniform(jax.random.key(0), (700,), maxval=3.0))

    def end(mu):
        field = lambda t, y, mu: jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])  # noqa: E731
        sol = ok.solve(field, jnp.array([2.0, 0.0]), 0.0, 5.0, args=mu, rtol=1e-6, atol=1e-6)
        return sol.y1, sol.stats["accepted"]

    filled = jax.jit(jax.vmap(end))(stiffness)
    monkeypatch.setattr(engine, "BLOCKS", 1 << 30)
    jax.clear_caches()
    blocks = jax.jit(jax.vmap(lambda mu: end(mu)))(stiffness)
    monkeypatch.undo()
    jax.clear_caches()
    np.testing.assert_array_equal(filled[0], blocks[0])
    np.testing.assert_array_equal(filled[1], blocks[1])


def test_the_mark_reaches_the_compiled_program():
    """Where this fails a new XLA inlines the call: results stay right, the loop is some times slower."""
    text = jax.jit(lambda y: ok.solve(lorenz, y, 0.0, 1.0).y1).lower(Y0[0]).compile().as_text()
    name = re.search(rf"to_apply=%([\w.\-]+), frontend_attributes={{[^}}]*{MARK}", text)
    assert name is not None
    body = text.split(f"%{name.group(1)} (")[1].split("\n}\n")[0]
    assert " while(" in body


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda x: jnp.sin(x) / (1 + x**2), None),
        (lambda x: x @ x, "the operation dot_general"),
        (jnp.sort, "the operation sort"),
        (lambda x: x.at[jnp.array([0, 1])].add(1.0), "the operation scatter-add"),
        (lambda x: jax.lax.cond(x[0, 0] > 0, lambda: jnp.linalg.inv(x), lambda: x), "the operation"),
        (lambda x: jnp.sum(jnp.broadcast_to(x, (90, 8, 8))), "a sum over an array of 5760 elements"),
    ],
)
def test_refused_operations_are_named(fn, words):
    found = refusal(jax.make_jaxpr(fn)(jnp.ones((8, 8))).jaxpr)
    assert found is None if words is None else found.startswith(words)


HAZARDS = """
import jax, jax.numpy as jnp
from odekit.loops.kernel import one_kernel
unused = jnp.arange(3.0)
def go(n, x, key, empty):
    return jax.lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, jnp.sin(c[1])), (n, x))
ones = lambda: one_kernel(go, jnp.int32(0), jnp.ones(3), unused, jnp.zeros((0, 2)))
print(jax.jit(ones)()[1])
print(jax.jit(lambda x, u: one_kernel(go, jnp.int32(0), x, u, jnp.zeros((0, 2))))(jnp.ones(3), unused)[1])
print(jax.jit(jax.vmap(lambda x: one_kernel(go, jnp.int32(0), x, unused, x[:0])[1]))(jnp.ones((2, 3)))[0])
"""
SECOND = """
import jax, jax.numpy as jnp
import odekit as ok
decay = lambda p: ok.solve(lambda t, y, p: -p * y, 1.0, 0.0, 1.0, args=p, rtol=1e-6, atol=1e-6).y1
saved = lambda p: ok.solve(lambda t, y, p: -p * y, 1.0, 0.0, 1.0, args=p, saveat=[0.5, 1.0], rtol=1e-6, atol=1e-6).ys[1]
for second in (jax.hessian(decay)(1.3), jax.vmap(jax.hessian(decay))(jnp.array([1.3]))[0], jax.hessian(saved)(1.3)):
    print(round(float(second), 3))
"""


def test_inputs_that_are_constant_unused_or_empty_do_not_stop_the_process():
    done = subprocess.run([sys.executable, "-c", HAZARDS], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert len(set(done.stdout.splitlines())) == 1


def test_second_derivatives_go_through_the_plain_loop():
    """A derivative of one function would have inputs without a use, which stops the process: so in one of its own."""
    done = subprocess.run([sys.executable, "-c", SECOND], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.split() == ["0.273"] * 3


def test_what_is_refused_runs_all_the_same():
    x = jnp.eye(3) * 2.0
    np.testing.assert_array_equal(one_kernel(lambda x: x @ x, x), x @ x)
