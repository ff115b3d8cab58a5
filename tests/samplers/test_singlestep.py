import numpy as np
import pytest
from cases_sampling import FM, VE, VP, agrees, flow_error, numpy_view, run_by_hand, starts

from odekit.samplers import budget_orders, ddim, dpm, dpmpp, time_grid

GRIDS = [(spacing, n) for spacing in ("logsnr", "quadratic") for n in (5, 10, 20)] + [("time", 10), ("time", 20)]
# rms error to the exact flow on each of GRIDS; the number is that of evaluations
ERRORS = {
    (dpm, 2): (9.59e-1, 2.63e-1, 4.59e-2, 8.46e-1, 9.00e-2, 1.95e-2, 3.43e-1, 9.82e-2),
    (dpm, 3): (15.9, 3.17e-1, 4.08e-2, 15.9, 6.18e-2, 7.19e-3, 2.59e-1, 7.60e-2),
    (dpmpp, 2): (3.71e-1, 1.47e-1, 7.21e-2, 3.52e-1, 1.05e-1, 4.50e-2, 1.73e-1, 7.14e-2),
    (dpmpp, 3): (3.30e-1, 8.95e-2, 4.43e-2, 3.30e-1, 7.95e-2, 2.40e-2, 1.51e-1, 5.51e-2),
}
SLOPES = {(dpm, 2): (1.99, 2.02), (dpm, 3): (2.88, 2.92), (dpmpp, 2): (1.96, 1.97), (dpmpp, 3): (2.90, 2.94)}
forms = pytest.mark.parametrize(("build", "order"), ERRORS, ids=lambda form: getattr(form, "__name__", form))


