import jax
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, agrees, law_error, numpy_view, run_by_hand, starts

from odekit.samplers import ddim, dpmpp, seeds, time_grid

STEPS = (("logsnr", 2), ("logsnr", 5), ("logsnr", 10), ("time", 10))
# (order, view): distance in law from Gaussian data on STEPS, slope uniform in lam
LAW = {
    (2, "data"): (1.43e-1, 7.37e-2, 3.32e-2, 9.61e-2, 1.98),
    (2, "noise"): (1.64e4, 2.11e3, 2.90, 4.15e-1, 3.3),
}
NOISE = np.random.RandomState(5).standard_normal((24, 64, 2))


@pytest.mark.parametrize("setting", LAW)
def test_law_on_gaussian_data(setting):
    *printed, slope = LAW[setting]
    for (spacing, n), want in zip(STEPS, printed, strict=True):
        value = law_error(seeds(VP, time_grid(VP, n, spacing), *setting), VP)
        assert agrees(value, want), f"{spacing} {n}: {value:.4e}, not {want:.2e}"
    coarse, fine = (law_error(seeds(VP, time_grid(VP, n, "logsnr"), *setting), VP) for n in (128, 256))
    assert abs(np.log2(coarse / fine) - slope) < 0.15


def test_order_3_is_second_order_in_law_with_a_smaller_constant():
    def error(order, n):
        return law_error(seeds(VP, time_grid(VP, n, "logsnr"), order), VP)

    assert abs(np.log2(error(3, 192) / error(3, 384)) - 2) < 0.15
    assert error(3, 128) < error(2, 192) / 4  # at equal evaluations


def stages(order):
    return {2: (1 / 2,), 3: (1 / 3, 2 / 3)}[order]


@pytest.mark.parametrize("tau", [0.6, 1.0])
@pytest.mark.parametrize("order", [2, 3])
def test_published_data_form(order, tau):
    """Stages of DPM-Solver++ with (1 + eta) h; the noise of a stage fades on the way to the next."""
    n, eta, view, x, z = 6, tau**2, numpy_view(VP, "data"), starts(), iter(NOISE)
    ts = time_grid(VP, n, "logsnr")
    lam, r = VP.lam(ts), (*stages(order), 1.0)
    for k in range(n):
        h, start = lam[k + 1] - lam[k], x
        seen, faded, before = [view(start, ts[k])], 0.0, 0.0
        for i, part in enumerate(r):
            t = ts[k + 1] if part == 1 else VP.t_of_lam(lam[k] + part * h)
            w = part * h * (1 + eta)
            phi1, phi2 = -np.expm1(-w), 1 + np.expm1(-w) / w
            if i == 0:
                drift = phi1 * seen[0]
            elif order == 2:
                drift = phi1 * seen[1]
            else:  # both later stages of order 3 are linear through the first and the newest evaluation
                drift = phi1 * seen[0] + part / r[i - 1] * phi2 * (seen[i] - seen[0])
            faded = np.exp((before - part) * h * eta) * faded
            faded = faded + np.sqrt(-np.expm1(2 * (before - part) * h * eta)) * next(z)
            x = VP.sigma(t) / VP.sigma(ts[k]) * np.exp(-part * h * eta) * start + VP.alpha(t) * drift
            x = x + VP.sigma(t) * faded
            before = part
            seen.append(view(x, t) if part < 1 else None)
    got = run_by_hand(seeds(VP, ts, order, tau=tau), view, starts(), NOISE)
    np.testing.assert_allclose(got, x, rtol=1e-11, atol=1e-11)


def test_published_noise_form():
    n, view, x = 6, numpy_view(VP, "noise"), starts()
    ts = time_grid(VP, n, "logsnr")
    alpha, sigma, lam = VP.alpha(ts), VP.sigma(ts), VP.lam(ts)
    for k in range(n):
        h, z1, z2 = lam[k + 1] - lam[k], NOISE[2 * k], NOISE[2 * k + 1]
        middle = VP.t_of_lam(lam[k] + h / 2)
        u = VP.alpha(middle) / alpha[k] * x - 2 * VP.sigma(middle) * np.expm1(h / 2) * view(x, ts[k])
        u = u + VP.sigma(middle) * np.sqrt(np.expm1(h)) * z1
        drift = alpha[k + 1] / alpha[k] * x - 2 * sigma[k + 1] * np.expm1(h) * view(u, middle)
        x = drift + sigma[k + 1] * (np.sqrt(np.exp(2 * h) - np.exp(h)) * z1 + np.sqrt(np.expm1(h)) * z2)
    got = run_by_hand(seeds(VP, ts, view="noise"), view, starts(), NOISE)
    np.testing.assert_allclose(got, x, rtol=1e-10, atol=1e-11 * np.max(np.abs(x)))


def test_order_1_is_ancestral_sampling():
    ts = time_grid(VP, 8)
    ours, theirs = (
        run_by_hand(t, numpy_view(VP, "data"), starts(), NOISE) for t in (seeds(VP, ts, 1), ddim(VP, ts, 1))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_without_noise_it_is_single_step_dpm_solver(order):
    ts = time_grid(VP, 6)
    ours, theirs = seeds(VP, ts, order, tau=0.0), dpmpp(VP, ts, order, "singlestep")
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_noise_in_some_steps_only():
    ts = time_grid(VP, 6)
    table = seeds(VP, ts, tau=lambda t: t > 0.3)
    assert np.all((np.asarray(table.noise)[:, 0] > 0) == np.repeat(ts[1:] > 0.3, 2))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_paths_from_pure_noise_to_none(order):
    for schedule, ts in ((FM, time_grid(FM, 6)), (VE, time_grid(VE, 6, "karras", end="zero"))):
        table = seeds(schedule, ts, order)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(table))
        assert law_error(table, schedule, std=0.0) < 1e-12


@pytest.mark.parametrize(("given", "argument"), [({"order": 4}, "`order`"), ({"view": "score"}, "`view`")])
def test_mistakes_are_named(given, argument):
    with pytest.raises(ValueError, match=argument):
        seeds(VP, [1.0, 0.5, 0.1], **given)
