import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, ends, flow_states, mixture, numpy_view, run_by_hand, starts
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline

import odekit
from odekit.samplers import V3Statistics, dpm, dpm_v3, gaussian, sa, time_grid, v3_statistics

LAM = np.linspace(-5.2, 4.7, 61)


def uniform(linear, slope, constant, pixels=()):
    return V3Statistics(LAM, *(np.full((61, *pixels), value) for value in (linear, slope, constant)))


def noised_data(n=2048):
    """Draws from the mixture, and unit normals."""
    random = np.random.default_rng(0)
    which = random.choice(3, n, p=[0.3, 0.5, 0.2])
    means, stds = np.array([[-1.2, -0.5], [1.0, 0.3], [0.1, 1.4]]), np.array([0.3, 0.4, 0.25])
    data = means[which] + stds[which, None] * random.standard_normal((n, 2))
    return jnp.asarray(data), jnp.asarray(random.standard_normal((n, 2)))


@pytest.fixture(scope="module")
def measured():
    """Statistics of the mixture from noised data; the noise at the start is x_init over sigma."""
    data, z = noised_data()
    return v3_statistics(mixture(VP), VP.sigma(1.0) * z, 600, data=data)


@pytest.mark.parametrize(
    ("schedule", "first", "last"),
    [
        (VP, 1.0, 1e-3),
        pytest.param(FM, 0.99, 0.01, marks=pytest.mark.slow),
        pytest.param(VE, 80.0, 0.002, marks=pytest.mark.slow),
    ],
)
def test_gaussian_data_are_sampled_exactly_in_one_step(schedule, first, last):
    mean, std = np.array([0.5, -1.0]), np.array([0.25, 0.8])
    model, ts = gaussian(mean, std, schedule), np.array([first, last])
    alpha, sigma = schedule.alpha(ts), schedule.sigma(ts)
    x = starts() * sigma[0]
    statistics = v3_statistics(model, jnp.asarray(x), 600, start=first, end=last)
    got = run_by_hand(dpm_v3(schedule, ts, statistics, 1), lambda x, t: np.asarray(model.data(x, t)), x, None)
    spread = np.hypot(alpha[1] * std, sigma[1]) / np.hypot(alpha[0] * std, sigma[0])
    np.testing.assert_allclose(got, alpha[1] * mean + spread * (x - alpha[0] * mean), rtol=0, atol=2e-8)


def test_statistics_of_gaussian_data_are_known():
    std = np.array([0.25, 0.8])
    model = gaussian([0.5, -1.0], std, VP)
    x, key = jnp.asarray(starts()), jax.random.key(0)
    exact, probed = (v3_statistics(model, x, 600, key=given) for given in (None, key))
    rho2 = np.exp(-2 * np.asarray(exact.lam))[:, None]
    np.testing.assert_allclose(exact.linear, rho2 / (std**2 + rho2), rtol=1e-10)
    np.testing.assert_allclose(probed.linear, exact.linear, rtol=1e-12)  # the Jacobian is diagonal
    np.testing.assert_array_equal(exact.slope, 0.0)


@pytest.mark.slow
def test_one_probe_estimates_the_diagonal(measured):
    data, z = noised_data()
    probed = v3_statistics(mixture(VP), VP.sigma(1.0) * z, 600, data=data, key=jax.random.key(1))
    np.testing.assert_allclose(probed.linear, measured.linear, atol=0.03)
    assert np.max(np.abs(probed.linear - measured.linear)) > 1e-4


def test_along_the_flow_the_statistics_are_those_of_noised_data(measured):
    """The law is the same; 2,048 draws of it differ."""
    _, z = noised_data()
    moved = v3_statistics(mixture(VP), z, 600)
    for name, scale in (("linear", 1.0), ("slope", 2.0), ("constant", 0.3)):
        gap = np.max(np.abs(getattr(moved, name) - getattr(measured, name)))
        assert gap < 0.06 * scale, f"{name}: {gap}"


ERRORS = {(1, None): (0.183, 0.119, 0.068), (3, "full"): (0.113, 0.0693, 0.00689)}


