"""Lanes do not see each other: a failing or slow one changes no bit of the others, and stops early itself."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok
from odekit import Result

LANES, BROKEN, STIFF, MAX_STEPS = 64, 7, 40, 500
NORMAL = np.setdiff1d(np.arange(LANES), [BROKEN, STIFF])


def f(t, y, args):
    mu, until = args
    return jnp.where(t < until, cases.van_der_pol(t, y, mu), jnp.nan)


def lanes(bad):
    mu = np.linspace(0.5, 2.0, LANES)
    until = np.full(LANES, np.inf)
    if bad:
        mu[STIFF], until[BROKEN] = 1e5, 1.5
    y0 = np.stack([np.linspace(1.0, 2.0, LANES), np.zeros(LANES)], axis=1)
    return jnp.asarray(y0), (jnp.asarray(mu), jnp.asarray(until))


@jax.jit
def solve(y0, args):
    def one(y0, args):
        return ok.solve(f, y0, 0.0, 10.0, args=args, rtol=1e-6, atol=1e-6, max_steps=MAX_STEPS)

    return jax.vmap(one)(y0, args)


@pytest.fixture(scope="module")
def with_bad():
    return solve(*lanes(bad=True))


@pytest.fixture(scope="module")
def without_bad():
    return solve(*lanes(bad=False))


def normal(tree):
    return jax.tree.map(lambda x: np.asarray(x)[NORMAL], tree)


def test_normal_lanes_are_equal_to_the_bit(with_bad, without_bad):
    for a, b in zip(*(jax.tree.leaves(normal(sol)) for sol in (with_bad, without_bad)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_normal_lanes_are_equal_to_the_bit_without_the_bad_ones(with_bad):
    alone = solve(*normal(lanes(bad=True)))
    np.testing.assert_array_equal(normal(with_bad.y1), alone.y1)
    np.testing.assert_array_equal(normal(with_bad.stats["accepted"]), alone.stats["accepted"])


def test_bad_lanes_are_flagged_and_the_others_are_right(with_bad):
    assert np.all(normal(with_bad.result) == Result.SUCCESS)
    assert with_bad.result[BROKEN] == Result.NONFINITE
    assert with_bad.result[STIFF] == Result.MAX_STEPS
    exact = ok.solve(cases.van_der_pol, jnp.array([2.0, 0.0]), 0.0, 10.0, args=2.0, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(with_bad.y1[-1], exact.y1, rtol=1e-3, atol=1e-4)


def test_bad_lanes_keep_their_last_good_state(with_bad):
    t, y = with_bad.t1[BROKEN], with_bad.y1[BROKEN]
    assert 1.4 < t < 1.5
    y0, (mu, _) = lanes(bad=True)
    exact = ok.solve(cases.van_der_pol, y0[BROKEN], 0.0, t, args=mu[BROKEN], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(y, exact.y1, rtol=1e-4)
    assert 0 < with_bad.t1[STIFF] < 10
    assert np.all(np.isfinite(with_bad.y1[STIFF]))


def test_a_broken_lane_stops_early(with_bad):
    attempts = with_bad.stats["accepted"] + with_bad.stats["rejected"]
    assert attempts[STIFF] == MAX_STEPS
    assert attempts[BROKEN] < 200
    assert np.all(normal(attempts) < 250)


def test_without_a_slow_lane_the_loop_ends_early():
    y0, (mu, until) = lanes(bad=True)
    keep = np.delete(np.arange(LANES), STIFF)
    sol = solve(y0[keep], (mu[keep], until[keep]))
    assert np.max(sol.stats["accepted"] + sol.stats["rejected"]) < 250


def test_statistics_of_a_lane_are_those_of_its_own_solve(with_bad):
    y0, args = lanes(bad=True)
    for i in (0, 20, 63):  # how a step shrinks towards the broken place depends on rounding
        alone = solve(y0[i : i + 1], jax.tree.map(lambda x, i=i: x[i : i + 1], args))
        for name, count in alone.stats.items():
            assert with_bad.stats[name][i] == count[0], name


def test_messages_name_the_lanes(with_bad):
    with pytest.raises(ok.SolveError, match=r"2 of 64 lanes did not reach t1 .*Lane 7 stopped at t=1\..*Lane 40 ") as e:
        ok.check(with_bad)
    assert "\n" not in str(e.value)
    assert with_bad.message(0) == "The solve reached t1."
    assert "non-finite" in with_bad.message(BROKEN)
    assert "max_steps" in with_bad.message(STIFF)
    with pytest.raises(ValueError, match="one index an axis"):
        with_bad.message()


def test_an_eager_call_raises_for_all_lanes_after_the_run():
    y0, (mu, until) = lanes(bad=True)
    with pytest.raises(ok.SolveError, match="Lane 7 stopped"):
        ok.check(
            jax.vmap(lambda y0, mu, until: ok.solve(f, y0, 0.0, 10.0, args=(mu, until), max_steps=MAX_STEPS))(
                y0, mu, until
            )
        )
