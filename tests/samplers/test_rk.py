import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, agrees, flow_error, numpy_view, run_by_hand, slope_with_history, starts

from odekit.samplers import adams, deis, dpmpp, euler, heun, rf, runge_kutta, time_grid, unipc
from odekit.solvers.runge_kutta import RungeKutta
from odekit.solvers.tableaus import RK4, Bosh3, Heun, Midpoint, Tsit5

FLOW = {  # builder, steps: rms error to the exact flow
    "euler": (euler, (5, 10, 20), (2.01e-1, 1.25e-1, 9.31e-2)),
    "heun": (lambda s, ts: heun(s, ts, euler_at_final=False), (2, 5, 10), (1.68e-1, 5.64e-2, 2.32e-2)),
    "midpoint": (rf, (2, 5, 10), (1.21e-1, 3.49e-2, 1.71e-2)),
    "midpoint with reuse": (lambda s, ts: rf(s, ts, reuse=True), (4, 9, 19), (8.25e-2, 3.58e-2, 1.59e-2)),
    "RK4": (lambda s, ts: runge_kutta(s, ts, RK4(), euler_at_final=False), (1, 2, 5), (1.67e-1, 7.32e-2, 7.12e-3)),
    "adams2": (lambda s, ts: adams(s, ts, 2), (5, 10, 20), (8.01e-2, 3.48e-2, 1.56e-2)),
    "adams3": (lambda s, ts: adams(s, ts, 3), (5, 10, 20), (9.06e-2, 4.50e-2, 1.10e-2)),
}
EXPLODING = {
    "euler": (euler, (5, 10, 20), (3.34e-1, 2.01e-1, 1.24e-1)),
    "heun": (heun, (2, 5, 10), (3.01e0, 5.71e-1, 1.01e-1)),
}


RHO = {  # rule in rho, its evaluations per step: error on uniform lam and quadratic grids of 5, 10, 20, uniform 10, 20
    "heun": (
        lambda ts: deis(VP, ts, 1, "rhork"),
        2,
        (15.1, 6.51e-1, 9.69e-2, 20.4, 2.81e-1, 4.64e-2, 2.20e-1, 4.58e-2),
    ),
    "midpoint": (
        lambda ts: runge_kutta(VP, ts, Midpoint(), "rho"),
        *(2, (2.25e-1, 1.32e-1, 4.92e-2, 2.67e-1, 8.92e-2, 3.17e-2, 9.58e-2, 2.93e-2)),
    ),
    "kutta": (
        lambda ts: deis(VP, ts, 2, "rhork"),
        *(3, (25.4, 3.93e-1, 3.30e-2, 25.4, 3.99e-1, 1.50e-2, 1.36e-1, 2.74e-2)),
    ),
    "classical": (
        lambda ts: deis(VP, ts, 3, "rhork"),
        *(4, (25.5, 2.49, 1.19e-1, 25.5, 3.77, 4.74e-2, 5.12e-1, 1.97e-2)),
    ),
}
RHO_SLOPES = {"heun": (2.00, 2.02), "midpoint": (1.96, 1.98), "kutta": (2.97, 2.98), "classical": (3.88, 4.03)}