@pytest.mark.parametrize("form", ERRORS)
def test_errors_on_the_mixture(measured, form):
    order, corrector = form
    for n, printed in zip((5, 10, 20), ERRORS[form], strict=True):
        ts = time_grid(VP, n, "logsnr")
        table = dpm_v3(VP, ts, measured, order, corrector=corrector, lower_order_final=True)
        assert table.nfe == n
        end = run_by_hand(table, numpy_view(VP, "data"), starts(), None)
        value = np.sqrt(np.mean((end - ends("VP")) ** 2))
        assert abs(value - printed) < 0.005 * printed + 1e-12, f"{n}: {value:.4e}, not {printed}"


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("corrector", ["full", "same", None])
def test_without_statistics_it_is_a_known_solver(order, corrector):
    """Data prediction: exponential Adams with its corrector. Noise prediction: DPM-Solver with exact weights."""
    ts, x = time_grid(VP, 8, "quadratic"), starts()
    nodes = {"full": order + 1, "same": order if order > 1 else None, None: None}[corrector]
    want = run_by_hand(
        sa(VP, ts, order, corrector=nodes, tau=0.0, lower_order_final=False), numpy_view(VP, "data"), x, None
    )
    table = dpm_v3(VP, ts, uniform(1.0, 0.0, 0.0), order, corrector=corrector, lower_order_final=False)
    if corrector == "full" or order == 1:
        got = run_by_hand(table, numpy_view(VP, "data"), x, None)
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)
    if corrector is None:
        ts = time_grid(VP, 8, "quadratic", start=0.8)
        noise = dpm(VP, ts, order, variant="heun", lower_order_final=False)
        want = run_by_hand(noise, numpy_view(VP, "noise"), x, None)
        table = dpm_v3(VP, ts, uniform(0.0, -1.0, 0.0), order, corrector=None, lower_order_final=False)
        got = run_by_hand(table, numpy_view(VP, "data"), x, None)
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


def wavy(pixels=(2,)):
    """Statistics of no model, smooth in lam and different in every pixel."""
    phase = np.arange(1.0, 1.0 + np.prod(pixels)).reshape(pixels)
    lam = np.linspace(-2.0, 2.0, 801)
    at = lam.reshape(-1, *[1] * len(pixels))
    return V3Statistics(lam, *(0.4 + 0.5 * np.sin(phase * at + shift) for shift in (0.0, 1.0, 2.0)))


def curved(order):
    """Along lam, for `wavy`: y and f where what is carried to the start of every step is a polynomial of that order."""

    def rates(lam, state):
        linear, slope, constant = (0.4 + 0.5 * np.sin(np.arange(1.0, 3.0) * lam + shift) for shift in (0.0, 1.0, 2.0))
        (y, f, total), bump = state.reshape(3, 2), sum((k + 1) * lam**k for k in range(order - 1))
        # d(exp(-total) f)/dlam = exp(-total) constant + bump
        return np.concatenate([-linear * y - f, slope * f + constant + np.exp(total) * bump, slope])

    start = np.array([0.3, -1.2, 0.8, 0.5, 0.0, 0.0])
    return solve_ivp(rates, (-2.0, 2.0), start, "DOP853", rtol=1e-13, atol=1e-13, dense_output=True).sol


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("corrector", ["full", None])
def test_a_step_is_exact_for_polynomials_under_any_statistics(order, corrector):
    """Row by row from exact slots, for an affine model whose f is a given function of lam."""
    lam, exact = np.array([-1.7, -1.1, -0.8, 0.1, 0.6, 1.9]), curved(order)
    ts = VP.t_of_lam(lam)
    alpha, (y, f) = VP.alpha(ts), (exact(lam).T.reshape(-1, 3, 2)[:, i] for i in (0, 1))
    table = dpm_v3(VP, ts, wavy(), order, corrector=corrector, lower_order_final=False)
    linear = 0.4 + 0.5 * np.sin(np.arange(1.0, 3.0) * lam[:, None])
    for k in range(order, 5):
        history = [f[k - j] for j in range(1, table.states.shape[1])]
        base = [alpha[k - 1] * y[k - 1]] if corrector else []
        slots = [alpha[k] * y[k], *base, *history][: table.states.shape[1]]
        data = (1 - linear[k]) * y[k] - f[k]
        new = [
            sum(c * u for c, u in zip(table.states[k, a], slots, strict=True))
            + table.evals[k, a, 0] * data
            + table.offset[k, a]
            for a in range(len(slots))
        ]
        np.testing.assert_allclose(new[0], alpha[k + 1] * y[k + 1], rtol=0, atol=1e-9)
        if corrector:
            np.testing.assert_allclose(new[1], alpha[k] * y[k], rtol=0, atol=1e-9)


