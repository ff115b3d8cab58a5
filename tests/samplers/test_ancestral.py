import numpy as np
import pytest
from cases_sampling import FM, VE, VP, agrees, law_error, numpy_view, run_by_hand, starts

from odekit.samplers import ancestral, ddim, ddpm, dpm, dpmpp, euler_maruyama, reverse_diffusion, sa, time_grid

GRIDS = (("logsnr", 5), ("logsnr", 10), ("logsnr", 20), ("time", 20))
BUILDERS = {
    "euler_maruyama": euler_maruyama,
    "small": ddpm,
    "large": lambda s, ts: ddpm(s, ts, "large"),
    "midpoint": lambda s, ts: ddpm(s, ts, midpoint_noise=True),
}
# distance in law from Gaussian data on GRIDS, slope uniform in lam
LAW = {
    "euler_maruyama": (1.02, 8.37e-2, 3.30e-2, 3.52e-2, 1.02),
    "small": (1.28e-1, 8.32e-2, 4.95e-2, 7.85e-2, 0.98),
    "large": (2.13e-1, 1.12e-1, 5.04e-2, 6.24e-2, 1.01),
    "midpoint": (3.43e-1, 7.94e-2, 1.93e-2, 1.89e-2, 2.00),
}
NOISE = np.random.RandomState(2).standard_normal((9, 64, 2))
Z = np.random.RandomState(6).standard_normal((16, 64, 2))


def assert_same(table, x, schedule=VP):
    got = run_by_hand(table, numpy_view(schedule, table.view), starts(), NOISE)
    np.testing.assert_allclose(got, x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", LAW)
def test_law_on_gaussian_data(name):
    *printed, slope = LAW[name]
    for (spacing, n), want in zip(GRIDS, printed, strict=True):
        value = law_error(BUILDERS[name](VP, time_grid(VP, n, spacing)), VP)
        assert agrees(value, want), f"{spacing} {n}: {value:.4e}, not {want:.2e}"
    coarse, fine = (law_error(BUILDERS[name](VP, time_grid(VP, n, "logsnr")), VP) for n in (128, 256))
    assert abs(np.log2(coarse / fine) - slope) < 0.15


def test_one_law_under_four_names():
    ts = time_grid(VP, 8)
    want = ddpm(VP, ts)
    for other in (ddim(VP, ts, 1.0), dpmpp(VP, ts, 1, tau=1.0), sa(VP, ts, 1, tau=1.0)):
        for name in ("states", "evals", "noise"):
            np.testing.assert_allclose(getattr(other, name), getattr(want, name), rtol=1e-12, atol=1e-15)


def test_published_large_variance():
    """In the noise prediction and the rates beta of the chain."""
    ts, x, view = time_grid(VP, 8), starts(), numpy_view(VP, "noise")
    alpha, sigma = VP.alpha(ts), VP.sigma(ts)
    for k in range(8):
        beta = 1 - (alpha[k] / alpha[k + 1]) ** 2
        x = (x - beta / sigma[k] * view(x, ts[k])) / np.sqrt(1 - beta) + np.sqrt(beta) * NOISE[k]
    assert_same(ddpm(VP, ts, "large"), x)


def test_published_midpoint_noise():
    """Two draws per step; between evaluations only the sum of two of them matters, which is the row's one draw."""
    ts, view = time_grid(VP, 8), numpy_view(VP, "score")
    a = (VP.alpha(ts)[:-1] / VP.alpha(ts)[1:]) ** 2
    table = ddpm(VP, ts, midpoint_noise=True)
    first, second = np.random.RandomState(3).standard_normal((2, 8, 64, 2))
    x, joint = starts(), []
    for k in range(8):
        y = x + np.sqrt((1 - a[k]) / 2) * first[k]
        x = (y + (1 - a[k]) * view(y, ts[k]) + np.sqrt((1 - a[k]) / 2) * second[k]) / np.sqrt(a[k])
        sum_of_two = np.sqrt((1 - a[k]) / 2) * second[k] / np.sqrt(a[k])
        if k < 7:
            sum_of_two = sum_of_two + np.sqrt((1 - a[k + 1]) / 2) * first[k + 1]
        joint.append(sum_of_two / float(table.noise[k, 0]))
    z = np.array([*joint, first[0]])
    got = run_by_hand(table, numpy_view(VP, "noise"), starts(), z)
    np.testing.assert_allclose(got, x, rtol=1e-11, atol=1e-11)
    want = np.sqrt((1 - a[:-1]) / 2 / a[:-1] + (1 - a[1:]) / 2)  # and that draw has unit variance
    np.testing.assert_allclose(table.noise[:-1, 0], want, rtol=1e-12)


@pytest.mark.parametrize("schedule", [VP, VE])
def test_published_reverse_diffusion(schedule):
    ts, view = time_grid(schedule, 8, "karras"), numpy_view(schedule, "score")
    alpha, sigma, x = schedule.alpha(ts), schedule.sigma(ts), starts()
    for k in range(8):
        beta = 1 - (alpha[k] / alpha[k + 1]) ** 2
        variance = sigma[k] ** 2 - sigma[k + 1] ** 2 if schedule is VE else beta
        mean = x if schedule is VE else (2 - np.sqrt(1 - beta)) * x
        x = mean + variance * view(x, ts[k]) + np.sqrt(variance) * NOISE[k]
    assert_same(reverse_diffusion(schedule, ts), x, schedule)


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0])
def test_euler_maruyama_formula(tau):
    """Drift and diffusion of the variance-preserving SDE, `f = -beta/2` and `g**2 = beta`."""
    ts, view, x = time_grid(VP, 8), numpy_view(VP, "score"), starts()
    for k in range(8):
        beta, dt = 0.1 + 19.9 * ts[k], ts[k + 1] - ts[k]
        drift = -beta / 2 * x - (1 + tau**2) / 2 * beta * view(x, ts[k])
        x = x + dt * drift + tau * np.sqrt(-beta * dt) * NOISE[k]
    assert_same(euler_maruyama(VP, ts, tau), x)


