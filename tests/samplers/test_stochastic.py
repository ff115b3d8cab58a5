import jax
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, agrees, flow_error, law_error, numpy_view, run_by_hand, starts

from odekit.samplers import ddim, sa, time_grid
from odekit.samplers import unipc as unipc_table

GRIDS = (("logsnr", 5), ("logsnr", 10), ("logsnr", 20), ("time", 20))
# (order, corrector, tau, tau of the last step): distance in law from Gaussian data on GRIDS
LAW = {
    (1, None, 1.0, 1.0): (1.28e-1, 8.32e-2, 4.95e-2, 7.85e-2),
    (2, None, 1.0, 1.0): (9.18e-4, 4.94e-2, 2.07e-2, 3.01e-1),
    (3, None, 1.0, 1.0): (1.38e-1, 1.09e-1, 6.52e-3, 1.36e0),
    (1, 2, 1.0, 0.0): (1.22e-1, 7.06e-2, 2.87e-2, 6.79e-2),
    (2, 2, 1.0, 0.0): (1.23e-2, 4.28e-2, 1.48e-2, 2.44e-1),
    (3, 4, 1.0, 0.0): (1.01e-1, 9.59e-2, 5.02e-3, 1.05e0),
    (3, 4, 0.5, 0.0): (8.69e-2, 2.81e-2, 7.78e-4, 5.26e-1),
}
# (order, corrector): rms error to the exact flow, tau=0, on logsnr and quadratic 5, 10, 20, time 10, 20
ERRORS = {
    (2, None): (2.46e-1, 9.80e-2, 2.93e-2, 2.98e-1, 7.97e-2, 1.86e-2, 4.96e-1, 1.75e-1),
    (4, None): (4.85e-1, 8.64e-2, 7.86e-3, 9.46e-1, 6.66e-1, 6.84e-2, 6.97e0, 3.34e0),
    (1, 2): (2.73e-1, 1.31e-1, 6.23e-2, 1.72e-1, 7.60e-2, 3.26e-2, 1.20e-1, 5.67e-2),
    (2, 2): (2.69e-1, 6.29e-2, 8.72e-3, 3.58e-1, 6.42e-2, 9.00e-3, 5.16e-1, 1.78e-1),
    (2, 3): (2.66e-1, 6.81e-2, 1.13e-2, 3.52e-1, 6.52e-2, 9.86e-3, 5.13e-1, 1.77e-1),
    (3, 3): (4.82e-1, 4.34e-2, 6.41e-3, 2.58e-1, 2.38e-1, 1.29e-2, 1.66e0, 8.08e-1),
    (3, 4): (4.82e-1, 4.14e-2, 6.28e-3, 2.56e-1, 2.35e-1, 1.29e-2, 1.65e0, 8.04e-1),
}
NOISE = np.random.RandomState(0).standard_normal((12, 64, 2))