def test_pseudo_differences_keep_low_derivatives_at_low_order():
    """Order 3: the first derivative from two values, the second from three, and their two integrals, written out."""
    ts = time_grid(VP, 6, "quadratic")
    table = dpm_v3(VP, ts, uniform(1.0, 0.0, 0.0), 3, corrector=None, pseudo=True, lower_order_final=False)
    lam, view = VP.lam(ts), numpy_view(VP, "data")
    x, seen = starts(), []
    for k in range(6):
        seen.insert(0, view(x, ts[k]))
        h = lam[k + 1] - lam[k]
        new = VP.sigma(ts[k + 1]) / VP.sigma(ts[k]) * x - VP.alpha(ts[k + 1]) * np.expm1(-h) * seen[0]
        if k > 0:
            first = (seen[0] - seen[1]) / (lam[k] - lam[k - 1])
            new = new + VP.alpha(ts[k + 1]) * (h + np.expm1(-h)) * first
        if k > 1:
            older = (seen[1] - seen[2]) / (lam[k - 1] - lam[k - 2])
            second = 2 * (first - older) / (lam[k] - lam[k - 2])
            new = new + VP.alpha(ts[k + 1]) * (h**2 / 2 - h - np.expm1(-h)) * second
        x = new
    np.testing.assert_allclose(run_by_hand(table, view, starts(), None), x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("order", "slope"), [(1, 0.85), (2, 1.85), (3, 2.85)])
def test_slopes_from_exact_history(measured, order, slope):
    view, errors = numpy_view(VP, "data"), []
    for n in (64, 128):
        ts = time_grid(VP, n, "quadratic")
        states = flow_states("VP", tuple(ts[:3]))
        at = v3_linear(measured, ts[:2])
        older = [(1 - at[k]) * states[k] / VP.alpha(ts[k]) - view(states[k], ts[k]) for k in (1, 0)]
        table = dpm_v3(VP, ts, measured, order, corrector=None, lower_order_final=False)
        end = run_by_hand(table, view, [states[2], *older][:order], None, past=(0.0, 0.0))
        errors.append(np.sqrt(np.mean((end - ends("VP")) ** 2)))
    assert np.log2(errors[0] / errors[1]) > slope - 0.15


def v3_linear(statistics, ts):
    """(len(ts), 2) by a spline through the measured values."""
    return CubicSpline(np.asarray(statistics.lam), np.asarray(statistics.linear))(VP.lam(ts))


def test_statistics_are_saved_and_loaded(tmp_path, measured):
    odekit.save(tmp_path / "v3.safetensors", measured)
    back = odekit.load(tmp_path / "v3.safetensors", like=measured)
    for a, b in zip(jax.tree.leaves(measured), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(a, b)


def test_ends_without_data_and_without_noise():
    """There a step is the data prediction's, whatever the statistics."""
    ts = time_grid(FM, 6)
    view, seen = numpy_view(FM, "data"), []

    def noted(x, t):
        seen.append((x, view(x, t)))
        return seen[-1][1]

    for order in (1, 2, 3):
        seen.clear()
        table = dpm_v3(FM, ts, wavy(), order)
        end = run_by_hand(table, noted, starts(), None)
        np.testing.assert_allclose(end, seen[-1][1], rtol=1e-12)
        first = ts[1] * starts() + (1 - ts[1]) * seen[0][1]
        np.testing.assert_allclose(seen[1][0], first, rtol=1e-12)


@pytest.mark.slow
def test_gradients_reach_the_statistics():
    ts, plain = time_grid(VP, 3, start=0.4, end=0.1), wavy(())

    def total(slope):
        table = dpm_v3(VP, ts, V3Statistics(plain.lam, plain.linear, slope, plain.constant), 1, corrector=None)
        leaves = jax.tree.leaves(table)
        return sum((jnp if isinstance(slope, jax.core.Tracer) else np).sum(leaf * leaf) for leaf in leaves)

    slopes = jax.jit(jax.grad(total))(jnp.asarray(plain.slope))
    for k in (240, 560):
        up, down = (float(total(plain.slope + by * np.eye(801)[k])) for by in (1e-5, -1e-5))
        np.testing.assert_allclose((up - down) / 2e-5, slopes[k], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: dpm_v3(VP, [1.0, 0.5], wavy()), "`ts` runs from lam -5.025"),
        (lambda: dpm_v3(VP, [0.5, 0.1], wavy(), 4), "`order` is 4"),
        (lambda: dpm_v3(VP, [0.5, 0.1], wavy(), corrector="half"), "`corrector` is 'half'"),
        (lambda: V3Statistics(LAM**2, *[np.ones(61)] * 3), "`lam` has steps from"),
        (lambda: V3Statistics(LAM, np.ones((61, 2)), np.ones(61), np.ones(61)), "have shapes"),
        (lambda: v3_statistics(mixture(VP), jnp.zeros((4, 2)), 3), "`n` is 3"),
        (lambda: v3_statistics(mixture(FM), jnp.zeros((4, 2))), "lam is .*inf"),
    ],
)
def test_mistakes_are_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
