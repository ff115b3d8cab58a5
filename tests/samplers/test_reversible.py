import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, agrees, flow_error, law_error, numpy_view, run_by_hand, slots_by_hand, starts

import odekit as ok
from odekit.samplers import amplification, bdia, belm, ddim, edict, inverse, rex, time_grid
from odekit.solvers.tableaus import RK4, Euler, Heun, Midpoint

# gamma: rms error of BDIA to the exact flow on logsnr 5, 10, 20, and its slope there
BDIA = {
    1.0: (3.74e-1, 1.45e-1, 3.52e-2, 2.01),
    0.9: (3.09e-1, 1.15e-1, 3.79e-2, 1.26),
    0.5: (2.01e-1, 1.12e-1, 7.90e-2, 1.25),
}
PAIRS = {  # everything that can be undone
    "bdia": bdia,
    "bdia heun": lambda s, ts: bdia(s, ts, 0.9, base="heun"),
    "belm": belm,
    "edict": edict,
    "rex": rex,
    "rex rk4": lambda s, ts: rex(s, ts, RK4(), coupling=0.9),
    "rex sde": lambda s, ts: rex(s, ts, sde=True),
    "rex heun sde": lambda s, ts: rex(s, ts, Heun(), sde=True),
}
every = pytest.mark.parametrize("name", PAIRS)
Z = np.random.RandomState(0).standard_normal((400, 64, 2))


@pytest.mark.parametrize("gamma", BDIA)
def test_bdia_on_the_mixture(gamma):
    *errors, slope = BDIA[gamma]
    for n, printed in zip((5, 10, 20), errors, strict=True):
        assert agrees(flow_error(bdia(VP, time_grid(VP, n, "logsnr"), gamma), "VP"), printed)
    coarse, fine = (flow_error(bdia(VP, time_grid(VP, n, "logsnr"), gamma), "VP") for n in (128, 256))
    assert abs(np.log2(coarse / fine) - slope) < 0.15


@pytest.mark.parametrize(("n", "printed"), [(5, 1.71e-1), (10, 8.10e-2), (20, 2.22e-2)])
def test_bdia_on_a_grid_in_time(n, printed):
    assert agrees(flow_error(bdia(VP, time_grid(VP, n)), "VP"), printed)


@pytest.mark.parametrize(("gamma", "printed"), [(1.0, 2.35e-2), (0.5, 2.23e-2), (1e-9, 2.65e-2)])
def test_bdia_over_heun_is_of_order_2_for_every_gamma(gamma, printed):
    """Without a look back (gamma=0) it is Heun's rule."""
    errors = [flow_error(bdia(VE, time_grid(VE, n, "karras"), gamma, base="heun"), "VE") for n in (18, 64, 128)]
    assert agrees(errors[0], printed)
    assert abs(np.log2(errors[1] / errors[2]) - 2.0) < 0.15


@pytest.mark.parametrize(("n", "printed"), [(2, 2.39e1), (5, 8.69e0), (10, 3.92e0)])
def test_edict_on_the_mixture(n, printed):
    assert agrees(flow_error(edict(VP, time_grid(VP, n, "logsnr")), "VP"), printed)


@pytest.mark.parametrize("p", [0.93, 1.0])
def test_edict_is_its_two_states(p):
    ts, view = time_grid(VP, 6), numpy_view(VP, "noise")
    alpha, sigma, x, y = VP.alpha(ts), VP.sigma(ts), starts(), starts()
    for k in range(6):
        keep = alpha[k + 1] / alpha[k]
        gain = sigma[k + 1] - sigma[k] * keep
        x = keep * x + gain * view(y, ts[k])
        y = keep * y + gain * view(x, ts[k])
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
    got = slots_by_hand(edict(VP, ts, p), view, [starts()] * 2, None)
    np.testing.assert_allclose(got, [x, y], rtol=1e-11, atol=1e-11)


ORDERS = {
    "belm": (belm, 2.0),
    "edict": (edict, 1.0),
    "rex coupling 1": (lambda s, ts: rex(s, ts, coupling=1.0), 2.0),
    "rex midpoint": (lambda s, ts: rex(s, ts, Midpoint()), 2.0),
    "rex rk4": (lambda s, ts: rex(s, ts, RK4()), 4.0),
}