def assert_same(table, x):
    got = run_by_hand(table, numpy_view(VP, "data"), starts(), NOISE)
    np.testing.assert_allclose(got, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("setting", LAW)
def test_law_on_gaussian_data(setting):
    order, corrector, tau, last = setting
    for (spacing, n), printed in zip(GRIDS, LAW[setting], strict=True):
        taus = np.append(np.full(n - 1, tau), last)
        table = sa(VP, time_grid(VP, n, spacing), order, corrector=corrector, tau=taus, lower_order_final=False)
        value = law_error(table, VP)
        assert agrees(value, printed), f"{spacing} {n}: {value:.4e}, not {printed:.2e}"


@pytest.mark.parametrize(("order", "slope"), [(1, 0.98), (2, 2.02), (3, 2.03)])
def test_slopes_in_law(order, slope):
    coarse, fine = (
        law_error(sa(VP, time_grid(VP, n, "logsnr"), order, lower_order_final=False), VP) for n in (128, 256)
    )
    assert abs(np.log2(coarse / fine) - slope) < 0.15


@pytest.mark.parametrize("setting", ERRORS)
def test_errors_on_the_mixture_without_noise(setting):
    order, corrector = setting
    grids = [(spacing, n) for spacing in ("logsnr", "quadratic") for n in (5, 10, 20)] + [("time", 10), ("time", 20)]
    for (spacing, n), printed in zip(grids, ERRORS[setting], strict=True):
        table = sa(VP, time_grid(VP, n, spacing), order, corrector=corrector, tau=0.0, lower_order_final=False)
        value = flow_error(table, "VP")
        assert agrees(value, printed), f"{spacing} {n}: {value:.4e}, not {printed:.2e}"


def test_order_1_is_ancestral_sampling():
    ts = time_grid(VP, 8)
    ours, theirs = sa(VP, ts, 1, tau=1.0), ddim(VP, ts, 1.0)
    for a, b in ((ours.states, theirs.states), (ours.evals, theirs.evals), (ours.noise, theirs.noise)):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("eta", [0.2, 0.7, 1.0])
def test_eta_and_tau_are_linked_step_by_step(eta):
    ts = time_grid(VP, 8)
    dlam = np.diff(VP.lam(ts))
    tau = np.sqrt(-np.log1p(eta**2 * np.expm1(-2 * dlam)) / (2 * dlam))
    ours, theirs = sa(VP, ts, 1, tau=tau), ddim(VP, ts, eta)
    for a, b in ((ours.states, theirs.states), (ours.evals, theirs.evals), (ours.noise, theirs.noise)):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_order_2_is_the_second_order_solver_of_the_reverse_sde(tau):
    """SDE-DPM-Solver++(2M) with the exact weight of the difference, written from its own formula."""
    ts, view = time_grid(VP, 9, "logsnr"), numpy_view(VP, "data")
    alpha, sigma, lam = VP.alpha(ts), VP.sigma(ts), VP.lam(ts)
    x, older = starts(), None
    for k in range(9):
        h = lam[k + 1] - lam[k]
        z, d = (1 + tau**2) * h, view(x, ts[k])
        lin = sigma[k + 1] / sigma[k] * np.exp(-(tau**2) * h)
        new = lin * x + alpha[k + 1] * -np.expm1(-z) * d
        if k > 0:
            r = (lam[k] - lam[k - 1]) / h
            new = new + alpha[k + 1] * (1 + np.expm1(-z) / z) * (d - older) / r
        x, older = new + sigma[k + 1] * np.sqrt(-np.expm1(-2 * tau**2 * h)) * NOISE[k], d
    assert_same(sa(VP, ts, 2, tau=tau, lower_order_final=False), x)


def unipc(schedule, ts, view, x, order, lower):
    """UniPC in its own terms (B(h) = h), every linear system solved in full, predictor only on the last step."""
    alpha, sigma, lam = schedule.alpha(ts), schedule.sigma(ts), schedule.lam(ts)
    n, history = len(ts) - 1, [view(x, ts[0])]
    for k in range(n):
        p = min(order, k + 1, n - k) if lower else min(order, k + 1)
        h = lam[k + 1] - lam[k]
        r = np.array([(lam[k - j] - lam[k]) / h for j in range(1, p)] + [1.0])
        psi, factorial, b = np.expm1(-h) / -h - 1, 1.0, []
        for i in range(1, p + 1):
            factorial *= i
            b.append(factorial * psi / -h)
            psi = psi / -h - 1 / (factorial * (i + 1))
        matrix = np.array([r**i for i in range(p)])
        base = sigma[k + 1] / sigma[k] * x - alpha[k + 1] * np.expm1(-h) * history[0]
        differences = [(history[j] - history[0]) / r[j - 1] for j in range(1, p)]
        rho = np.linalg.solve(matrix[: p - 1, : p - 1], b[: p - 1]) if p > 1 else []
        predicted = base + alpha[k + 1] * h * sum(c * d for c, d in zip(rho, differences, strict=True))
        if k == n - 1:
            return predicted
        new = view(predicted, ts[k + 1])
        rho = np.linalg.solve(matrix, b)
        total = sum(c * d for c, d in zip(rho, [*differences, new - history[0]], strict=True))
        x, history = base + alpha[k + 1] * h * total, [new, *history]
    raise AssertionError("the last step returns")


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("lower", [False, True])
def test_without_noise_it_is_unipc(order, lower):
    ts = time_grid(VP, 10, "logsnr")
    want = unipc(VP, ts, numpy_view(VP, "data"), starts(), order, lower)
    assert_same(sa(VP, ts, order, corrector=order + 1, tau=0.0, lower_order_final=lower), want)


@pytest.mark.parametrize("corrector", [None, 2, 4])
@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_paths_that_start_as_pure_noise_and_end_without_any(corrector, tau):
    for schedule, ts in ((FM, time_grid(FM, 8)), (VE, time_grid(VE, 8, "karras", end="zero"))):
        table = sa(schedule, ts, 3, corrector=corrector, tau=tau, lower_order_final=False)
        for leaf in (table.states, table.evals) if tau == 0 else (table.states, table.evals, table.noise):
            assert np.all(np.isfinite(leaf))
        assert law_error(table, schedule, std=0.0) < 1e-12


@pytest.mark.parametrize(
    ("given", "argument"),
    [({"order": 5}, "`order`"), ({"corrector": 1}, "`corrector`"), ({"tau": [1.0, 1.0, 1.0]}, "`tau`")],
)
def test_mistakes_are_named(given, argument):
    with pytest.raises(ValueError, match=argument):
        sa(VP, [1.0, 0.5, 0.1], **given)


def test_published_weights_for_few_steps():
    """The slope term with `h**2 / 2` for its integral, in predictor and corrector, one last step without noise."""
    n, view, tau = 8, numpy_view(VP, "data"), np.array([0.9] * 7 + [0.0])
    ts = time_grid(VP, n, "logsnr")
    alpha, sigma, lam = VP.alpha(ts), VP.sigma(ts), VP.lam(ts)
    x = predicted = starts()
    seen = [view(x, ts[0])]
    for k in range(n):
        h, q = lam[k + 1] - lam[k], 1 + tau[k] ** 2
        keep, exact = sigma[k + 1] / sigma[k] * np.exp(-(tau[k] ** 2) * h), -np.expm1(-q * h)
        fresh = sigma[k + 1] * np.sqrt(-np.expm1(-2 * tau[k] ** 2 * h)) * NOISE[k]
        slope = (seen[0] - seen[1]) / (lam[k] - lam[k - 1]) if 0 < k < n - 1 else 0.0
        predicted = keep * x + alpha[k + 1] * (exact * seen[0] + q * h**2 / 2 * slope) + fresh
        if k < n - 1:
            new = view(predicted, ts[k + 1])
            x = keep * x + alpha[k + 1] * (exact * seen[0] + q * h / 2 * (new - seen[0])) + fresh
            seen = [new, *seen]
    assert_same(sa(VP, ts, 2, corrector=2, tau=0.9, compat=True), predicted)


def test_without_noise_the_weights_for_few_steps_are_unipc():
    ts = time_grid(VP, 8, "logsnr")
    want = unipc_table(VP, ts, 2, variant="bh1", corrector=False, compat=True, lower_order_final=True)
    np.testing.assert_allclose(sa(VP, ts, 2, tau=0.0, compat=True).evals, want.evals, rtol=1e-12, atol=1e-14)


def test_tau_may_be_a_function_of_time():
    ts = time_grid(VP, 8)
    for corrector in (None, 3):
        ours = sa(VP, ts, 3, corrector=corrector, tau=lambda t: (t > 0.2) & (t < 0.8))
        theirs = sa(VP, ts, 3, corrector=corrector, tau=(ts[1:] > 0.2) & (ts[1:] < 0.8))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a, b)
