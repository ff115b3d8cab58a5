import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VP, run_by_hand

from odekit.samplers import time_grid
from odekit.samplers.grids import on_grid
from odekit.samplers.multistep import corrected_multistep, multistep, step_orders, weights_by_age

GRID = on_grid(VP, time_grid(VP, 6, "logsnr"))
ABOUT = {"view": "data", "name": "none", "source": "none"}


@pytest.mark.parametrize(
    ("schedule", "lower", "want"),
    [
        (VP, False, [1, 2, 3, 3, 3, 3]),
        (VP, True, [1, 2, 3, 3, 2, 1]),
        (VP, None, [1, 2, 3, 3, 2, 1]),
        (FM, False, [1, 2, 3, 3, 3, 1]),  # the last step leads to no noise
    ],
)
def test_orders_of_the_steps(schedule, lower, want):
    grid = on_grid(schedule, time_grid(schedule, 6, "logsnr"))
    np.testing.assert_array_equal(step_orders(grid, 3, lower), want)


def test_weights_are_filled_order_by_order():
    ages = weights_by_age(GRID, np.array([1, 2, 2, 0, 1, 2]), lambda rows, order: [1.0 * rows] * order, 3)
    np.testing.assert_array_equal(ages[:, 0], [0, 1, 2, 0, 4, 5])
    np.testing.assert_array_equal(ages[:, 1], [0, 1, 2, 0, 0, 5])
    np.testing.assert_array_equal(ages[:, 2], 0)


def test_a_row_reads_evaluations_by_age():
    """Against a plain list of everything evaluated so far."""
    draw = np.random.RandomState(0).standard_normal
    keep, ages = draw(6), np.tril(np.ones((6, 3)), 0) * draw((6, 3))
    x, seen = np.array([0.3, -1.2]), []
    table = multistep(GRID, keep, ages, **ABOUT)
    got = run_by_hand(table, lambda x, t: np.sin(x + t), x, None)
    for k in range(6):
        seen.insert(0, np.sin(x + GRID.ts[k]))
        x = keep[k] * x + sum(w * f for w, f in zip(ages[k], seen, strict=False))
    np.testing.assert_allclose(got, x, rtol=1e-13)


def test_a_corrector_completes_the_state_before_the_next_prediction():
    """Against predict, evaluate, correct written one after the other, with one draw of noise a step."""
    draw = np.random.RandomState(1).standard_normal
    keep, ages, fix, noise, z = draw(6), draw((6, 2)), draw((6, 2)), draw(6), draw((6, 2))
    ages[0, 1], fix[0] = 0.0, 0.0
    table = corrected_multistep(GRID, keep, ages, fix, noise, **ABOUT)
    x = np.array([0.3, -1.2])
    got = run_by_hand(table, lambda x, t: np.sin(x + t), x, z)
    seen = [np.sin(x + GRID.ts[0])]
    for k in range(6):
        base = keep[k] * x + noise[k] * z[k]
        predicted = base + sum(w * f for w, f in zip(ages[k], seen, strict=False))
        if k < 5:
            seen.insert(0, np.sin(predicted + GRID.ts[k + 1]))
            x = base + sum(w * f for w, f in zip(fix[k + 1], seen, strict=False))
    np.testing.assert_allclose(got, predicted, rtol=1e-13)


def test_leaves_are_jax_arrays():
    table = multistep(GRID, GRID.keep, GRID.gain[:, None], **ABOUT)
    assert all(isinstance(leaf, jnp.ndarray) for leaf in (table.t, table.states, table.evals, table.t_state))
