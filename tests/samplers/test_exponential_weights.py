"""The one weights function against adaptive quadrature of its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VP
from scipy.integrate import quad

from odekit.samplers import ddim, deis, dpmpp, sa, time_grid
from odekit.samplers.exponential import exponential
from odekit.samplers.grids import on_grid

VARIABLES = {"lam": lambda s, lam: lam, "rho": lambda s, lam: np.exp(-lam), "time": lambda s, lam: s.t_of_lam(lam)}
FORMS = [(view, variable, tau) for view in ("data", "noise") for variable in VARIABLES for tau in (0.0, 0.7)]
forms = pytest.mark.parametrize(("view", "variable", "tau"), FORMS)
CASES = [
    (VP, time_grid(VP, 5, "logsnr")),
    (VP, time_grid(VP, 5, start=0.9)),
    (FM, time_grid(FM, 5, start=0.98, end=0.1)),
]


def weights_by_quadrature(schedule, ts, step, nodes, view, variable, tau):
    """Integrals over a step of every Lagrange polynomial through the predictions at `nodes`, indices of `ts`."""
    at, q = VARIABLES[variable], 1 + tau**2
    lam0, lam1 = schedule.lam(ts[step]), schedule.lam(ts[step + 1])
    places = [at(schedule, schedule.lam(ts[i])) for i in nodes]

    def integrand(lam, j):
        here = at(schedule, lam)
        basis = np.prod([(here - p) / (places[j] - p) for i, p in enumerate(places) if i != j])
        if view == "data":
            return schedule.alpha(ts[step + 1]) * q * np.exp(q * (lam - lam1)) * basis
        return -schedule.alpha(ts[step + 1]) * q * np.exp(-lam) * basis

    return [quad(integrand, lam0, lam1, args=(j,), epsabs=0, epsrel=1e-13, limit=200)[0] for j in range(len(nodes))]


@forms
def test_weights_are_integrals_of_polynomials(view, variable, tau):
    """Predictor of every order and corrector with every number of nodes, on small steps and on one of 2.6 in lam."""
    for schedule, ts in CASES:
        ex = exponential(on_grid(schedule, ts), schedule, tau, view=view, variable=variable)
        for order in (1, 2, 3, 4):
            got = np.ravel(ex.predict(np.array([4]), order))
            want = weights_by_quadrature(schedule, ts, 4, range(4, 4 - order, -1), view, variable, tau)
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12 * np.abs(want).sum())
            got = np.ravel(ex.correct(np.array([4]), order + 1))
            want = weights_by_quadrature(schedule, ts, 3, range(4, 3 - order, -1), view, variable, tau)
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12 * np.abs(want).sum())


@forms
def test_weights_add_up_to_the_exact_step_of_a_constant(view, variable, tau):
    schedule, ts = CASES[0]
    ex, q = exponential(on_grid(schedule, ts), schedule, tau, view=view, variable=variable), 1 + tau**2
    dlam, rows = np.diff(schedule.lam(ts)), np.arange(4, 5)
    one = (
        schedule.alpha(ts[1:]) * -np.expm1(-q * dlam)
        if view == "data"
        else -schedule.sigma(ts[1:]) * q * np.expm1(dlam)
    )
    for order in (1, 2, 3, 4):
        np.testing.assert_allclose(sum(ex.predict(rows, order)), one[rows], rtol=1e-12)
        np.testing.assert_allclose(sum(ex.correct(rows, order)), one[rows - 1], rtol=1e-12)


@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_state_and_noise_of_an_exact_step(tau):
    ts = time_grid(VP, 5, "logsnr")
    alpha, sigma, dlam, grid = VP.alpha(ts), VP.sigma(ts), np.diff(VP.lam(ts)), on_grid(VP, ts)
    data, noise = (exponential(grid, VP, tau, view=view) for view in ("data", "noise"))
    np.testing.assert_allclose(data.keep, sigma[1:] / sigma[:-1] * np.exp(-(tau**2) * dlam), rtol=1e-13)
    np.testing.assert_allclose(noise.keep, alpha[1:] / alpha[:-1], rtol=1e-13)
    np.testing.assert_allclose(data.noise, sigma[1:] * np.sqrt(-np.expm1(-2 * tau**2 * dlam)), rtol=1e-12)
    np.testing.assert_allclose(noise.noise, tau * sigma[1:] * np.sqrt(np.expm1(2 * dlam)), rtol=1e-12)


def test_the_noise_view_needs_data_to_start_from():
    with pytest.raises(ValueError, match="`ts` starts at 1, where there is no data"):
        exponential(on_grid(FM, [1.0, 0.5]), FM, view="noise")


BUILDERS = {
    "ddim eta=1": lambda s, ts: ddim(s, ts, 1.0),
    "deis1": lambda s, ts: deis(s, ts, 1),
    "dpmpp2": lambda s, ts: dpmpp(s, ts, 2, lower_order_final=False),
    "sa2c3": lambda s, ts: sa(s, ts, 2, corrector=3, tau=0.6, lower_order_final=False),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_grid_being_trained_may_have_infinite_ends(name):
    """From pure noise to none: the numbers of the concrete grid, and finite gradients, right between the ends."""
    ts, step, random = time_grid(FM, 4, start=0.99 if name == "deis1" else None), 1e-6, np.random.RandomState(0)
    leaves = jax.tree.leaves(BUILDERS[name](FM, ts))
    weights = [random.standard_normal(leaf.shape) for leaf in leaves]

    def total(ts):
        got = jax.tree.leaves(BUILDERS[name](FM, ts))
        return sum(jnp.vdot(jnp.asarray(w), leaf) for w, leaf in zip(weights, got, strict=True)), got

    (_, traced), slopes = jax.jit(jax.value_and_grad(total, has_aux=True))(jnp.asarray(ts))
    for a, b in zip(leaves, traced, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-12)
    assert np.all(np.isfinite(slopes))
    for k in range(1, 4):
        up, down = (total(ts + by * np.eye(5)[k])[0] for by in (step, -step))
        np.testing.assert_allclose((up - down) / (2 * step), slopes[k], rtol=1e-6, atol=1e-6)
