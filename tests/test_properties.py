"""Laws of any solve: split intervals, reversed time, permuted leaves, units, linear systems, save times."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import odekit as ok

TOL = 1e-9
given_few = settings(derandomize=True, deadline=None, max_examples=25)
starts = st.tuples(st.floats(0.2, 2.0), st.floats(0.2, 2.0)).map(np.array)
lengths = st.floats(0.05, 4.0)


def seasons(t, y, args):
    """Lotka-Volterra with a season, so that no law holds by the absence of t."""
    return cases.lotka_volterra(t, y, None) * (1 + 0.3 * jnp.sin(t))


@jax.jit
def forwards(y0, t0, t1):
    return ok.solve(seasons, y0, t0, t1, rtol=TOL, atol=TOL)


@jax.jit
def mirrored(y0, t0, t1):
    """The flow of the same equation in the time -t."""
    return ok.solve(lambda t, y, args: -seasons(-t, y, args), y0, -t0, -t1, rtol=TOL, atol=TOL)


def flow(y0, t0, t1):
    return forwards(y0, t0, t1).y1


@given_few
@given(starts, st.floats(-2.0, 2.0), lengths, st.floats(0.0, 1.0))
def test_an_interval_can_be_split_anywhere(y0, t0, length, share):
    middle = t0 + share * length
    whole = flow(y0, t0, t0 + length)
    np.testing.assert_allclose(flow(flow(y0, t0, middle), middle, t0 + length), whole, rtol=1e-6, atol=1e-6)


@given_few
@given(starts, st.floats(-2.0, 2.0), lengths)
def test_time_reversed_leads_back(y0, t0, length):
    np.testing.assert_allclose(flow(flow(y0, t0, t0 + length), t0 + length, t0), y0, rtol=1e-5, atol=1e-6)


@given_few
@given(starts, st.floats(-2.0, 2.0), lengths)
def test_a_mirrored_problem_takes_the_mirrored_steps(y0, t0, length):
    one, other = forwards(y0, t0, t0 + length), mirrored(y0, t0, t0 + length)
    np.testing.assert_allclose(other.y1, one.y1, rtol=1e-11, atol=1e-12)
    assert other.stats["accepted"] == one.stats["accepted"]


@jax.jit
def in_leaves(y0):
    """The two populations as leaves of a dictionary, in either order of their names."""

    def solve(names):
        def f(t, y, args):
            dy = cases.lotka_volterra(t, jnp.stack([y[name] for name in names]), None)
            return {name: dy[i] for i, name in enumerate(names)}

        y1 = ok.solve(f, {name: y0[i] for i, name in enumerate(names)}, 0.0, 3.0, rtol=TOL, atol=TOL).y1
        return jnp.stack([y1[name] for name in names])

    return solve(("prey", "hunters")), solve(("a prey", "hunters"))


@given_few
@given(starts)
def test_the_order_of_leaves_does_not_matter(y0):
    one, other = in_leaves(y0)
    np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)


@jax.jit
def in_units(y0, unit, second):
    """The same solve with lengths counted in `unit` and times in `second`."""

    def f(t, y, args):
        return cases.lotka_volterra(t * second, y * unit, None) * (second / unit)

    return ok.solve(f, y0 / unit, 0.0, 3.0 / second, rtol=TOL, atol=TOL / unit).y1 * unit


@given_few
@given(starts, st.floats(1e-3, 1e3), st.floats(0.1, 10.0))
def test_units_do_not_matter(y0, unit, second):
    np.testing.assert_allclose(in_units(y0, unit, second), in_units(y0, 1.0, 1.0), rtol=2e-7, atol=1e-8)


@given_few
@given(starts, st.integers(-3, 3))
def test_units_that_are_powers_of_two_change_no_bit(y0, power):
    np.testing.assert_array_equal(in_units(y0, 2.0**power, 1.0), in_units(y0, 1.0, 1.0))


@jax.jit
def linear(matrix, y0, t1):
    def f(t, y, args):
        return jnp.sum(args * y[None, :], axis=1)

    return ok.solve(f, y0, 0.0, t1, args=matrix, rtol=TOL, atol=TOL).y1


@given_few
@given(st.integers(0, 2**32 - 1), lengths)
def test_random_stable_linear_systems(seed, t1):
    rng = np.random.default_rng(seed)
    root, turn = rng.normal(size=(2, 4, 4))
    matrix = -0.3 * root @ root.T + turn - turn.T  # symmetric part negative, any rotation
    y0 = rng.normal(size=4)
    np.testing.assert_allclose(linear(matrix, y0, t1), scipy.linalg.expm(t1 * matrix) @ y0, rtol=0, atol=2e-7)


@jax.jit
def saved(y0, ts, t1):
    sol = ok.solve(cases.lotka_volterra, y0, 0.0, t1, saveat=ts, rtol=TOL, atol=TOL)
    return sol.ys, sol.y1


@given_few
@given(starts, st.sampled_from([3.0, -1.5]), st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6).map(sorted))
def test_random_save_times(y0, t1, shares):
    """Dense output of order 4 between steps of a 1e-9 solve; each time against a solve that ends there."""
    ts = t1 * np.array(shares)
    ys, end = saved(y0, ts, t1)
    assert np.all(np.isfinite(ys))
    for t, y in zip(ts, np.asarray(ys), strict=True):
        np.testing.assert_allclose(y, end if t == t1 else saved(y0, ts, t)[1], rtol=2e-6, atol=2e-6)
