"""DPM-Solver and DPM-Solver++ with noise: law, slopes and the published updates."""

import jax
import numpy as np
import pytest
from cases_sampling import VE, VP, agrees, law_error, numpy_view, run_by_hand, starts

from odekit.samplers import dpm, dpmpp, sa, seeds, time_grid

GRIDS = (("logsnr", 5), ("logsnr", 10), ("logsnr", 20), ("time", 20))
# (order, variant, compat): distance in law from Gaussian data on GRIDS at tau=1, slope uniform in lam
LAW = {
    (1, "midpoint", False): (1.28e-1, 8.32e-2, 4.95e-2, 7.85e-2, 0.98),
    (2, "midpoint", False): (5.38e-2, 4.73e-3, 7.29e-3, 1.42e-1, 2.00),
    (2, "heun", False): (9.18e-4, 4.94e-2, 2.07e-2, 3.01e-1, 2.02),
    (3, "heun", True): (1.00e-1, 8.98e-2, 1.01e-2, 8.71e-1, 2.03),
    (3, "heun", False): (1.38e-1, 1.09e-1, 6.52e-3, 1.36e0, 2.03),
}
NOISE = np.random.RandomState(1).standard_normal((9, 64, 2))


def build(builder, ts, setting, tau=1.0):
    order, variant, compat = setting
    return builder(VP, ts, order, variant=variant, compat=compat, tau=tau, lower_order_final=False)


def assert_same(table, x, rtol=1e-12):
    got = run_by_hand(table, numpy_view(VP, table.view), starts(), NOISE)
    np.testing.assert_allclose(got, x, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("setting", LAW)
def test_law_on_gaussian_data(setting):
    *printed, slope = LAW[setting]
    for (spacing, n), want in zip(GRIDS, printed, strict=True):
        value = law_error(build(dpmpp, time_grid(VP, n, spacing), setting), VP)
        assert agrees(value, want), f"{spacing} {n}: {value:.4e}, not {want:.2e}"
    coarse, fine = (law_error(build(dpmpp, time_grid(VP, n, "logsnr"), setting), VP) for n in (128, 256))
    assert abs(np.log2(coarse / fine) - slope) < 0.15


@pytest.mark.parametrize("tau", [0.6, 1.0])
@pytest.mark.parametrize("setting", LAW)
def test_published_data_form(setting, tau):
    """The updates with (1 + eta) h in the exponentials and ratios of plain steps, eta being tau squared."""
    order, variant, compat = setting
    ts, view, eta, seen = time_grid(VP, 9, "logsnr"), numpy_view(VP, "data"), tau**2, []
    alpha, sigma, lam, x = VP.alpha(ts), VP.sigma(ts), VP.lam(ts), starts()
    for k in range(9):
        seen.insert(0, view(x, ts[k]))
        h = lam[k + 1] - lam[k]
        z, p = h * (1 + eta), min(order, k + 1)
        phi2 = np.expm1(-z) / z + 1
        phi3 = phi2 / z - 0.5
        new = sigma[k + 1] / sigma[k] * np.exp(-h * eta) * x - alpha[k + 1] * np.expm1(-z) * seen[0]
        if p > 1:
            r0 = (lam[k] - lam[k - 1]) / h
            d0 = (seen[0] - seen[1]) / r0
        if p == 2:
            new = new + alpha[k + 1] * d0 * (phi2 if variant == "heun" else -0.5 * np.expm1(-z))
        elif p == 3:
            r1 = (lam[k - 1] - lam[k - 2]) / h
            d1 = (seen[1] - seen[2]) / r1
            slope, bend = d0 + (d0 - d1) * r0 / (r0 + r1), (d0 - d1) / (r0 + r1)
            new = new + alpha[k + 1] * (phi2 * slope - (1 if compat else 2) * phi3 * bend)
        x = new + sigma[k + 1] * np.sqrt(-np.expm1(-2 * h * eta)) * NOISE[k]
    assert_same(build(dpmpp, ts, setting, tau), x)


@pytest.mark.parametrize("order", [1, 2])
def test_published_noise_form(order):
    ts, view, older = time_grid(VP, 9, "logsnr"), numpy_view(VP, "noise"), None
    alpha, sigma, lam, x = VP.alpha(ts), VP.sigma(ts), VP.lam(ts), starts()
    for k in range(9):
        h, eps = lam[k + 1] - lam[k], view(x, ts[k])
        new = alpha[k + 1] / alpha[k] * x - 2 * sigma[k + 1] * np.expm1(h) * eps
        if order == 2 and k > 0:
            new = new - sigma[k + 1] * np.expm1(h) * (eps - older) * h / (lam[k] - lam[k - 1])
        x, older = new + sigma[k + 1] * np.sqrt(np.expm1(2 * h)) * NOISE[k], eps
    table = build(dpm, ts, (order, "midpoint", False))
    got = run_by_hand(table, view, starts(), NOISE)
    np.testing.assert_allclose(got, x, rtol=1e-11, atol=1e-11 * np.max(np.abs(x)))


def test_the_exact_variant_is_stochastic_adams():
    ts = time_grid(VP, 9, "logsnr")
    for order in (1, 2, 3):
        ours = dpmpp(VP, ts, order, variant="heun", tau=0.7, lower_order_final=False)
        theirs = sa(VP, ts, order, tau=0.7, lower_order_final=False)
        for name in ("states", "evals", "noise"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-13, atol=1e-15)


def test_tau_may_be_a_function_of_the_time_a_step_ends_at():
    def tau(t):
        return (t > 0.2) & (t < 0.8)

    ts = time_grid(VP, 9)
    want = dpmpp(VP, ts, 2, tau=tau(ts[1:]))
    assert float(want.noise[0, 0]) == 0.0 < float(want.noise[3, 0])
    traced = jax.jit(lambda ts: dpmpp(VP, ts, 2, tau=tau))(ts)
    for table in (dpmpp(VP, ts, 2, tau=tau), traced):
        for name in ("states", "evals", "noise"):
            np.testing.assert_allclose(getattr(table, name), getattr(want, name), rtol=1e-10, atol=1e-14)


def test_a_last_point_without_noise_is_the_data_prediction():
    table = dpmpp(VE, time_grid(VE, 8, "karras", end="zero"), 3, tau=1.0, lower_order_final=False)
    assert float(table.noise[-1, 0]) == 0.0
    assert law_error(table, VE, std=0.0) < 1e-13


@pytest.mark.parametrize("view", ["data", "noise"])
def test_single_steps_with_noise_are_seeds(view):
    ts, build = time_grid(VP, 5), dpmpp if view == "data" else dpm
    ours, theirs = build(VP, ts, 2, "singlestep", tau=0.8), seeds(VP, ts, 2, view, tau=0.8)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
