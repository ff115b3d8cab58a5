import jax
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, agrees, flow_error, law_error, numpy_view, run_by_hand, starts

from odekit.samplers import edm, heun, restart, time_grid

CHURN = {"churn": 40, "churn_min": 0.05, "churn_max": 50.0}
# noise_scale, None without churn: distance in law from Gaussian data at 2, 5, 10 steps, to two digits; slope
LAW = {
    None: (1.2, 0.27, 0.053, 2.01),
    1.003: (1.7, 0.41, 0.094, 1.17),
    1.0: (1.7, 0.41, 0.093, 1.95),
}
NOISE = np.random.RandomState(7).standard_normal((64, 64, 2))


@pytest.mark.parametrize("scale", LAW)
def test_law_on_gaussian_data(scale):
    *printed, slope = LAW[scale]
    given = {} if scale is None else {**CHURN, "noise_scale": scale}

    def error(n):
        return law_error(edm(VE, time_grid(VE, n, "karras"), **given), VE)

    for n, want in zip((2, 5, 10), printed, strict=True):
        assert abs(error(n) - want) <= 0.0505 * 10.0 ** np.floor(np.log10(want)), f"{n}: {error(n):.3e}, not {want}"
    assert abs(np.log2(error(128) / error(256)) - slope) < 0.15


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("probe", [1.0, 0.5, 2 / 3])
@pytest.mark.parametrize("churn_max", [50.0, np.inf])
def test_published_algorithm(order, probe, churn_max):
    """Stochastic sampler of the paper: churn, a step of the general second-order rule, Euler's for the last."""
    n, scale, view = 9, 1.01, numpy_view(VE, "data")
    level, x = time_grid(VE, n, "karras", end="zero"), 80 * starts()
    table = edm(VE, level, order, churn=30, churn_min=0.05, churn_max=churn_max, noise_scale=scale, probe=probe)
    drawn = {0: NOISE[table.nfe]} | {k: NOISE[order * k - 1] for k in range(1, n)}
    for k in range(n):
        gamma = min(30 / n, np.sqrt(2) - 1) if 0.05 <= level[k] <= churn_max else 0.0
        hat = level[k] * (1 + gamma)
        x = x + np.sqrt(hat**2 - level[k] ** 2) * scale * drawn[k]
        d, h = (x - view(x, hat)) / hat, level[k + 1] - hat
        if order == 1 or level[k + 1] == 0:
            x = x + h * d
        else:
            u, at = x + probe * h * d, hat + probe * h
            x = x + h * ((1 - 1 / (2 * probe)) * d + (u - view(u, at)) / at / (2 * probe))
    got = run_by_hand(table, numpy_view(VE, "noise"), 80 * starts(), NOISE)
    np.testing.assert_allclose(got, x, rtol=1e-10, atol=1e-11)


