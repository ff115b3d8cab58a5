import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import agrees, mixture, numpy_view, run_by_hand, starts
from scipy.integrate import solve_ivp

from odekit.samplers import Denoiser, dbim, ddbm, ddim, sample, time_grid
from odekit.schedules import EDM, Bridge, VPLinear

VPB = Bridge(VPLinear(0.1, 2.1), t_start=1 - 1e-3, t_end=1e-4)
VEB = Bridge(EDM(), t_end=0.1)
PIN, Z = starts()[::-1], np.random.RandomState(0).standard_normal((257, 64, 2))
MEAN = np.array([0.3, 0.5, 0.2]) @ np.array([[-1.2, -0.5], [1.0, 0.3], [0.1, 1.4]])


def data_view(bridge, pin):
    """The data prediction of the mixture on bridges to `pin`, which is all mixture still at the pinned end."""
    around = numpy_view(bridge, "data")
    return lambda x, t: MEAN + 0 * x if t == bridge.t_pin else around(x - bridge.a(t) * pin, t)


@functools.cache
def exact_end():
    """Where the flow takes what the first row of `dbim` makes of `PIN` with noise `starts()`."""
    noise = numpy_view(VPB, "noise")

    def slope(lam, y):
        t = VPB.t_of_lam(lam)
        return -np.exp(-lam) * noise(VPB.alpha(t) * y.reshape(64, 2), t).ravel()

    t0, t1 = VPB.t_start, VPB.t_end
    y = (VPB.alpha(t0) * MEAN + VPB.sigma(t0) * starts()) / VPB.alpha(t0)
    lams = VPB.lam(t0), VPB.lam(t1)
    solved = solve_ivp(slope, lams, y.ravel(), method="DOP853", rtol=1e-9, atol=1e-10)
    return VPB.alpha(t1) * solved.y[:, -1].reshape(64, 2) + VPB.a(t1) * PIN


def flow_error(table):
    z = np.concatenate([starts()[None], Z])
    return np.sqrt(np.mean((run_by_hand(table, data_view(VPB, PIN), PIN, z) - exact_end()) ** 2))


@pytest.mark.parametrize(
    ("spacing", "order", "lower", "printed"),
    [
        ("time", 2, True, (1.93e-1, 1.31e-1, 9.68e-2)),
        ("logsnr", 1, False, (2.88e-1, 1.80e-1, 1.11e-1)),
        ("logsnr", 2, False, (2.89e-1, 8.69e-2, 2.69e-2)),
        ("logsnr", 3, False, (3.68e-1, 2.76e-2, 8.51e-3)),
    ],
)
def test_errors_of_dbim(spacing, order, lower, printed):
    for n, want in zip((5, 10, 20), printed, strict=True):
        value = flow_error(dbim(VPB, time_grid(VPB, n, spacing), order, lower_order_final=lower))
        assert agrees(value, want), f"{n}: {value:.4e}, not {want:.2e}"


@pytest.mark.parametrize(("order", "slope"), [(1, 0.88), (2, 1.98), (3, 2.61)])
def test_slopes_of_dbim(order, slope):
    coarse, fine = (flow_error(dbim(VPB, time_grid(VPB, n, "logsnr"), order)) for n in (128, 256))
    assert np.log2(coarse / fine) > slope - 0.15


@pytest.mark.parametrize("bridge", [VPB, VEB])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_dbim_is_ddim_around_the_pinned_end(bridge, eta):
    """Also as published: with `omega = eta sigma sqrt(1 - rho1**2 / rho0**2)` of the base diffusion."""
    ts, view, base = time_grid(bridge, 8), data_view(bridge, PIN), bridge.schedule
    got = run_by_hand(dbim(bridge, ts, eta=eta), view, PIN, Z)
    a, b, c, rho = bridge.a(ts), bridge.alpha(ts), bridge.sigma(ts), base.sigma(ts) / base.alpha(ts)
    start = x = a[0] * PIN + b[0] * MEAN + c[0] * Z[0]
    for k in range(8):
        omega = eta * base.sigma(ts[k + 1]) * np.sqrt(1 - (rho[k + 1] / rho[k]) ** 2)
        keep, data = np.sqrt(c[k + 1] ** 2 - omega**2) / c[k], view(x, ts[k])
        x = keep * x + (b[k + 1] - keep * b[k]) * data + (a[k + 1] - keep * a[k]) * PIN + omega * Z[k + 1]
    np.testing.assert_allclose(got, x, rtol=1e-11, atol=1e-12)
    around = run_by_hand(ddim(bridge, ts, eta), numpy_view(bridge, "data"), start - a[0] * PIN, Z[1:])
    np.testing.assert_allclose(got, around + a[-1] * PIN, rtol=1e-11, atol=1e-12)


