"""What the steps of a solve say of the problem: error ratios and stiffness, and their derivatives."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok

JUDGED = ok.SaveAt(steps=True, judged=True)
HEUN = ok.RungeKutta(a=((1.0,),), b=(0.5, 0.5), c=(0.0, 1.0), b_err=(-0.5, 0.5), order=2)


def linear(t, y, rate):
    return -rate * y


def heun(rate, method=HEUN, **options):
    return ok.solve(linear, 1.0, 0.0, 2.0, method, rate, rtol=1e-3, atol=1e-4, saveat=JUDGED, max_steps=256, **options)


def by_hand(rate, h, y):
    """Heun against Euler on a linear problem: the estimate is (rate h)^2 y / 2, a step is larger at its start."""
    return (rate * h) ** 2 * y / 2 / (1e-4 + 1e-3 * y)


@pytest.fixture(scope="module")
def lanes():
    return jax.jit(jax.vmap(heun))(jnp.array([1.0, 3.0]))


def test_every_accepted_step_has_its_error_ratio_and_stiffness(lanes):
    for k, rate in enumerate((1.0, 3.0)):
        n = int(lanes.stats["accepted"][k])
        t, y = np.r_[0.0, lanes.ts[k, :n]], np.r_[1.0, lanes.ys[k, :n]]
        h = np.diff(t)
        np.testing.assert_allclose(lanes.stats["error"][k, :n], by_hand(rate, h, y[:-1]), rtol=1e-9)
        np.testing.assert_allclose(lanes.stats["stiffness"][k, :n], rate * h, rtol=1e-9)
        assert 0.3 < np.max(lanes.stats["error"][k, :n]) <= 1
        assert np.all(np.isnan(lanes.stats["error"][k, n:]))
        assert np.all(np.isnan(lanes.stats["stiffness"][k, n:]))


def penalty(sol):
    return jnp.nansum(sol.stats["error"]) + jnp.nansum(sol.stats["stiffness"])


def penalty_by_hand(rate, h):
    """A step multiplies the state by 1 - z + z^2 / 2, z = rate h."""
    z = rate * h
    y = jnp.cumprod(1 - z + z**2 / 2) / (1 - z + z**2 / 2)
    return jnp.sum(by_hand(rate, h, y)) + jnp.sum(z)


def agree(got, exact):
    for a, b in zip(got, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["forwards", "backwards"])
def test_derivatives_on_a_grid(sign):
    def run(rate):
        return penalty(ok.solve(linear, 1.0, 0.0, sign * 2.0, HEUN, sign * rate, rtol=1e-3, atol=1e-4, n_steps=4,
                                saveat=JUDGED))  # fmt: skip

    agree(jax.value_and_grad(run)(0.7), jax.value_and_grad(penalty_by_hand)(0.7, jnp.full(4, 0.5)))


def test_derivatives_of_an_adaptive_solve_have_its_steps_as_constants(lanes):
    n = int(lanes.stats["accepted"][1])
    steps = jnp.diff(lanes.ts[1, :n], prepend=0.0)
    got = jax.value_and_grad(lambda rate: penalty(heun(rate)))(3.0)
    agree(got, jax.value_and_grad(penalty_by_hand)(3.0, steps))


@pytest.mark.parametrize("method", [ok.Rodas5P(), ok.AutoSwitch()], ids=lambda method: method.name)
def test_stiffness_of_a_stiff_problem(method):
    sol = heun(1e4, method)
    n = int(sol.stats["accepted"])
    h = np.diff(np.r_[0.0, sol.ts[:n]])
    np.testing.assert_allclose(sol.stats["stiffness"][:n], 1e4 * h, rtol=1e-6)
    assert np.max(sol.stats["error"][:n]) <= 1
    assert sol.stats["stiffness"][n - 1] > 100


def test_what_is_not_measured_is_no_number_and_what_makes_no_sense_is_refused():
    sol = ok.solve(linear, 1.0, 0.0, 1.0, ok.RK4(), 1.0, n_steps=2, saveat=JUDGED)
    assert np.all(np.isnan(sol.stats["error"]))
    np.testing.assert_allclose(sol.stats["stiffness"], 0.5, rtol=1e-9)
    with pytest.raises(TypeError, match="`judged`, which `method` Heun of diffrax cannot serve"):
        heun(1.0, diffrax.Heun())
    with pytest.raises(ValueError, match="`judged` was True without `steps`"):
        ok.SaveAt(judged=True)
