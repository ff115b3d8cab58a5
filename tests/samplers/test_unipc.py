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
    numpy_view,
    run_by_hand,
    slope_with_history,
    starts,
)

from odekit.samplers import dpmpp, sa, time_grid, unipc

# (order, variant, view, lower_order_final) as published: rms error to the exact flow, slope uniform in lam, quadratic
PUBLISHED = {
    (1, "bh1", "data", False): (2.44e-1, 1.06e-1, 5.05e-2, 1.37e-1, 5.66e-2, 2.42e-2, 1.14e-1, 5.26e-2, 2.01, 1.99),
    (1, "bh2", "data", False): (2.82e-1, 1.41e-1, 6.74e-2, 1.83e-1, 8.57e-2, 3.62e-2, 1.23e-1, 5.87e-2, 2.02, 1.99),
    (2, "bh1", "data", True): (3.25e-1, 1.11e-1, 9.48e-3, 1.44e-1, 5.50e-2, 7.96e-3, 8.57e-2, 4.42e-2, 2.83, 3.15),
    (2, "bh1", "data", False): (7.80e-1, 1.15e-1, 9.54e-3, 9.77e-1, 1.40e-1, 1.49e-2, 1.37e0, 4.26e-1, 2.82, 3.01),
    (2, "bh2", "data", True): (1.50e-1, 6.22e-2, 1.61e-2, 9.71e-2, 2.81e-2, 4.73e-3, 8.94e-2, 3.98e-2, 2.86, 3.12),
    (2, "bh2", "data", False): (1.78e-1, 6.28e-2, 1.61e-2, 2.18e-1, 4.66e-2, 8.30e-3, 3.25e-1, 1.15e-1, 2.85, 2.97),
    (3, "bh1", "data", True): (3.26e-1, 4.67e-2, 6.07e-3, 1.45e-1, 5.93e-2, 9.90e-3, 8.75e-2, 4.67e-2, 4.03, 2.10),
    (3, "bh2", "data", True): (1.29e-1, 4.57e-2, 6.09e-3, 8.88e-2, 4.49e-2, 8.67e-3, 8.85e-2, 4.40e-2, 4.03, 2.15),
    (3, "bh2", "data", False): (4.82e-1, 4.14e-2, 6.29e-3, 2.55e-1, 2.35e-1, 1.29e-2, 1.65e0, 8.04e-1, 4.03, 3.99),
    (3, "bh2", "noise", False): (2.52e-1, 2.02e-2, 4.88e-3, 3.67e-1, 1.67e-2, 2.27e-3, 2.95e-1, 1.09e-1, 3.92, 3.85),
}


@pytest.mark.parametrize("setting", PUBLISHED)
def test_errors_and_slopes_as_published(setting):
    order, variant, view, lower = setting
    *printed, uniform, quadratic = PUBLISHED[setting]

    def build(schedule, ts):
        return unipc(schedule, ts, order, variant=variant, view=view, lower_order_final=lower, compat=True)

    assert_errors(build, printed)
    assert flow_slope(build, "logsnr") > uniform - 0.15
    assert flow_slope(build, "quadratic") > quadratic - 0.15


@pytest.mark.parametrize("view", ["data", "noise"])
@pytest.mark.parametrize("order", [2, 3])
def test_the_corrector_raises_the_order_by_one(order, view):
    """With exact history, solved in full."""

    def build(schedule, ts):
        return unipc(schedule, ts, order, view=view, lower_order_final=False)

    assert slope_with_history(build, order, "quadratic") > order + 1 - 0.15


@pytest.mark.parametrize(
    ("case", "order", "lower", "printed"),
    [
        ("VE", 3, True, (1.81e-1, 1.78e-1, 2.48e-2)),
        ("FM inner", 2, True, (7.94e-2, 2.37e-2, 3.79e-3)),
        ("FM inner", 3, False, (4.99e-1, 2.64e-1, 4.63e-2)),
    ],
)
def test_errors_on_other_paths(case, order, lower, printed):
    for n, want in zip((5, 10, 20), printed, strict=True):
        ts = time_grid(VE, n, "karras") if case == "VE" else time_grid(FM, n, start=0.999, end=0.02)
        table = unipc(VE if case == "VE" else FM, ts, order, lower_order_final=lower, compat=True)
        value = flow_error(table, case)
        assert agrees(value, want), f"{n}: {value:.4e}, not {want:.2e}"


