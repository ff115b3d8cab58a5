import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, agrees, ends, flow_error, mixture, numpy_view, run_by_hand, starts

from odekit.samplers import dpmpp, sample, time_grid

GRIDS = [("logsnr", 5), ("logsnr", 10), ("logsnr", 20)]
GRIDS += [("quadratic", 5), ("quadratic", 10), ("quadratic", 20), ("time", 10), ("time", 20)]
# (order, lower_order_final, compat): rms error to the exact flow on each of GRIDS
ERRORS = {
    (1, False, False): (3.12e-1, 1.92e-1, 1.21e-1, 2.26e-1, 1.42e-1, 1.02e-1, 1.55e-1, 1.00e-1),
    (2, False, False): (1.69e-1, 7.93e-2, 3.32e-2, 1.85e-1, 6.28e-2, 2.15e-2, 3.09e-1, 1.10e-1),
    (2, True, False): (1.57e-1, 7.73e-2, 3.32e-2, 1.20e-1, 5.13e-2, 1.97e-2, 9.34e-2, 4.06e-2),
    (3, False, True): (4.04e-1, 3.43e-2, 7.63e-3, 2.08e-1, 1.33e-1, 1.05e-2, 9.59e-1, 4.45e-1),
    (3, True, True): (1.29e-1, 6.55e-2, 8.02e-3, 9.97e-2, 4.27e-2, 9.78e-3, 8.79e-2, 4.49e-2),
    (3, False, False): (4.73e-1, 2.77e-2, 6.95e-3, 2.38e-1, 2.20e-1, 1.60e-2, 1.60e0, 7.71e-1),
    (3, True, False): (1.30e-1, 6.63e-2, 7.33e-3, 9.78e-2, 4.92e-2, 1.23e-2, 8.74e-2, 4.69e-2),
}
SLOPES = {  # log2 of error(128) / error(256), uniform in lam and quadratic
    (1, False, False): (0.85, 1.20),
    (2, False, False): (1.99, 2.00),
    (3, False, True): (2.16, 2.01),
    (3, False, False): (2.88, 3.03),
}


@pytest.mark.parametrize("setting", ERRORS)
def test_errors_on_the_mixture(setting):
    order, lower, compat = setting
    for (spacing, n), printed in zip(GRIDS, ERRORS[setting], strict=True):
        table = dpmpp(VP, time_grid(VP, n, spacing), order, lower_order_final=lower, compat=compat)
        got = sample(mixture(VP), table, jnp.asarray(starts("VP")))
        value = float(np.sqrt(np.mean((np.asarray(got) - ends("VP")) ** 2)))
        assert agrees(value, printed), f"{spacing} {n}: {value:.4e}, not {printed:.2e}"


@pytest.mark.parametrize("setting", SLOPES)
def test_slopes_on_the_mixture(setting):
    order, lower, compat = setting
    for spacing, slope in zip(("logsnr", "quadratic"), SLOPES[setting], strict=True):
        coarse, fine = (
            flow_error(dpmpp(VP, time_grid(VP, n, spacing), order, lower_order_final=lower, compat=compat), "VP")
            for n in (128, 256)
        )
        assert abs(np.log2(coarse / fine) - slope) < 0.15


@pytest.mark.parametrize(
    ("case", "order", "compat", "printed"),
    [
        ("VE", 2, False, (2.97e-1, 1.43e-1, 3.86e-2)),
        ("VE", 3, True, (1.13e0, 1.17e-1, 1.46e-2)),
        ("FM inner", 2, False, (1.91e-1, 8.85e-2, 2.68e-2)),
    ],
)
def test_errors_on_other_paths(case, order, compat, printed):
    for n, want in zip((5, 10, 20), printed, strict=True):
        if case == "VE":
            schedule, ts = VE, time_grid(VE, n, "karras")
        else:
            schedule, ts = FM, time_grid(FM, n, start=0.999, end=0.02)
        value = flow_error(dpmpp(schedule, ts, order, lower_order_final=False, compat=compat), case)
        assert agrees(value, want), f"{n}: {value:.4e}, not {want:.2e}"


@pytest.mark.parametrize(("compat", "c"), [(True, 1.0), (False, 2.0)])
def test_third_order_formula(compat, c):
    """The update as published (c=1), and with the factor that its second difference lacks (c=2)."""
    ts, view, x, seen = time_grid(VP, 8), numpy_view(VP, "data"), starts(), []
    alpha, sigma, lam = VP.alpha(ts), VP.sigma(ts), VP.lam(ts)
    for k in range(8):
        seen.insert(0, view(x, ts[k]))
        h = lam[k + 1] - lam[k]
        phi1 = np.expm1(-h)
        phi2 = phi1 / h + 1
        phi3 = phi2 / h - 0.5
        new = sigma[k + 1] / sigma[k] * x - alpha[k + 1] * phi1 * seen[0]
        if k > 0:
            r0 = (lam[k] - lam[k - 1]) / h
            d0 = (seen[0] - seen[1]) / r0
        if k == 1:
            new = new - alpha[k + 1] * phi1 * 0.5 * d0
        elif k > 1:
            r1 = (lam[k - 1] - lam[k - 2]) / h
            d1 = (seen[1] - seen[2]) / r1
            slope = d0 + r0 / (r0 + r1) * (d0 - d1)
            new = new + alpha[k + 1] * phi2 * slope - alpha[k + 1] * phi3 * c * (d0 - d1) / (r0 + r1)
        x = new
    table = dpmpp(VP, ts, 3, lower_order_final=False, compat=compat)
    np.testing.assert_allclose(run_by_hand(table, view, starts(), None), x, rtol=1e-12, atol=1e-12)


def test_order_is_lowered_where_it_pays():
    short, uniform, jump = time_grid(VP, 14, "logsnr"), time_grid(VP, 20, "logsnr"), time_grid(VP, 20)
    for ts, lowered in ((short, True), (uniform, False), (jump, True)):
        want = dpmpp(VP, ts, 3, lower_order_final=lowered)
        np.testing.assert_array_equal(dpmpp(VP, ts, 3).evals, want.evals)
        other = dpmpp(VP, ts, 3, lower_order_final=not lowered)
        assert not np.array_equal(dpmpp(VP, ts, 3).evals, other.evals)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_last_step_to_no_noise_is_the_data_prediction(order):
    ts = time_grid(VE, 20, "karras", end="zero")
    table = dpmpp(VE, ts, order, lower_order_final=False)
    seen = sample(mixture(VE), table, jnp.asarray(starts("VE")), trajectory=True)
    np.testing.assert_allclose(seen[-1], mixture(VE).data(seen[-2], ts[-2]), rtol=1e-12)


@pytest.mark.parametrize("order", [0, 4, 2.5])
def test_orders_that_do_not_exist(order):
    with pytest.raises(ValueError, match="`order`"):
        dpmpp(VP, [1.0, 0.5], order)