@forms
def test_errors_on_the_mixture(build, order):
    for (spacing, n), printed in zip(GRIDS, ERRORS[build, order], strict=True):
        table = build(VP, time_grid(VP, n // order, spacing), order, "singlestep")
        assert table.nfe == n // order * order
        value = flow_error(table, "VP")
        assert agrees(value, printed), f"{spacing} {n}: {value:.4e}, not {printed:.2e}"


@forms
@pytest.mark.parametrize("variant", ["midpoint", "heun"])
def test_slopes_on_the_mixture(build, order, variant):
    for spacing, slope in zip(("logsnr", "quadratic"), SLOPES[build, order], strict=True):
        coarse, fine = (
            flow_error(build(VP, time_grid(VP, n, spacing), order, "singlestep", variant=variant), "VP")
            for n in (128, 256)
        )
        assert np.log2(coarse / fine) > slope - 0.15


@pytest.mark.parametrize(("build", "printed"), [(dpm, (0.77, 0.128, 0.0179)), (dpmpp, (0.238, 0.079, 0.034))])
def test_a_budget_of_evaluations_is_used_up(build, printed):
    for nfe, want in zip((6, 10, 20), printed, strict=True):
        orders = budget_orders(nfe)
        table = build(VP, time_grid(VP, len(orders), "logsnr"), orders, "singlestep")
        assert table.nfe == nfe
        assert abs(flow_error(table, "VP") - want) < 0.006 * want


def test_budgets_as_published():
    assert [budget_orders(n) for n in (1, 2, 3, 6, 10, 20)] == [
        (1,),
        (2,),
        (2, 1),
        (3, 2, 1),
        (3, 3, 3, 1),
        (3, 3, 3, 3, 3, 3, 2),
    ]
    assert [budget_orders(n, 2) for n in (4, 5)] == [(2, 2), (2, 2, 1)]


@pytest.mark.parametrize("order", [2, 3])
def test_fast_joins_the_steps_of_its_grid(order):
    ts = time_grid(VP, 11, "quadratic")
    orders = budget_orders(11, order)
    ours, theirs = dpm(VP, ts, order, "fast"), dpm(VP, ts[np.cumsum([0, *orders])], orders, "singlestep")
    assert ours.nfe == 11
    for field in ("t", "states", "evals", "t_state"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))


def test_errors_on_an_exploding_path():
    for n, want in zip((2, 5, 10), (2.17, 3.20e-1, 6.43e-2), strict=True):
        value = flow_error(dpm(VE, time_grid(VE, n, "karras"), 2, "singlestep"), "VE")
        assert agrees(value, want), f"{n}: {value:.4e}, not {want:.2e}"


def by_formula(ts, order, variant, data):
    """Written in lam from the update rules of the papers: stages at 1/2, or at 1/3 and 2/3."""
    view, x = numpy_view(VP, "data" if data else "noise"), starts()
    for s, t in zip(VP.lam(ts)[:-1], VP.lam(ts)[1:], strict=True):
        h, r1, r2 = t - s, 1 / 2 if order == 2 else 1 / 3, 2 / 3
        at = {r: VP.t_of_lam(s + r * h) for r in (0, r1, r2, 1)}
        base, gain = (VP.sigma, VP.alpha) if data else (VP.alpha, VP.sigma)
        sign = 1 if data else -1

        def grown(r, h=h, sign=sign):  # 1 - exp(-r h) on data, exp(r h) - 1 on noise
            return -sign * np.expm1(-sign * r * h)

        def moved(r, parts, at=at, base=base, gain=gain, sign=sign, x=x):
            return base(at[r]) / base(at[0]) * x + sign * gain(at[r]) * parts

        def line(r, h=h, sign=sign):  # weight of the first derivative times h
            return sign * (1 - grown(r) / (r * h))

        e0 = view(x, at[0])
        e1 = view(moved(r1, grown(r1) * e0), at[r1])
        if order == 2:
            slope = 0.5 * grown(1) * (e1 - e0) / r1 if variant == "midpoint" else line(1) * (e1 - e0) / r1
            x = moved(1, grown(1) * e0 + slope)
            continue
        e2 = view(moved(r2, grown(r2) * e0 + r2 / r1 * line(r2) * (e1 - e0)), at[r2])
        if variant == "midpoint":
            x = moved(1, grown(1) * e0 + line(1) * (e2 - e0) / r2)
            continue
        d1, d2 = (e1 - e0) / r1, (e2 - e0) / r2
        first, second = (r2 * d1 - r1 * d2) / (r2 - r1), 2 * (d2 - d1) / (r2 - r1)
        curve = sign * (0.5 - line(1) / h) if data else line(1) / h - 0.5
        x = moved(1, grown(1) * e0 + line(1) * first + curve * second)
    return x


@forms
@pytest.mark.parametrize("variant", ["midpoint", "heun"])
def test_the_published_formulas(build, order, variant):
    ts = time_grid(VP, 5, "quadratic")
    table = build(VP, ts, order, "singlestep", variant=variant)
    got = run_by_hand(table, numpy_view(VP, table.view), starts(), None)
    want = by_formula(ts, order, variant, build is dpmpp)
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)


def test_order_1_is_ddim():
    ts = time_grid(FM, 6)
    ours, theirs = (
        run_by_hand(table, numpy_view(FM, "data"), starts(), None)
        for table in (dpmpp(FM, ts, 1, "singlestep"), ddim(FM, ts))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-13)


def test_infinite_steps_are_of_order_1():
    """From pure noise to none: lam is infinite at both ends, and the data prediction is constant there."""
    table = dpmpp(FM, time_grid(FM, 5), 3, "singlestep", lower_order_final=False)
    assert table.nfe == 1 + 3 * 3 + 1
    assert dpmpp(VE, time_grid(VE, 5, "karras", end="zero"), 2, "singlestep").nfe == 2 * 4 + 1
    assert dpmpp(VE, time_grid(VE, 5, "karras"), 2, "singlestep", lower_order_final=True).nfe == 2 * 4 + 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: dpm(VP, [1.0, 0.5, 0.1], 4, "singlestep"), "`order` is 4"),
        (lambda: dpm(VP, [1.0, 0.5, 0.1], (3, 2, 1), "singlestep"), "`order` holds 3 numbers for 2 steps"),
        (lambda: dpm(VP, [1.0, 0.5, 0.1], 1, "fast"), "`order` is 1"),
        (lambda: budget_orders(0), "`nfe` is 0"),
    ],
)
def test_mistakes_are_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
