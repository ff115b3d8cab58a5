import jax
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
    numpy_view,
    run_by_hand,
    slope_with_history,
    starts,
)

from odekit.samplers import adams, ddim, deis, dpm, time_grid

# (kind, order): rms error to the exact flow, slope uniform in lam and quadratic
MIXTURE = {
    ("tab", 1): (2.22e-1, 1.07e-1, 5.45e-2, 1.51e-1, 7.88e-2, 3.51e-2, 8.65e-2, 3.32e-2, 1.98, 1.98),
    ("tab", 2): (1.64e-1, 7.31e-2, 3.13e-2, 1.20e-1, 4.81e-2, 1.42e-2, 7.92e-2, 1.81e-2, 2.81, 2.89),
    ("tab", 3): (1.54e-1, 5.51e-2, 1.87e-2, 1.18e-1, 3.69e-2, 6.17e-3, 9.15e-2, 2.22e-2, 3.66, 3.55),
    ("rhoab", 1): (2.84e-1, 1.48e-1, 7.50e-2, 1.92e-1, 1.07e-1, 5.91e-2, 1.01e-1, 4.38e-2, 2.01, 1.98),
    ("rhoab", 2): (2.81e-1, 1.34e-1, 5.74e-2, 1.89e-1, 1.01e-1, 3.79e-2, 9.15e-2, 2.43e-2, 2.85, 2.88),
    ("rhoab", 3): (2.80e-1, 1.29e-1, 4.94e-2, 1.89e-1, 1.00e-1, 3.19e-2, 9.11e-2, 2.12e-2, 3.71, 3.70),
}


@pytest.mark.parametrize(("kind", "order"), MIXTURE)
def test_errors_and_slopes_on_the_mixture(kind, order):
    *printed, uniform, quadratic = MIXTURE[kind, order]

    def build(schedule, ts):
        return deis(schedule, ts, order, kind)

    assert_errors(build, printed)
    for spacing, slope in (("logsnr", uniform), ("quadratic", quadratic)):
        value = flow_slope(build, spacing) if order == 1 else slope_with_history(build, order, spacing)
        assert value > slope - 0.15


@pytest.mark.parametrize("order", [1, 2, 3])
def test_polynomials_in_lam_have_the_order_of_their_evaluations(order):
    def build(schedule, ts):
        return deis(schedule, ts, order, "lam", lower_order_final=False)

    assert slope_with_history(build, order, "quadratic") > order + 1 - 0.15


@pytest.mark.parametrize(
    ("case", "kind", "printed"),
    [("VE", "rhoab", (2.94e-1, 1.32e-1, 5.58e-2)), ("FM inner", "tab", (9.65e-2, 5.27e-2, 1.16e-2))],
)
def test_errors_on_other_paths(case, kind, printed):
    for n, want in zip((5, 10, 20), printed, strict=True):
        ts = time_grid(VE, n, "karras") if case == "VE" else time_grid(FM, n, start=0.999, end=0.02)
        value = flow_error(deis(VE if case == "VE" else FM, ts, 2, kind), case)
        assert agrees(value, want), f"{n}: {value:.4e}, not {want:.2e}"


def by_rectangles(kind, ts, step, nodes):
    """The integrals of Lagrange polynomials as the authors' code takes them: 10,000 points, the end left out."""
    at = {"tab": lambda t: t, "rhoab": lambda t: VP.sigma(t) / VP.alpha(t), "lam": VP.lam}[kind]
    start, end = at(ts[step]), at(ts[step + 1])
    v = np.linspace(start, end, 10_000, endpoint=False)
    rho_dot = {
        "tab": lambda: (-VP.lam(v + 1e-6) + VP.lam(v - 1e-6)) / 2e-6 * VP.sigma(v) / VP.alpha(v),
        "rhoab": lambda: 1.0,
        "lam": lambda: -np.exp(-v),
    }[kind]()
    basis = [np.prod([(v - at(ts[i])) / (at(ts[j]) - at(ts[i])) for i in nodes if i != j], axis=0) for j in nodes]
    return [np.sum(VP.alpha(ts[step + 1]) * rho_dot * b * np.ones_like(v)) * (end - start) / v.size for b in basis]


@pytest.mark.parametrize(("kind", "rtol"), [("tab", 1e-7), ("rhoab", 1e-11), ("lam", 1e-11)])  # 1e-7: a difference
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_rectangles_of_the_authors(kind, rtol, order):
    ts = time_grid(VP, 5, "quadratic")
    table = deis(VP, ts, order, kind, lower_order_final=False, compat=True)
    for step in range(order, 5):
        nodes = range(step, step - order - 1, -1)
        got = [float(table.evals[step, 0, node % (order + 1)]) for node in nodes]
        want = by_rectangles(kind, ts, step, nodes)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * np.abs(want).max())


def test_rectangles_leave_errors_that_are_not_the_methods():
    """Some 4e-3 in the samples for polynomials in time, 2e-5 in rho."""
    ts, view = time_grid(VP, 10, "quadratic"), numpy_view(VP, "noise")
    for kind, low, high in (("tab", 3e-3, 4e-3), ("rhoab", 1e-5, 3e-5)):
        exact, crude = (run_by_hand(deis(VP, ts, 3, kind, compat=c), view, starts(), None) for c in (False, True))
        assert low < np.max(np.abs(exact - crude)) < high


def test_rectangles_of_a_grid_being_trained():
    ts = time_grid(VP, 3, "quadratic")
    for kind in ("tab", "rhoab"):
        traced = jax.jit(lambda ts, kind=kind: deis(VP, ts, 1, kind, compat=True).evals)(jnp.asarray(ts))
        np.testing.assert_allclose(traced, deis(VP, ts, 1, kind, compat=True).evals, rtol=1e-10)


def test_identities():
    """Order 0 is DDIM whatever the variable; in lam it is DPM-Solver; in rho, for EDM, Adams on the velocity."""
    ts = time_grid(VP, 8, "quadratic")
    want = run_by_hand(ddim(VP, ts), numpy_view(VP, "data"), starts(), None)
    for kind in ("tab", "rhoab", "lam"):
        got = run_by_hand(deis(VP, ts, 0, kind), numpy_view(VP, "noise"), starts(), None)
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)
    for order, lower in ((2, False), (3, False), (3, True), (3, None)):
        got, want = (
            deis(VP, ts, order - 1, "lam", lower_order_final=lower),
            dpm(VP, ts, order, variant="heun", lower_order_final=lower),
        )
        np.testing.assert_allclose(got.evals, want.evals, rtol=1e-12, atol=1e-14)
    ts = time_grid(VE, 8, "karras")
    for order in (0, 1, 2, 3):
        np.testing.assert_allclose(deis(VE, ts, order, "rhoab").evals, adams(VE, ts, order + 1).evals, rtol=1e-11)


@pytest.mark.parametrize("kind", ["tab", "rhoab", "lam"])
def test_only_polynomials_in_lam_are_lowered_at_the_end_by_themselves(kind):
    ts = time_grid(VP, 8)
    want = deis(VP, ts, 2, kind, lower_order_final=kind == "lam")
    np.testing.assert_array_equal(deis(VP, ts, 2, kind).evals, want.evals)
    assert not np.array_equal(want.evals, deis(VP, ts, 2, kind, lower_order_final=kind != "lam").evals)


@pytest.mark.parametrize(("given", "argument"), [({"order": 4}, "`order`"), ({"kind": "rho"}, "`kind`")])
def test_mistakes_are_named(given, argument):
    with pytest.raises(ValueError, match=argument):
        deis(VP, [1.0, 0.5, 0.1], **given)