def test_without_churn_it_is_heun():
    for n, end in ((6, "zero"), (6, "min")):
        ts = time_grid(VE, n, "karras", end=end)
        ours, theirs = edm(VE, ts), heun(VE, ts)
        assert not ours.stochastic
        for name in ("t", "states", "evals"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("probe", [1.0, 0.5])
def test_the_schedule_does_not_matter(probe):
    """On one grid in lam, with churn, x / alpha is the same on every path."""
    lam, scaled = np.linspace(-4.0, 4.0, 7), []
    for schedule in (VP, FM, VE):
        ts = schedule.t_of_lam(lam)
        table = edm(schedule, ts, churn=2.0, churn_max=30.0, probe=probe)
        x = np.exp(4.0) * schedule.alpha(ts[0]) * starts()
        scaled.append(run_by_hand(table, numpy_view(schedule, "noise"), x, NOISE) / schedule.alpha(ts[-1]))
    for other in scaled[1:]:
        np.testing.assert_allclose(other, scaled[0], rtol=1e-9, atol=1e-9)


def test_the_first_step_is_churned_only_where_alpha_is_constant():
    assert float(edm(VP, time_grid(VP, 4), churn=1).start_noise) == 0.0
    assert float(edm(VE, time_grid(VE, 4), churn=1).start_noise) == pytest.approx(80 * np.sqrt(1.25**2 - 1))


@pytest.mark.parametrize("probe", [1.0, 0.5])
def test_order_on_the_mixture(probe):
    coarse, fine = (flow_error(edm(VP, time_grid(VP, n, "logsnr"), probe=probe), "VP") for n in (64, 128))
    assert np.log2(coarse / fine) > 1.85


def restarted(ts, intervals, x, view, z, scale=1.0):
    """The published loop: Heun on the main grid, and at the marked points up and back again, k times."""
    z = iter(z)
    marked = {int(np.argmin(abs(ts - low))): (n, k, high) for n, k, low, high in intervals}

    def step(x, s, t):
        d = (x - view(x, s)) / s
        u = x + (t - s) * d
        return u if t == 0 else x + (t - s) * (d + (u - view(u, t)) / t) / 2

    for i in range(len(ts) - 1):
        x = step(x, ts[i], ts[i + 1])
        n, k, high = marked.get(i + 1, (0, 0, 0.0))
        for _ in range(k):
            back = (high ** (1 / 7) + np.arange(n) / (n - 1) * (ts[i + 1] ** (1 / 7) - high ** (1 / 7))) ** 7
            x = x + np.sqrt(high**2 - ts[i + 1] ** 2) * scale * next(z)
            for s, t in zip(back[:-1], np.append(back[1:-1], ts[i + 1]), strict=True):
                x = step(x, s, t)
    return x


def test_published_restart():
    ts, scale, intervals = time_grid(VE, 9, "karras", end="zero"), 1.003, [(5, 2, 0.06, 0.30), (4, 1, 1.5, 9.0)]
    table = restart(VE, ts, intervals, noise_scale=scale)
    jumps = np.flatnonzero(np.asarray(table.noise)[:, 0])
    want = restarted(ts, intervals, 80 * starts(), numpy_view(VE, "data"), NOISE[jumps], scale)
    got = run_by_hand(table, numpy_view(VE, "noise"), 80 * starts(), NOISE)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-11)
    assert table.nfe == 17 + 2 * 2 * 4 + 2 * 3


def test_restarts_contract_the_error_in_law():
    ts = time_grid(VE, 10, "karras", end="zero")
    errors = [law_error(restart(VE, ts, [(12, k, 0.06, 0.30)]), VE) for k in (0, 1, 2, 4, 8)]
    for value, want in zip(errors, (6.80e-2, 3.07e-2, 1.36e-2, 3.10e-3, 9.30e-4), strict=True):
        assert agrees(value, want), f"{value:.4e}, not {want:.2e}"


def test_restarts_on_another_schedule():
    """Times mean the same levels, so x / alpha is the same."""
    lam, scaled = np.linspace(-4.0, 4.0, 9), []
    for schedule in (VP, VE):
        ts = schedule.t_of_lam(lam)
        table = restart(schedule, ts, [(4, 2, *schedule.t_of_lam(np.array([2.0, 0.5])))])
        x = np.exp(4.0) * schedule.alpha(ts[0]) * starts()
        scaled.append(run_by_hand(table, numpy_view(schedule, "noise"), x, NOISE) / schedule.alpha(ts[-1]))
    np.testing.assert_allclose(scaled[1], scaled[0], rtol=1e-9, atol=1e-9)


def test_no_interval_is_plain_heun():
    ts = time_grid(VE, 6, "karras")
    for a, b in zip(jax.tree.leaves(restart(VE, ts, [])), jax.tree.leaves(edm(VE, ts)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: edm(VE, [80.0, 1.0], 3), "`order` is 3"),
        (lambda: edm(VE, [80.0, 1.0], probe=0.0), "`probe` is 0.0"),
        (lambda: edm(FM, [1.0, 0.5]), "`ts` starts at 1"),
        (lambda: edm(VE, [1.0, 80.0], churn=1), "reverse it"),
        (lambda: restart(VE, [80.0, 1.0, 0.1], [(3, 1, 1.0, 0.5)]), "`intervals` holds"),
        (lambda: restart(VE, [80.0, 1.0, 0.0], [(3, 1, 0.1, 0.5)]), "`intervals` holds"),
        (lambda: restart(VE, [80.0, 1.0, 0.1], [(1, 1, 1.0, 2.0)]), "`intervals` holds"),
    ],
)
def test_mistakes_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