@pytest.mark.parametrize("name", ORDERS)
def test_orders_on_the_mixture(name):
    build, order = ORDERS[name]
    sizes = (256, 512) if order == 1 else (64, 128)
    coarse, fine = (flow_error(build(VP, time_grid(VP, n, "logsnr")), "VP") for n in sizes)
    assert np.log2(coarse / fine) > order - 0.15


def test_belm_is_exact_where_the_noise_is_linear_in_rho():
    """The two-step rule integrates d(x / alpha) / drho = noise exactly for one more power than DDIM."""
    ts = time_grid(VP, 9, "quadratic")
    rho = VP.sigma(ts) / VP.alpha(ts)

    def end(table, slots):
        return slots_by_hand(table, lambda x, t: VP.sigma(t) / VP.alpha(t), slots, None)[0]

    table, alpha = belm(VP, ts), VP.alpha(ts)
    first = eqx.tree_at(lambda table: table.evals, table, table.evals.at[0].set(0.0))
    jump = (rho[1] ** 2 - rho[0] ** 2) / 2 * alpha[1]  # the first step of a table that starts with exact history
    kick = eqx.tree_at(lambda table: table.states, first, table.states.at[0, 0].set(jnp.array([0.0, 1.0])))
    got = end(kick, [np.array(0.0), np.array(jump)])
    assert abs(got - alpha[-1] * (rho[-1] ** 2 - rho[0] ** 2) / 2) < 1e-9 * abs(rho[0] ** 2 * alpha[-1])


@pytest.mark.parametrize("base", [Euler, Midpoint, RK4])
@pytest.mark.parametrize("sde", [False, True])
def test_rex_is_a_coupled_pair_in_its_own_variable(base, sde):
    """Two states that step by each other: y by the base forth from z, z by the base back from y, with one noise."""
    ts, view, power, method = time_grid(VP, 6), numpy_view(VP, "data"), 2 if sde else 1, base()
    clock = np.exp(power * VP.lam(ts))

    def unit(s):
        t = VP.t_of_lam(np.log(s) / power)
        return VP.sigma(t) ** power / VP.alpha(t) ** (power - 1), t

    def move(s, h, y, w):
        slopes = []
        for row, c in zip(((), *method.a), method.c, strict=True):
            scale, t = unit(s + c * h)
            slopes.append(
                view(scale * (y + h * sum((a * k for a, k in zip(row, slopes, strict=True)), 0 * y) + c * w), t)
            )
        return h * sum(b * k for b, k in zip(method.b, slopes, strict=True)) + w

    y = z = starts() / unit(clock[0])[0]
    for k in range(6):
        h = clock[k + 1] - clock[k]
        w = np.sqrt(h) * Z[k] if sde else 0.0
        y = 0.9 * y + 0.1 * z + move(clock[k], h, z, w)
        z = z - move(clock[k + 1], -h, y, -w)
    got = slots_by_hand(rex(VP, ts, method, coupling=0.9, sde=sde), view, [starts()] * 2, Z)
    np.testing.assert_allclose(got, [unit(clock[-1])[0] * part for part in (z, y)], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("base", [Euler, Midpoint])
def test_law_of_the_reversible_sde(base):
    coarse, fine = (law_error(rex(VP, time_grid(VP, n, "logsnr"), base(), sde=True), VP) for n in (64, 128))
    assert np.log2(coarse / fine) > 2 - 0.15


@every
def test_every_step_is_undone(name):
    """From all slots back to all slots: the inverse evaluates the same states in the opposite order of steps."""
    table = PAIRS[name](VP, time_grid(VP, 50, "logsnr"))
    back, view = inverse(table), numpy_view(VP, table.view)
    assert back.nfe == table.nfe
    seen = []
    end = slots_by_hand(table, lambda x, t: seen.append((x, t)) or view(x, t), [starts()] * 2, Z)
    again = slots_by_hand(back, lambda x, t: seen.append((x, t)) or view(x, t), end, Z)
    # what inverting amplifies, a contracting pair leaves room for: 1e4 for rex on this grid
    bound = 2e-14 * max(100.0, float(amplification(table)))
    np.testing.assert_allclose(again, [starts()] * 2, atol=bound, rtol=0)
    depth, forth, reverse = table.evals.shape[2], seen[: table.nfe], seen[table.nfe :]
    for k in range(table.nfe):
        there = (table.nfe // depth - 1 - k // depth) * depth + k % depth
        assert reverse[k][1] == forth[there][1]
        np.testing.assert_allclose(reverse[k][0], forth[there][0], atol=bound, rtol=bound)
    t_state = np.asarray(table.t_state[:-1]).reshape(-1, depth)[::-1].ravel()
    np.testing.assert_array_equal(back.t_state, [*t_state, table.t_state[0]])


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.5])
def test_amplification_of_bdia(gamma):
    """Reported, and met: rounding errors grow by it, so that half the digits are gone at N=50 for gamma=0.7."""
    table = bdia(VP, time_grid(VP, 20, "logsnr"), gamma)
    grown = float(amplification(table))
    np.testing.assert_allclose(grown, gamma**-19.0, rtol=1e-12)
    view = numpy_view(VP, "data")
    end = slots_by_hand(table, view, [starts()] * 2, None)
    end[1] = end[1] + 1e-9  # what rounding does to a stored state, larger
    moved = np.max(np.abs(slots_by_hand(inverse(table), view, end, None)[1] - starts()))
    assert 1e-10 * grown < moved < 1e-7 * grown


