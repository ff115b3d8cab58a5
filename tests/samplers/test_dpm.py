import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import (
    FM,
    VE,
    VP,
    agrees,
    assert_errors,
    flow_error,
    flow_slope,
    mixture,
    numpy_view,
    run_by_hand,
    slope_with_history,
    starts,
)

from odekit.samplers import dpm, dpmpp, sa, sample, time_grid

FORMS = {  # builder, order, options: rms error to the exact flow, slope uniform in lam and quadratic
    "dpmpp1": (dpmpp, 1, {}, (3.12e-1, 1.92e-1, 1.21e-1, 2.26e-1, 1.42e-1, 1.02e-1, 1.55e-1, 1.00e-1, 0.85, 1.20)),
    "dpmpp2": (dpmpp, 2, {}, (1.69e-1, 7.93e-2, 3.32e-2, 1.85e-1, 6.28e-2, 2.15e-2, 3.09e-1, 1.10e-1, 1.99, 2.00)),
    "dpmpp2 lowered": (
        *(dpmpp, 2, {"lower_order_final": True}),
        (1.57e-1, 7.73e-2, 3.32e-2, 1.20e-1, 5.13e-2, 1.97e-2, 9.34e-2, 4.06e-2, 1.99, 1.99),
    ),
    "dpmpp2 heun": (
        *(dpmpp, 2, {"variant": "heun"}),
        (2.46e-1, 9.80e-2, 2.93e-2, 2.98e-1, 7.97e-2, 1.86e-2, 4.96e-1, 1.75e-1, 2.00, 2.02),
    ),
    "dpmpp3": (dpmpp, 3, {}, (4.73e-1, 2.77e-2, 6.95e-3, 2.38e-1, 2.20e-1, 1.60e-2, 1.60e0, 7.71e-1, 2.88, 3.03)),
    "dpmpp3 lowered": (
        *(dpmpp, 3, {"lower_order_final": True}),
        (1.30e-1, 6.63e-2, 7.33e-3, 9.78e-2, 4.92e-2, 1.23e-2, 8.74e-2, 4.69e-2, 2.88, 2.67),
    ),
    "dpmpp3 published": (
        *(dpmpp, 3, {"compat": True}),
        (4.04e-1, 3.43e-2, 7.63e-3, 2.08e-1, 1.33e-1, 1.05e-2, 9.59e-1, 4.45e-1, 2.16, 2.01),
    ),
    "dpmpp3 published, lowered": (
        *(dpmpp, 3, {"compat": True, "lower_order_final": True}),
        (1.29e-1, 6.55e-2, 8.02e-3, 9.97e-2, 4.27e-2, 9.78e-3, 8.79e-2, 4.49e-2, 2.16, 2.08),
    ),
    "dpm2": (dpm, 2, {}, (1.66e-1, 8.25e-2, 4.37e-2, 1.29e-1, 7.22e-2, 3.05e-2, 1.94e-1, 6.00e-2, 1.98, 1.98)),
    "dpm3 published": (
        *(dpm, 3, {"compat": True}),
        (1.59e-1, 7.00e-2, 3.17e-2, 1.33e-1, 5.60e-2, 1.81e-2, 1.88e-1, 7.17e-2, 2.15, 2.14),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_errors_and_slopes_on_the_mixture(name):
    builder, order, options, (*printed, uniform, quadratic) = FORMS[name]

    def build(schedule, ts):
        return builder(schedule, ts, order, **{"lower_order_final": False} | options)

    assert_errors(build, printed)
    assert flow_slope(build, "logsnr") > uniform - 0.15
    assert flow_slope(build, "quadratic") > quadratic - 0.15


@pytest.mark.parametrize("builder", [dpm, dpmpp])
def test_order_3_as_published_is_order_2(builder):
    """With exact history, so that nothing but the formula is at work."""
    for compat, low, high in ((False, 2.85, 3.2), (True, 1.85, 2.2)):
        slope = slope_with_history(
            lambda s, ts, compat=compat: builder(s, ts, 3, lower_order_final=False, compat=compat), 2, "quadratic"
        )
        assert low < slope < high


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


@pytest.mark.parametrize("builder", [dpm, dpmpp])
@pytest.mark.parametrize("variant", ["midpoint", "heun"])
@pytest.mark.parametrize(("order", "compat"), [(2, False), (3, False), (3, True)])
def test_published_formula(builder, variant, order, compat):
    """Order 3 with c=1, as published, and with the factor c=2 that its second difference lacks."""
    ts, x, seen = time_grid(VP, 8, start=0.9), starts(), []
    table = builder(VP, ts, order, variant=variant, lower_order_final=False, compat=compat)
    view = numpy_view(VP, table.view)
    alpha, sigma, lam = VP.alpha(ts), VP.sigma(ts), VP.lam(ts)
    keeps, scales, sign = (sigma, alpha, -1) if builder is dpmpp else (alpha, -sigma, 1)
    for k in range(8):
        seen.insert(0, view(x, ts[k]))
        h = lam[k + 1] - lam[k]
        e = sign * np.expm1(sign * h)  # 1 - exp(-h) of data predictions, exp(h) - 1 of noise predictions
        first = sign * (e / h - 1)
        second = sign * (first / h - 0.5)
        total = e * seen[0]
        if k > 0:
            r0 = (lam[k] - lam[k - 1]) / h
            d0 = (seen[0] - seen[1]) / r0
        if k == 1 or (k > 1 and order == 2):
            total = total + (0.5 * e if variant == "midpoint" else first) * d0
        elif k > 1:
            r1 = (lam[k - 1] - lam[k - 2]) / h
            d1 = (seen[1] - seen[2]) / r1
            slope = d0 + r0 / (r0 + r1) * (d0 - d1)
            total = total + first * slope + (1 if compat else 2) * second * (d0 - d1) / (r0 + r1)
        x = keeps[k + 1] / keeps[k] * x + scales[k + 1] * total
    np.testing.assert_allclose(run_by_hand(table, view, starts(), None), x, rtol=1e-12, atol=1e-12)


def test_the_exact_variant_of_order_2_is_stochastic_adams_without_noise():
    ts = time_grid(VP, 9, "quadratic")
    for order, lower in ((2, False), (2, True), (3, False)):
        got = dpmpp(VP, ts, order, variant="heun", lower_order_final=lower)
        want = sa(VP, ts, order, tau=0.0, lower_order_final=lower)
        np.testing.assert_allclose(got.evals, want.evals, rtol=1e-12, atol=1e-14)


def test_order_is_lowered_where_it_pays():
    short, uniform, jump = time_grid(VP, 14, "logsnr"), time_grid(VP, 20, "logsnr"), time_grid(VP, 20)
    for ts, lowered in ((short, True), (uniform, False), (jump, True)):
        want = dpmpp(VP, ts, 3, lower_order_final=lowered)
        np.testing.assert_array_equal(dpmpp(VP, ts, 3).evals, want.evals)
        other = dpmpp(VP, ts, 3, lower_order_final=not lowered)
        assert not np.array_equal(dpmpp(VP, ts, 3).evals, other.evals)


def test_the_last_step_alone_can_be_lowered():
    ts = time_grid(VP, 6, "logsnr")
    full, lowered, got = (dpmpp(VP, ts, 3, lower_order_final=lower).evals for lower in (False, True, "last"))
    np.testing.assert_array_equal(got[:-1], full[:-1])
    np.testing.assert_array_equal(got[-1], lowered[-1])
    assert not np.array_equal(got, full)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_last_step_to_no_noise_is_the_data_prediction(order):
    ts = time_grid(VE, 20, "karras", end="zero")
    table = dpmpp(VE, ts, order, lower_order_final=False)
    seen = sample(mixture(VE), table, jnp.asarray(starts("VE")), trajectory=True)
    np.testing.assert_allclose(seen[-1], mixture(VE).data(seen[-2], ts[-2]), rtol=1e-12)


@pytest.mark.parametrize("builder", [dpm, dpmpp])
@pytest.mark.parametrize(
    ("given", "argument"),
    [({"order": order}, "`order`") for order in (0, 4, 2.5)]
    + [
        ({"kind": "fast 3"}, "`kind`"),
        ({"variant": "taylor"}, "`variant`"),
        ({"lower_order_final": "first"}, "`lower_"),
    ],
)
def test_mistakes_are_named(builder, given, argument):
    with pytest.raises(ValueError, match=argument):
        builder(VP, [1.0, 0.5], **given)
