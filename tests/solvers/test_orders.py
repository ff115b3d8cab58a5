"""Orders by slope: fixed steps of every method for plain equations, on a nonlinear and non-autonomous problem."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok
from odekit.solvers import METHODS

PLAIN = tuple(make for make in METHODS if not (make().stochastic or make().semilinear))
COUNTS = {
    1: (64, 91, 128, 181, 256),
    2: (16, 23, 32, 45, 64),
    3: (12, 17, 24, 34, 48),
    4: (8, 11, 16, 23, 32),
    5: (8, 11, 16, 23, 32),
    8: (8, 10, 12, 15, 18),
}
FINER = {"Rodas5P": 4}  # its slope is 4.4 over the counts of its order and 4.9 over finer ones
STARTS = np.random.default_rng(0).uniform([0.3, 1.0], [1.0, 3.0], size=(16, 2))


def rms_error(method, n_steps, t1):
    solve = jax.vmap(lambda y0: ok.solve(cases.smooth, y0, 0.2, t1, method, n_steps=n_steps).y1)
    exact = np.stack([cases.smooth_solution(t1, y0, 0.2) for y0 in STARTS])
    return np.sqrt(np.mean((np.asarray(solve(jnp.asarray(STARTS))) - exact) ** 2))


def test_every_plain_method_has_step_counts():
    assert {make().order for make in PLAIN} <= set(COUNTS)


@pytest.mark.parametrize("make", PLAIN, ids=lambda make: make.__name__)
def test_slope_is_the_order(make):
    method = make()
    counts = [FINER.get(method.name, 1) * n for n in COUNTS[method.order]]
    errors = [rms_error(method, n, 3.2 if method.order == 8 else 1.7) for n in counts]
    assert min(errors) > 1e-14, "rounding would flatten the slope"
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope >= method.order - 0.15, (slope, errors)


def test_backward_steps_have_the_same_order():
    counts = COUNTS[4]
    errors = [rms_error(ok.RK4(), n, -0.6) for n in counts]
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] >= 3.85