def test_high_orders_are_exponential_adams_around_the_pinned_end():
    """The update of order 3 from its own formula, with the second difference's full weight."""
    ts, view = time_grid(VPB, 9, "logsnr"), data_view(VPB, PIN)
    a, b, c, lam = VPB.a(ts), VPB.alpha(ts), VPB.sigma(ts), VPB.lam(ts)
    x, seen = a[0] * PIN + b[0] * MEAN + c[0] * Z[0], []
    for k in range(9):
        seen.insert(0, view(x, ts[k]))
        h, low = lam[k + 1] - lam[k], np.exp(lam[k] - lam[k + 1])
        new = c[k + 1] / c[k] * (x - a[k] * PIN) + a[k + 1] * PIN + b[k + 1] * (1 - low) * seen[0]
        if k > 0:
            first, slope = (seen[0] - seen[1]) / (lam[k] - lam[k - 1]), 0.0
            if k > 1:
                older = (seen[1] - seen[2]) / (lam[k - 1] - lam[k - 2])
                slope = (first - older) / (lam[k] - lam[k - 2])
                first = first + slope * (lam[k] - lam[k - 1])
            new = new + b[k + 1] * ((h - 1 + low) * first + (h**2 - 2 * h + 2 - 2 * low) * slope)
        x = new
    got = run_by_hand(dbim(VPB, ts, 3, lower_order_final=False), view, PIN, Z)
    np.testing.assert_allclose(got, x, rtol=1e-10, atol=1e-10)


def law_error(table, bridge, pin=0.8, mean=0.5, std=0.25):
    """As for diffusions, of one bridge: the state as coefficients of (1, the normal of row 0, of row 1 ...)."""
    one = np.eye(table.nfe + 1)[0]

    def data(x, t):
        if t == bridge.t_pin:
            return mean * one
        a, b, c = bridge.a(t), bridge.alpha(t), bridge.sigma(t)
        return mean * one + b * std**2 / (b**2 * std**2 + c**2) * (x - (a * pin + b * mean) * one)

    end = run_by_hand(table, data, pin * one, np.eye(table.nfe + 1)[1:])
    t = float(table.t_state[-1])
    want = bridge.a(t) * pin + bridge.alpha(t) * mean, np.hypot(bridge.alpha(t) * std, bridge.sigma(t))
    return np.hypot(end[0] - want[0], np.linalg.norm(end[1:]) - want[1])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_law_of_dbim(eta):
    coarse, fine = (law_error(dbim(VPB, time_grid(VPB, n, "logsnr"), eta=eta), VPB) for n in (64, 128))
    assert fine < 0.02
    assert np.log2(coarse / fine) > 0.85
    assert law_error(dbim(VPB, time_grid(VPB, 9), eta=eta), VPB, std=0.0) < 1e-14


def karras(bridge, n):
    """Powers of 1/7 in time, from just after the pinned end."""
    ends = np.array([bridge.t_pin * (1 - 1e-4), bridge.t_end]) ** (1 / 7)
    return np.linspace(*ends, n + 1) ** 7


def test_law_of_ddbm():
    """Of order 1 in law with churn; on a bridge nothing but noise can leave the pinned end, so without it none does."""
    errors = [law_error(ddbm(VPB, karras(VPB, n)), VPB) for n in (20, 40, 80)]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.03