def by_formula(view, x, ts, order, variant, shortcuts, lower, corrected):
    """UniPC in its own terms: B(h), the systems for the weights of differences, predictor only on the last step."""
    prediction, n = numpy_view(VP, view), len(ts) - 1
    alpha, sigma, lam, history = VP.alpha(ts), VP.sigma(ts), VP.lam(ts), [prediction(x, ts[0])]
    keeps, scales, sign = (sigma, -alpha, -1) if view == "data" else (alpha, -sigma, 1)
    for k in range(n):
        p = min(order, k + 1, n - k) if lower else min(order, k + 1)
        h = lam[k + 1] - lam[k]
        hh = sign * h
        scale = scales[k + 1] * (hh if variant == "bh1" else np.expm1(hh))  # with B(h)
        r = np.array([(lam[k - j] - lam[k]) / h for j in range(1, p)] + [1.0])
        psi, factorial, b = np.expm1(hh) / hh - 1, 1.0, []
        for i in range(1, p + 1):
            factorial *= i
            b.append(factorial * psi * scales[k + 1] / scale)
            psi = psi / hh - 1 / (factorial * (i + 1))
        matrix = np.array([r**i for i in range(p)])
        base = keeps[k + 1] / keeps[k] * x + scales[k + 1] * np.expm1(hh) * history[0]
        differences = [(history[j] - history[0]) / r[j - 1] for j in range(1, p)]
        rho = [0.5] if shortcuts and p == 2 else np.linalg.solve(matrix[: p - 1, : p - 1], b[: p - 1])
        predicted = base + scale * sum(c * d for c, d in zip(rho, differences, strict=True))
        if k == n - 1:
            return predicted
        new = prediction(predicted, ts[k + 1])
        rho = [0.5] if shortcuts and p == 1 else np.linalg.solve(matrix, b)
        total = sum(c * d for c, d in zip(rho, [*differences, new - history[0]], strict=True))
        x, history = base + scale * total if corrected[k] else predicted, [new, *history]
    raise AssertionError("the last step returns")


@pytest.mark.parametrize("view", ["data", "noise"])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    ("compat", "lower", "corrected"),
    [(True, True, [True] * 8), (True, False, [False, True] * 4), (False, True, [True] * 8)],
)
def test_published_formula(order, variant, view, compat, lower, corrected):
    """With the shortcuts of compat and without, lowered at the end or not, some steps left as predicted."""
    ts = time_grid(VP, 8, "logsnr", start=0.9)
    options = {"variant": variant, "view": view, "corrector": corrected, "lower_order_final": lower, "compat": compat}
    got = run_by_hand(unipc(VP, ts, order, **options), numpy_view(VP, view), starts(), None)
    want = by_formula(view, starts(), ts, order, variant, compat, lower, corrected)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def assert_same_numbers(table, want):
    for a, b in ((table.states, want.states), (table.evals, want.evals)):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_solved_in_full_it_is_stochastic_adams_without_noise(order, lower):
    ts = time_grid(VP, 9, "quadratic")
    want = sa(VP, ts, order, corrector=order + 1, tau=0.0, lower_order_final=lower)
    for variant in ("bh1", "bh2"):
        assert_same_numbers(unipc(VP, ts, order, variant=variant, lower_order_final=lower), want)


@pytest.mark.parametrize("lower", [False, True, "last"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_bh2_predictor_is_the_multistep_solver(order, lower):
    ts = time_grid(VP, 9, "quadratic")
    got = unipc(VP, ts, order, variant="bh2", corrector=False, lower_order_final=lower, compat=True)
    assert_same_numbers(got, dpmpp(VP, ts, order, lower_order_final=lower))


def test_the_bh1_predictor_of_order_2_is_that_of_stochastic_adams_in_few_steps():
    """There the exact weights of the difference, those of `sa`, are moved so that its moment is half of h squared."""
    ts = time_grid(VP, 9, "quadratic")
    alpha, lam, table = VP.alpha(ts), VP.lam(ts), sa(VP, ts, 2, tau=0.0, lower_order_final=False)
    evals = np.array(table.evals)
    for k in range(1, 9):
        h = lam[k + 1] - lam[k]
        moved = alpha[k + 1] * (h**2 / 2 - (h - 1 + np.exp(-h))) / (lam[k] - lam[k - 1])
        evals[k, 0, k % 2] += moved
        evals[k, 0, (k - 1) % 2] -= moved
    got = unipc(VP, ts, 2, variant="bh1", corrector=False, lower_order_final=False, compat=True)
    np.testing.assert_allclose(got.evals, evals, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("given", "argument"),
    [({"order": 5}, "`order`"), ({"variant": "bh3"}, "`variant`"), ({"view": "score"}, "`view`")]
    + [({"corrector": [True] * 4}, "`corrector`"), ({"lower_order_final": "first"}, "`lower_order_final`")],
)
def test_mistakes_are_named(given, argument):
    with pytest.raises(ValueError, match=argument):
        unipc(VP, [1.0, 0.5, 0.1], **given)