@pytest.mark.parametrize("name", ["bdia", "rex heun sde"])
def test_the_inverse_of_a_traced_table_is_the_same_numbers(name):
    ts = time_grid(VP, 5)
    want = inverse(PAIRS[name](VP, ts))
    got = jax.jit(lambda ts: inverse(PAIRS[name](VP, ts)))(ts)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-11)


def test_flows_that_start_as_pure_noise_and_end_without_any():
    table = bdia(FM, time_grid(FM, 8))
    view = numpy_view(FM, "data")
    end = slots_by_hand(table, view, [starts()] * 2, None)
    np.testing.assert_allclose(slots_by_hand(inverse(table), view, end, None), [starts()] * 2, atol=1e-13)


def test_gamma_0_is_the_base_and_the_first_step_is_the_base():
    ts = time_grid(VP, 1)
    view = numpy_view(VP, "data")
    for build in (bdia, belm):
        table = build(VP, ts)
        got = run_by_hand(table, numpy_view(VP, table.view), starts(), None)
        np.testing.assert_allclose(got, run_by_hand(ddim(VP, ts), view, starts(), None), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: bdia(VP, [1.0, 0.5], 0.0), "`gamma` is 0.0"),
        (lambda: bdia(VP, [1.0, 0.5], base="rk4"), "`base` is 'rk4'"),
        (lambda: bdia(FM, [1.0, 0.0], base="heun"), "`base` is 'heun', which needs noise"),
        (lambda: belm(FM, [1.0, 0.0]), "`ts` starts at 1"),
        (lambda: edict(VP, [1.0, 0.5], 1.5), "`p` is 1.5"),
        (lambda: rex(VP, [1.0, 0.5], coupling=0.0), "`coupling` is 0.0"),
        (lambda: rex(FM, [1.0, 0.0]), "`ts` holds 0, where there is no noise"),
        (lambda: rex(FM, [1.0, 0.5], sde=True), "`ts` holds 1, where there is no data"),
        (lambda: rex(VP, [0.5, 1.0], sde=True), "where `sde` cannot add any"),
        (lambda: inverse(ddim(VP, [1.0, 0.5])), "whose steps cannot be undone"),
    ],
)
def test_mistakes_are_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_inverses_are_saved_and_have_no_normal_form(tmp_path):
    table = inverse(rex(VP, time_grid(VP, 3), sde=True))
    ok.save(tmp_path / "table.safetensors", table)
    again = ok.load(tmp_path / "table.safetensors", table)
    assert again.draws == table.draws == (2, 2, 1, 1, 0, 0)
    np.testing.assert_array_equal(again.start, table.start)
    with pytest.raises(ValueError, match="mixes its slots first"):
        ok.learn.normal_form(inverse(bdia(VP, time_grid(VP, 3))))


def test_trained_coefficients_of_the_base_reach_the_table():
    a = jnp.array(0.4)

    @jax.jit
    def total(a):
        table = rex(VP, time_grid(VP, 2), ok.RungeKutta(a=((a,),), b=(0.0, 1.0), c=(0.0, 0.5), order=1))
        return jnp.sum(jnp.sin(table.evals))

    slope = (total(a + 1e-6) - total(a - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(total)(a), slope, rtol=1e-6)


def test_a_table_that_training_has_moved_is_not_undone():
    table = bdia(VP, time_grid(VP, 5))
    moved = eqx.tree_at(lambda table: table.evals, table, table.evals + 1e-6)
    with pytest.raises(ValueError, match="off by 1.0e-06"):
        inverse(moved)