@pytest.mark.parametrize("bridge", [VPB, VEB])
@pytest.mark.parametrize("churn", [0.0, 0.33])
def test_ddbm_is_its_published_drift(bridge, churn):
    """`f x - g**2 (score / 2 - pull)` and the SDE with the whole score, `pull` the gradient of p(x_T | x)."""
    ts, view, base = karras(bridge, 5), data_view(bridge, PIN), bridge.schedule
    alpha_pin, rho_pin = base.alpha(bridge.t_pin), base.sigma(bridge.t_pin) / base.alpha(bridge.t_pin)

    def drift(x, t, share):
        f = base.alpha_dot(t) / base.alpha(t)
        g2 = 2 * base.sigma(t) * base.sigma_dot(t) - 2 * f * base.sigma(t) ** 2
        score = -(x - bridge.a(t) * PIN - bridge.alpha(t) * view(x, t)) / bridge.sigma(t) ** 2
        gap = base.alpha(t) ** 2 * (rho_pin**2 - (base.sigma(t) / base.alpha(t)) ** 2)
        return f * x - g2 * (share * score - (base.alpha(t) / alpha_pin * PIN - x) / gap), np.sqrt(g2)

    x = PIN
    for k in range(5):
        middle = ts[k] + churn * (ts[k + 1] - ts[k])
        if churn:
            slope, g = drift(x, ts[k], 1.0)
            x = x + (middle - ts[k]) * slope + g * np.sqrt(ts[k] - middle) * Z[3 * k]
        dt = ts[k + 1] - middle
        first = drift(x, middle, 0.5)[0]
        x = x + dt / 2 * (first + drift(x + dt * first, ts[k + 1], 0.5)[0])
    got = run_by_hand(ddbm(bridge, ts, churn), view, PIN, Z)
    np.testing.assert_allclose(got, x, rtol=1e-8, atol=1e-8 * np.max(np.abs(x)))


BUILDS = {
    "dbim3": lambda s, ts: dbim(s, ts, 3, lower_order_final=True),
    "ddbm": ddbm,
}


@pytest.mark.parametrize("name", ["dbim3", pytest.param("ddbm", marks=pytest.mark.slow)])
def test_a_grid_being_trained_gives_the_same_numbers_and_their_derivatives(name):
    ts, build = time_grid(VPB, 4), BUILDS[name]
    direction = np.array([0.0, 0.3, -0.2, 0.1, 0.0])
    along = (jnp.asarray(ts),), (jnp.asarray(direction),)
    traced, slopes = jax.jit(lambda along: jax.jvp(lambda ts: build(VPB, ts), *along))(along)
    up, down = (jax.tree.leaves(build(VPB, ts + by * direction)) for by in (1e-6, -1e-6))
    for k, leaf in enumerate(jax.tree.leaves(build(VPB, ts))):
        np.testing.assert_allclose(jax.tree.leaves(traced)[k], leaf, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(jax.tree.leaves(slopes)[k], (up[k] - down[k]) / 2e-6, rtol=1e-6, atol=1e-5)


def test_a_network_that_is_told_the_pinned_end():
    """By `cond`, in the loop; the keys of the noise are those of the rows."""
    exact = mixture(VPB)

    def fn(x, t, cond):
        return jnp.where(t == 1.0, jnp.broadcast_to(jnp.asarray(MEAN), x.shape), exact.data(x - VPB.a(t) * cond, t))

    table, key, pin = dbim(VPB, time_grid(VPB, 6), eta=0.5), jax.random.key(0), jnp.asarray(PIN)
    got = sample(Denoiser(fn, VPB, "data"), table, pin, key=key, cond=pin)
    z = [jax.random.normal(jax.random.fold_in(key, k), pin.shape) for k in range(7)]
    np.testing.assert_allclose(got, run_by_hand(table, data_view(VPB, PIN), PIN, np.asarray(z)), rtol=1e-10)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: dbim(VPB, [0.9, 0.1], 4), "`order` is 4"),
        (lambda: dbim(VPB, [0.9, 0.1], 2, 0.5), "only order 1 adds noise"),
        (lambda: dbim(VPB, [1.0, 0.1]), "`ts` starts at 1, where there is no noise"),
        (lambda: ddbm(VPB, [0.9, 0.1], 1.0), "`churn` is 1.0"),
        (lambda: ddbm(VEB, [10.0, 0.0]), "`ts` ends at 0, where there is no noise"),
    ],
)
def test_mistakes_are_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
