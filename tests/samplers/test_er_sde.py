import jax
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, agrees, flow_error, law_error, numpy_view, run_by_hand, starts

from odekit.samplers import ddim, er_sde, time_grid
from odekit.samplers.er_sde import NOISE_SCALES
from odekit.samplers.exponential import exponential
from odekit.samplers.grids import on_grid
from odekit.samplers.multistep import by_ring, step_orders, weights_by_age

GRIDS = (("logsnr", 5), ("logsnr", 10), ("logsnr", 20), ("time", 20))
# (order, noise scale): distance in law from Gaussian data on GRIDS, slope uniform in lam
LAW = {
    (1, "sde5"): (9.92e-2, 5.47e-2, 2.91e-2, 5.81e-2, 0.99),
    (2, "sde5"): (8.52e-2, 2.86e-2, 7.15e-3, 1.84e-3, 2.02),
    (3, "sde5"): (8.33e-2, 2.20e-2, 3.08e-3, 2.02e-2, 3.17),
    (2, "sde"): (1.13e-1, 4.38e-2, 9.83e-3, 1.81e-2, 2.10),
}
# (order, compat): rms error to the exact flow without noise, on logsnr and quadratic 5, 10, 20, time 10, 20; slopes
ERRORS = {
    (2, False): (2.65e-1, 1.22e-1, 5.71e-2, 1.71e-1, 9.43e-2, 3.81e-2, 1.01e-1, 3.41e-2, 2.01, 2.00),
    (3, True): (2.65e-1, 1.18e-1, 5.28e-2, 1.70e-1, 9.46e-2, 3.60e-2, 1.05e-1, 3.10e-2, 1.67, 1.54),
    (3, False): (2.59e-1, 1.03e-1, 4.03e-2, 1.68e-1, 9.17e-2, 2.55e-2, 1.23e-1, 4.44e-2, 2.89, 2.93),
}
NOISE = np.random.RandomState(4).standard_normal((8, 64, 2))


@pytest.mark.parametrize("setting", LAW)
def test_law_on_gaussian_data(setting):
    (order, scale), (*printed, slope) = setting, LAW[setting]
    for (spacing, n), want in zip(GRIDS, printed, strict=True):
        value = law_error(er_sde(VP, time_grid(VP, n, spacing), order, noise_scale=scale), VP)
        assert agrees(value, want), f"{spacing} {n}: {value:.4e}, not {want:.2e}"
    coarse, fine = (law_error(er_sde(VP, time_grid(VP, n, "logsnr"), order, noise_scale=scale), VP) for n in (128, 256))
    assert abs(np.log2(coarse / fine) - slope) < 0.15


@pytest.mark.parametrize("setting", ERRORS)
def test_errors_on_the_mixture_without_noise(setting):
    (order, compat), (*printed, uniform, quadratic) = setting, ERRORS[setting]

    def error(spacing, n):
        return flow_error(er_sde(VP, time_grid(VP, n, spacing), order, noise_scale="ode", compat=compat), "VP")

    grids = [(spacing, n) for spacing in ("logsnr", "quadratic") for n in (5, 10, 20)] + [("time", 10), ("time", 20)]
    for (spacing, n), want in zip(grids, printed, strict=True):
        value = error(spacing, n)
        assert agrees(value, want), f"{spacing} {n}: {value:.4e}, not {want:.2e}"
    for spacing, slope in (("logsnr", uniform), ("quadratic", quadratic)):
        assert abs(np.log2(error(spacing, 128) / error(spacing, 256)) - slope) < 0.15


PHI = {
    "ode": lambda v: v,
    "sde": lambda v: v**2,
    "sde1": lambda v: v * (np.exp(v**-1 / -1) + 10),
    "sde2": lambda v: v**1.5,
    "sde3": lambda v: v**2.5,
    "sde4": lambda v: v**0.9 * np.log10(1 + 100 * v**1.5),
    "sde5": lambda v: v * (np.exp(v**0.3) + 10),
}


@pytest.mark.parametrize("scale", NOISE_SCALES)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_published_code(order, scale):
    """Backward differences and sums over 100 rectangles from the end of the step."""
    ts, phi, view = time_grid(VP, 8, "quadratic"), PHI[scale], numpy_view(VP, "data")
    alpha, level, x, seen = VP.alpha(ts), VP.sigma(ts) / VP.alpha(ts), starts(), []
    for k in range(8):
        seen.insert(0, view(x, ts[k]))
        s, t = level[k], level[k + 1]
        r, p = phi(t) / phi(s), min(order, k + 1)
        new = alpha[k + 1] / alpha[k] * r * x + alpha[k + 1] * (1 - r) * seen[0]
        at, width = t + np.arange(100) / 100 * (s - t), (s - t) / 100
        if p >= 2:
            slope = (seen[0] - seen[1]) / (s - level[k - 1])
            new = new + alpha[k + 1] * (t - s + phi(t) * np.sum(width / phi(at))) * slope
        if p == 3:
            older = (seen[1] - seen[2]) / (level[k - 1] - level[k - 2])
            bend = 2 * (slope - older) / (s - level[k - 2])
            new = new + alpha[k + 1] * ((t - s) ** 2 / 2 + phi(t) * np.sum((at - s) * width / phi(at))) * bend
        x = new + alpha[k + 1] * (0.0 if scale == "ode" else np.sqrt(t**2 - s**2 * r**2)) * NOISE[k]
    table = er_sde(VP, ts, order, noise_scale=scale, compat=True)
    got = run_by_hand(table, view, starts(), NOISE)
    np.testing.assert_allclose(got, x, rtol=1e-11, atol=1e-11)


def test_a_power_of_rho_is_constant_tau():
    """Exponential Adams in rho: the same step, by another integrand on other nodes."""
    ts, tau = time_grid(VP, 12), 0.8
    grid = on_grid(VP, ts)
    ex = exponential(grid, VP, tau, variable="rho")
    table = er_sde(VP, ts, 3, noise_scale=lambda rho: rho ** (1 + tau**2))
    want = by_ring(grid, weights_by_age(grid, step_orders(grid, 3, False), ex.predict, 3))
    np.testing.assert_allclose(table.evals[:, 0], want, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(table.states[:, 0, 0], ex.keep, rtol=1e-12)
    np.testing.assert_allclose(table.noise[:, 0], ex.noise, rtol=1e-12)


def test_order_1_is_ddim():
    ts = time_grid(VP, 8)
    for scale, eta in (("ode", 0.0), ("sde", 1.0)):
        ours, theirs = er_sde(VP, ts, 1, noise_scale=scale), ddim(VP, ts, eta)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scale", sorted(set(NOISE_SCALES) - {"sde4"}))
def test_paths_from_pure_noise_to_none(scale):
    for schedule, ts in ((FM, time_grid(FM, 8)), (VE, time_grid(VE, 8, "karras", end="zero"))):
        table = er_sde(schedule, ts, 3, noise_scale=scale)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(table))
        assert law_error(table, schedule, std=0.0) < 1e-12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"order": 4}, "`order` is 4"),
        ({"noise_scale": "sde9"}, "`noise_scale` is 'sde9'"),
        ({"noise_scale": lambda rho: rho**0.5}, "not decreasing"),
    ],
)
def test_mistakes_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        er_sde(VP, [1.0, 0.5, 0.1], **given)


def test_more_noise_than_flows_can_start_with():
    with pytest.raises(ValueError, match="not decreasing"):
        er_sde(FM, [1.0, 0.5, 0.1], noise_scale="sde4")