def test_no_noise_is_added_to_a_last_point_without_any():
    for variance in ("small", "large"):
        table = ddpm(FM, [1.0, 0.5, 0.0], variance)
        assert table.noise[0, 0] > 0
        assert table.noise[-1, 0] == 0


@pytest.mark.parametrize("build", BUILDERS.values())
def test_grids_the_wrong_way(build):
    with pytest.raises(ValueError, match="reverse it"):
        build(VP, [0.1, 0.5, 1.0])


@pytest.mark.parametrize("build", [BUILDERS["midpoint"], euler_maruyama])
def test_first_points_without_data(build):
    with pytest.raises(ValueError, match="`ts` starts at 1"):
        build(FM, [1.0, 0.5, 0.0])


def test_variances_that_do_not_exist():
    with pytest.raises(ValueError, match="`variance` is 'learned'"):
        ddpm(VP, [1.0, 0.5], "learned")


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("view", ["data", "noise"])
def test_published_ancestral_steps(view, eta):
    """As in k-diffusion, in the noise levels of the variance-exploding path."""
    level, predict, x = time_grid(VE, 8, "karras", end="zero"), numpy_view(VE, "data"), 80 * starts()
    for k in range(8):
        s, t, d = level[k], level[k + 1], predict(x, level[k])
        up = min(t, eta * np.sqrt(t**2 * (s**2 - t**2) / s**2))
        down = np.sqrt(t**2 - up**2)
        if down == 0:
            x = x + (x - d) / s * (down - s)
        elif view == "noise":
            middle = np.exp((np.log(s) + np.log(down)) / 2)
            u = x + (x - d) / s * (middle - s)
            x = x + (u - predict(u, middle)) / middle * (down - s)
        else:
            h = np.log(s) - np.log(down)
            middle = np.exp(-(-np.log(s) + h / 2))
            u = middle / s * x - np.expm1(-h / 2) * d
            x = down / s * x - np.expm1(-h) * predict(u, middle)
        x = x + up * Z[2 * k + 1 if k < 7 else 14]
    table = ancestral(VE, level, view, eta=eta)
    got = run_by_hand(table, numpy_view(VE, view), 80 * starts(), Z)
    np.testing.assert_allclose(got, x, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("view", "printed"), [("data", (8.49e-2, 3.46e-2)), ("noise", (4.34e-1, 8.25e-2))])
def test_ancestral_steps_are_second_order_in_law(view, printed):
    def error(n):
        return law_error(ancestral(VP, time_grid(VP, n, "logsnr"), view), VP)

    for n, want in zip((5, 10), printed, strict=True):
        assert agrees(error(n), want), f"{n}: {error(n):.4e}, not {want:.2e}"
    assert abs(np.log2(error(128) / error(256)) - 2) < 0.15


@pytest.mark.parametrize(("view", "build"), [("data", dpmpp), ("noise", dpm)])
def test_ancestral_steps_without_noise_are_single_steps(view, build):
    ts = time_grid(VP, 8)
    ours, theirs = ancestral(VP, ts, view, eta=0.0), build(VP, ts, 2, "singlestep")
    for name in ("t", "states", "evals"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-12, atol=1e-14)
