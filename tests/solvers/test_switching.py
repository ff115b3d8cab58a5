"""Automatic switching: when a lane goes over and comes back, and that its steps can be taken once more."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok
from odekit.problem import ODE, Bound

START = jnp.array([2.0, 0.0])


def counts_after(method, count, looks_stiff):
    seen = []
    for fast in looks_stiff:
        count = method._count(jnp.asarray(count, jnp.int32), jnp.asarray(fast))
        seen.append(int(count))
    return seen


def test_patience_and_the_way_back():
    method = ok.AutoSwitch(patience=3, back=2)
    assert counts_after(method, 0, [True, True, False, True, True, True]) == [1, 2, 0, 1, 2, -1]
    assert counts_after(method, -1, [True, False, True, False, False]) == [-1, -2, -1, -2, 0]


def test_the_fastest_rate_is_seen():
    def f(t, y, args):
        return jnp.array([[-1.0, 0.0], [3.0, -400.0]]) @ y

    for method, dt in ((ok.Tsit5(), 0.008), (ok.Rodas5P(), 0.1)):
        y = jnp.array([1.0, 0.3])
        bound = Bound(ODE(f), None, y)
        _, rate = method.judged(bound, jnp.zeros(()), jnp.asarray(dt), y, f(0.0, y, None))
        assert 380 < float(rate) < 410, method.name


@pytest.fixture(scope="module")
def stiff():
    def f(t, y, args):
        return cases.van_der_pol(t, y, 1000.0)

    ts = jnp.linspace(0.0, 2000.0, 9)
    fine = ok.solve(f, START, 0.0, 2000.0, ok.Rodas5P(), rtol=1e-8, atol=1e-11, saveat=ts)
    return f, ts, fine


def test_a_stiff_problem_in_few_steps(stiff):
    f, ts, fine = stiff
    sol = ok.solve(f, START, 0.0, 2000.0, ok.AutoSwitch(), rtol=1e-6, atol=1e-9, saveat=ts)
    assert int(sol.stats["accepted"]) < 700
    # 643 steps of Rodas5P alone; the states between are read off implicit steps by their own interpolant
    np.testing.assert_allclose(sol.ys, fine.ys, atol=2e-6)


def test_a_problem_that_is_not_stiff_is_left_to_the_explicit_method():
    def solve(method):
        return ok.solve(cases.lotka_volterra, jnp.ones(2), 0.0, 20.0, method, rtol=1e-8, atol=1e-8)

    switching, explicit = solve(ok.AutoSwitch()), solve(ok.Tsit5())
    assert switching.stats["accepted"] == explicit.stats["accepted"]
    np.testing.assert_allclose(switching.y1, explicit.y1, rtol=1e-12)


MU = np.geomspace(0.5, 500.0, 12)


@jax.jit
def ensemble(mu):
    """Lanes from not stiff to stiff; they end after very different numbers of steps, on either side."""

    def end(mu):
        sol = ok.solve(cases.van_der_pol, START, 0.0, 20.0, ok.AutoSwitch(), mu, rtol=1e-5, atol=1e-7, max_steps=1024)
        return sol.y1[0], (sol.y1, sol.stats["accepted"])

    gradient, (y1, accepted) = jax.vmap(jax.grad(end, has_aux=True))(mu)
    return y1, gradient, accepted


@pytest.fixture(scope="module")
def lanes():
    return [np.asarray(x) for x in ensemble(jnp.asarray(MU))]


def test_every_lane_of_a_mixed_ensemble_is_right(lanes):
    y1, _, accepted = lanes
    for k in (0, 4, 8, 11):
        fine = ok.solve(cases.van_der_pol, START, 0.0, 20.0, ok.Rodas5P(), MU[k], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(y1[k], fine.y1, rtol=2e-3, atol=2e-4)
    assert accepted.min() < accepted.max() / 4


def test_a_lane_does_not_depend_on_its_neighbours(lanes):
    reverse = [np.asarray(x)[::-1] for x in ensemble(jnp.asarray(MU[::-1].copy()))]
    for a, b in zip(lanes, reverse, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_gradients_repeat_the_way_that_was_taken(lanes):
    def end(mu):
        adjoint = ok.adjoint.Forward()
        return ok.solve(
            cases.van_der_pol, START, 0.0, 20.0, ok.AutoSwitch(), mu, rtol=1e-5, atol=1e-7, max_steps=1024,
            adjoint=adjoint,
        ).y1[0]  # fmt: skip

    forward = jax.jit(jax.vmap(jax.jacfwd(end)))(jnp.asarray(MU))
    np.testing.assert_allclose(lanes[1], forward, rtol=1e-6, atol=1e-10)


def test_methods_without_an_error_estimate_are_refused():
    with pytest.raises(ValueError, match="need error estimates"):
        ok.AutoSwitch(explicit=ok.RK4())
    with pytest.raises(ValueError, match="two error estimates"):
        ok.AutoSwitch(ok.DOP853())
