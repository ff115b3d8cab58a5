"""`explain` says in words what `solve` then does."""

import jax
import jax.numpy as jnp
import pytest

import odekit as ok
from odekit.loops.kernel import MARK


def line(text, start):
    return next(x for x in text.splitlines() if x.startswith(start))


def pendulum(t, y, args):
    return jnp.stack([y[1], -jnp.sin(y[0])])


def product(t, y, args):
    return args @ y


MATMUL = "XLA's kernels, because the field has the operation dot_general."
CASES = {
    "small": (pendulum, jnp.ones(2), None, None, "one native function for the whole loop."),
    "matmul": (
        product,
        jnp.ones(3),
        None,
        jnp.eye(3),
        "XLA's kernels, because the field has the operation dot_general.",
    ),
    "large": (lambda t, y, args: -y, jnp.ones(200), None, None, "the state has 1600 bytes, more than 1024."),
    "library": (lambda t, y, args: -y, jnp.ones(12), ok.Rodas5P(), None, "because the method has the operation lu."),
    "stiff": (pendulum, jnp.ones(2), ok.Rodas5P(), None, "one native function for the whole loop."),
}


@pytest.mark.parametrize("name", CASES)
def test_the_compiled_form_is_the_one_that_is_told(name):
    field, y0, method, args, said = CASES[name]
    told = line(ok.explain(field, y0, 0.0, 1.0, method, args), "Compiled as:")
    assert told.endswith(said)
    if name in ("small", "matmul"):
        text = jax.jit(lambda y: ok.solve(field, y, 0.0, 1.0, method, args).y1).lower(y0).as_text()
        assert (MARK in text) == ("native" in told)


def test_all_that_is_told():
    told = ok.explain(pendulum, jnp.ones(2), 0.0, 1.0, ok.Dopri5(), rtol=1e-8, atol=1e-9, max_steps=512)
    assert told.splitlines() == [
        "State: 2 numbers of float64, 16 bytes.",
        "Loop: adaptive, at most 512 attempts.",
        "Method: Dopri5, order 5, 6 evaluations a step (Dormand & Prince, J. Comput. Appl. Math. 6 (1980), 19-26).",
        "Controller: I, rtol 1e-08, atol 1e-09.",
        "Compiled as: one native function for the whole loop.",
        "Under vmap: blocks of 64 lanes, one after the other; from 512 lanes on an ended lane makes room for the next.",
        "Gradient: Recorded, a row of 32 bytes a step and lane (16 KiB for 512 steps), of 64 lanes at a time.",
    ]


def test_a_fixed_grid_and_events():
    assert "Loop: a scan over 10 steps." in ok.explain(pendulum, jnp.ones(2), 0.0, 1.0, ok.RK4(), n_steps=10)
    event = ok.Event(lambda t, y, args: y[0])
    assert "Events: 1, looked for" in ok.explain(pendulum, jnp.ones(2), 0.0, 1.0, event=event)