@pytest.mark.parametrize("name", RHO)
def test_errors_of_rules_in_rho(name):
    build, stages, printed = RHO[name]
    grids = [(spacing, n) for spacing in ("logsnr", "quadratic") for n in (5, 10, 20)] + [("time", 10), ("time", 20)]
    for (spacing, n), want in zip(grids, printed, strict=True):
        value = flow_error(build(time_grid(VP, n // stages, spacing)), "VP")
        assert agrees(value, want), f"{spacing} {n}: {value:.4e}, not {want:.2e}"


@pytest.mark.parametrize("name", RHO)
def test_slopes_of_rules_in_rho(name):
    for spacing, slope in zip(("logsnr", "quadratic"), RHO_SLOPES[name], strict=True):
        coarse, fine = (flow_error(RHO[name][0](time_grid(VP, n, spacing)), "VP") for n in (64, 128))
        assert np.log2(coarse / fine) > slope - 0.15


@pytest.mark.parametrize("name", FLOW)
def test_errors_on_a_flow(name):
    build, steps, printed = FLOW[name]
    for n, want in zip(steps, printed, strict=True):
        value = flow_error(build(FM, time_grid(FM, n)), "FM")
        assert agrees(value, want), f"{n}: {value:.4e}, not {want:.2e}"


@pytest.mark.parametrize("name", EXPLODING)
def test_errors_on_an_exploding_path(name):
    build, steps, printed = EXPLODING[name]
    for n, want in zip(steps, printed, strict=True):
        value = flow_error(build(VE, time_grid(VE, n, "karras")), "VE")
        assert agrees(value, want), f"{n}: {value:.4e}, not {want:.2e}"


@pytest.mark.parametrize(("n", "nfe", "printed"), [(3, 5, 3.01), (5, 9, 1.04), (10, 19, 0.136)])
def test_heun_to_no_noise_ends_with_euler(n, nfe, printed):
    table = heun(VE, time_grid(VE, n, "karras", end="zero"))
    assert table.nfe == nfe
    assert agrees(flow_error(table, "VE"), printed)


@pytest.mark.parametrize(
    ("build", "slope"),
    [(euler, 1.16), (lambda s, ts: heun(s, ts, euler_at_final=False), 1.98), (adams, 1.99)]
    + [(lambda s, ts: adams(s, ts, 3), 2.13), (rf, 1.97), (lambda s, ts: rf(s, ts, reuse=True), 1.99)]
    + [(lambda s, ts: runge_kutta(s, ts, RK4(), euler_at_final=False), 3.92)],
)
def test_slopes_on_a_flow(build, slope):
    coarse, fine = (flow_error(build(FM, time_grid(FM, n)), "FM") for n in (128, 256))
    assert abs(np.log2(coarse / fine) - slope) < 0.15


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_adams_integrates_polynomials_in_time_once_it_has_its_history(order):
    """On any grid; the ramp is exact for what its own orders allow, so degrees are tested from the row that has all."""
    ts = np.array([1.0, 0.8, 0.7, 0.45, 0.3, 0.1])
    table = adams(VP, ts, order)
    for row in range(order - 1, 5):
        weights = {(row - j): float(table.evals[row, 0, (row - j) % order]) for j in range(order)}
        for degree in range(order):
            got = sum(w * ts[k] ** degree for k, w in weights.items())
            want = (ts[row + 1] ** (degree + 1) - ts[row] ** (degree + 1)) / (degree + 1)
            np.testing.assert_allclose(got, want, atol=1e-13)


@pytest.mark.parametrize("order", [3, 4])
def test_adams_with_exact_history_has_its_order(order):
    assert slope_with_history(lambda s, ts: adams(s, ts, order), order - 1, "time", "FM") > order - 0.15


def test_the_default_for_flows_is_the_more_accurate_one():
    """At every budget; the errors are those that the documentation states."""
    printed = {adams: (8.01e-2, 3.48e-2, 1.56e-2), dpmpp: (1.31e-1, 7.52e-2, 4.69e-2)}
    for builder, errors in printed.items():
        for n, want in zip((5, 10, 20), errors, strict=True):
            assert agrees(flow_error(builder(FM, time_grid(FM, n), 2), "FM"), want)
    for order in (1, 3):
        for n, best in zip((5, 10, 20), printed[adams], strict=True):
            assert flow_error(dpmpp(FM, time_grid(FM, n), order), "FM") > best
    assert agrees(flow_error(unipc(FM, time_grid(FM, 20), 2), "FM"), 4.99e-3)


def test_published_constant_step_weights():
    ts = np.linspace(1.0, 0.5, 6)
    rows = adams(VP, ts, 3).evals[4, 0]
    by_age = [float(rows[(4 - j) % 3]) / (ts[1] - ts[0]) for j in range(3)]
    np.testing.assert_allclose(by_age, [23 / 12, -16 / 12, 5 / 12], rtol=1e-12)


def test_orders_that_do_not_exist():
    with pytest.raises(ValueError, match="`order` is 5"):
        adams(VP, [1.0, 0.5], 5)


def by_formula(method, ts, x, field):
    """Any explicit rule on dx/dt = field, stage by stage."""
    for t, dt in zip(ts[:-1], np.diff(ts), strict=True):
        ks = []
        for row, c in zip(((), *method.a), method.c, strict=True):
            ks.append(field(x + dt * sum(a * k for a, k in zip(row, ks, strict=True)), t + c * dt))
        x = x + dt * sum(b * k for b, k in zip(method.b, ks, strict=True))
    return x


@pytest.mark.parametrize("method", [Midpoint(), Bosh3(), RK4(), Tsit5()], ids=lambda method: method.name)
def test_any_explicit_method_is_run_as_its_tableau_says(method):
    ts, velocity = time_grid(FM, 5, "quadratic"), numpy_view(FM, "velocity")
    table = runge_kutta(FM, ts, method, euler_at_final=False)
    assert table.nfe == 5 * len(method.b)
    want = by_formula(method, ts, starts(), velocity)
    np.testing.assert_allclose(run_by_hand(table, velocity, starts(), None), want, rtol=1e-12, atol=1e-12)
    # in rho: the state over alpha moves with the noise prediction
    ts, noise = time_grid(VP, 5, "logsnr", start=0.9), numpy_view(VP, "noise")
    rho, alpha = VP.sigma(ts) / VP.alpha(ts), VP.alpha(ts)

    def field(y, rho):
        t = VP.t_of_lam(-np.log(rho))
        return noise(VP.alpha(t) * y, t)

    want = alpha[-1] * by_formula(method, rho, starts() / alpha[0], field)
    got = run_by_hand(runge_kutta(VP, ts, method, "rho"), noise, starts(), None)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def test_rf_solver_is_the_midpoint_rule():
    """Its own formula: a Taylor step with the difference of velocities half a step apart."""
    ts, x, velocity = time_grid(FM, 6), starts(), numpy_view(FM, "velocity")
    for t, dt in zip(ts[:-1], np.diff(ts), strict=True):
        u = velocity(x, t)
        x = x + dt * u + dt**2 / 2 * (velocity(x + dt / 2 * u, t + dt / 2) - u) / (dt / 2)
    got = run_by_hand(rf(FM, ts), velocity, starts(), None)
    np.testing.assert_allclose(got, x, rtol=1e-12, atol=1e-13)


def test_heun_in_rho_is_the_deterministic_sampler_of_edm():
    ts = time_grid(VE, 6, "karras", end="zero")
    ours, theirs = (
        run_by_hand(table, numpy_view(VE, table.view), starts("VE"), None)
        for table in (runge_kutta(VE, ts, Heun(), "rho"), heun(VE, ts))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("method", "nfe"), [(Midpoint(), 12), (Heun(), 11), (RK4(), 21), (Bosh3(), 18)])
def test_only_a_stage_at_the_end_makes_the_last_step_eulers(method, nfe):
    """A grid that ends without noise: no model but one of velocities has a prediction there."""
    for variable in ("time", "rho"):
        table = runge_kutta(VE, time_grid(VE, 6, "karras", end="zero"), method, variable)
        assert table.nfe == nfe
        assert np.min(table.t) > 0


def test_there_and_back_errs_one_order_less():
    velocity, errors = numpy_view(FM, "velocity"), []
    for n in (16, 32):
        ts = time_grid(FM, n, start=0.99, end=0.01)
        end = run_by_hand(rf(FM, ts), velocity, starts(), None)
        errors.append(np.max(np.abs(run_by_hand(rf(FM, ts[::-1]), velocity, end, None) - starts())))
    assert np.log2(errors[0] / errors[1]) > 2.7


def test_coefficients_can_be_trained_through_the_builder():
    """The gradient along the one-parameter family of two-stage rules of order 2, against central differences."""
    ts, step = time_grid(VP, 3, start=0.9), 1e-6

    def loss(c):
        method = RungeKutta(a=((c,),), b=(1 - 0.5 / c, 0.5 / c), c=(0.0, c), order=2)
        return sum(
            np.sin(leaf).sum() if isinstance(c, float) else jnp.sum(jnp.sin(leaf))
            for leaf in jax.tree.leaves(runge_kutta(VP, ts, method, "rho"))
        )

    value, slope = jax.jit(jax.value_and_grad(loss))(jnp.array(0.6))
    np.testing.assert_allclose(value, loss(0.6), rtol=1e-13)
    np.testing.assert_allclose((loss(0.6 + step) - loss(0.6 - step)) / (2 * step), slope, rtol=1e-6)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="`variable` is 'lam'"):
        runge_kutta(VP, [1.0, 0.5], RK4(), "lam")
    with pytest.raises(ValueError, match="`ts` starts at 1, where there is no data"):
        runge_kutta(FM, [1.0, 0.5], RK4(), "rho")
