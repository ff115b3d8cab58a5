import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import VP, mixture, run_by_hand, slots_by_hand, starts, toy

from odekit.loops.table import SamplerTable, TableState, march, run_table
from odekit.samplers import dpmpp, heun, sample, time_grid


def random_table(n=7, slots=3, depth=2, noise=True, seed=0):
    """A table that is no known method: every entry of every leaf matters."""
    draw = np.random.RandomState(seed).standard_normal
    return SamplerTable(
        t=jnp.asarray(draw(n)),
        states=jnp.asarray(0.5 * draw((n, slots, slots))),
        evals=jnp.asarray(0.5 * draw((n, slots, depth))),
        noise=jnp.asarray(draw((n, slots))) if noise else None,
        t_state=jnp.asarray(draw(n + 1)),
        view="noise",
    )


class Wave:
    def noise(self, x, t, cond=None):
        return jnp.sin(x + t)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 7])
@pytest.mark.parametrize("noise", [False, True])
def test_any_table_is_run_as_defined(slots, depth, noise):
    table, x, key = random_table(7, slots, depth, noise), starts()[:5], jax.random.key(0)
    z = [np.asarray(jax.random.normal(jax.random.fold_in(key, k), x.shape)) for k in range(7)]
    want = run_by_hand(table, lambda x, t: np.sin(x + t), x, z)
    np.testing.assert_allclose(run_table(table, Wave(), jnp.asarray(x), key), want, rtol=1e-12)


def test_constants_pixelwise_numbers_and_noise_before_the_first_row():
    """A sum written out: every coefficient has one number a coordinate, and the first noise is that of row N."""
    n, slots, depth, key, x = 4, 2, 3, jax.random.key(1), starts()[:5]
    draw = np.random.RandomState(3).standard_normal
    states, evals, offset = 0.5 * draw((n, slots, slots, 2)), 0.5 * draw((n, slots, depth, 2)), draw((n, slots, 2))
    t = draw(n + 1)
    leaves = (jnp.asarray(leaf) for leaf in (t[:-1], states, evals))
    table = SamplerTable(*leaves, None, jnp.asarray(t), "noise", "", "", jnp.asarray(offset), jnp.asarray(0.7))
    first = x + 0.7 * np.asarray(jax.random.normal(jax.random.fold_in(key, n), x.shape))
    u, ring = [first] * slots, [np.zeros_like(x)] * depth
    for k in range(n):
        ring[k % depth] = np.sin(u[0] + t[k])
        u = [
            sum(states[k, a, b] * u[b] for b in range(slots))
            + sum(evals[k, a, j] * ring[j] for j in range(depth))
            + offset[k, a]
            for a in range(slots)
        ]
    seen = run_table(table, Wave(), jnp.asarray(x), key, trajectory=True)
    np.testing.assert_allclose(seen[-1], u[0], rtol=1e-12)
    np.testing.assert_allclose(seen[0], first, rtol=1e-12)
    with pytest.raises(ValueError, match="`key` is None"):
        run_table(table, Wave(), jnp.asarray(x))


def test_slots_are_given_mixed_and_returned_and_rows_share_draws():
    draw, key, draws = np.random.RandomState(5).standard_normal, jax.random.key(2), (0, 0, 3, 3, 3, 1, 1)
    table = dataclasses.replace(random_table(), start=jnp.asarray(draw((3, 3))), draws=draws)
    slots = [starts()[k : k + 5] for k in (0, 5, 10)]
    z = [np.asarray(jax.random.normal(jax.random.fold_in(key, k), (5, 2))) for k in range(7)]
    want = slots_by_hand(table, lambda x, t: np.sin(x + t), slots, z)
    begin = TableState(tuple(map(jnp.asarray, slots)))
    np.testing.assert_allclose(run_table(table, Wave(), begin, key, state=True).slots, want, rtol=1e-12)
    np.testing.assert_allclose(sample(Wave(), table, begin, key=key), want[0], rtol=1e-12)
    seen = []
    end = sample(Wave(), table, begin, key=key, state=True, progress=lambda *at: seen.append(at))
    np.testing.assert_allclose(end.slots, want, rtol=1e-12)
    assert len(seen) == 7


@pytest.mark.parametrize("given", [{"start": jnp.ones((2, 2))}, {"draws": (0, 1)}, {"lags": (0, 1)}])
def test_fields_that_do_not_fit_are_named(given):
    with pytest.raises(ValueError, match=f"`{next(iter(given))}` has shape"):
        dataclasses.replace(random_table(), **given)


def test_a_projection_acts_on_every_slot_after_every_row():
    table, x = random_table(noise=False), starts()[:5]

    def project(x, t):
        return jnp.clip(x, -1.0, 1.0) + 0.1 * t

    u, ring = [x] * 3, [np.zeros_like(x)] * 2
    for k in range(table.nfe):
        ring[k % 2] = np.sin(u[0] + np.asarray(table.t)[k])
        mixed = np.einsum("ab,bnd->and", table.states[k], np.stack(u))
        mixed = mixed + np.einsum("aj,jnd->and", table.evals[k], np.stack(ring))
        u = list(np.clip(mixed, -1.0, 1.0) + 0.1 * float(table.t_state[k + 1]))
    np.testing.assert_allclose(run_table(table, Wave(), jnp.asarray(x), project=project), u[0], rtol=1e-12)


def test_equal_shapes_share_a_compiled_loop():
    traces = []

    class Counting:
        def noise(self, x, t, cond=None):
            traces.append(t)
            return jnp.sin(x + t)

    model, x = Counting(), jnp.asarray(starts()[:5])
    ts = time_grid(VP, 6)
    for table in (dpm_like(ts, "one"), dpm_like(ts**2, "two")):
        sample(model, table, x)
    assert len(traces) == 1


def dpm_like(ts, name):
    return dataclasses.replace(dpmpp(VP, ts, 2), view="noise", name=name)


def test_the_normal_form_is_a_table():
    """Every state as the initial one and all evaluations so far: two slots and a ring as deep as the table is long."""
    table, n = dpmpp(VP, time_grid(VP, 6, "logsnr"), 3), 6
    alpha, beta = np.ones(n + 1), np.zeros((n + 1, n))
    for k in range(n):
        alpha[k + 1], beta[k + 1] = (
            float(table.states[k, 0, 0]) * np.array([alpha[k]])[0],
            table.states[k, 0, 0] * beta[k],
        )
        for j in range(max(0, k - 2), k + 1):
            beta[k + 1, j] += float(table.evals[k, 0, j % 3])
    normal = SamplerTable(
        t=table.t,
        states=jnp.asarray([[[0.0, a], [0.0, 1.0]] for a in alpha[1:]]),
        evals=jnp.stack([jnp.asarray(beta[1:]), jnp.zeros((n, n))], axis=1),
        noise=None,
        t_state=table.t_state,
    )
    x = jnp.asarray(starts())
    np.testing.assert_allclose(run_table(normal, mixture(VP), x), run_table(table, mixture(VP), x), rtol=1e-11)


def test_rematerialised_gradients_are_the_same():
    model, x, table = toy(VP), jnp.asarray(starts()[:3]), heun(VP, time_grid(VP, 4))
    with_remat, without = (
        jax.grad(lambda table, remat=remat: jnp.sum(run_table(table, model, x, remat=remat) ** 2))(table)
        for remat in (True, False)
    )
    for a, b in zip(jax.tree.leaves(with_remat), jax.tree.leaves(without), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def kept_elements(remat, n, width=32):
    """How many numbers a reverse pass keeps, for a network whose insides are `width` times its state."""
    table = dpmpp(VP, time_grid(VP, n), 2)
    weights = jnp.ones((2, 2 * width)), jnp.ones((2 * width, 2))

    class Wide(eqx.Module):
        weights: tuple

        def data(self, x, t, cond=None):
            return jnp.tanh(x @ self.weights[0]) @ self.weights[1]

    _, pullback = jax.vjp(lambda w, x: run_table(table, Wide(w), x, remat=remat), weights, jnp.ones((8, 2)))
    return sum(leaf.size for leaf in jax.tree.leaves(pullback))


def test_a_reverse_pass_keeps_no_insides_of_the_network():
    extra = lambda remat: kept_elements(remat, 40) - kept_elements(remat, 20)  # noqa: E731
    assert extra(True) < 20 * 8 * 2 * 8  # a few states a row
    assert extra(False) > 20 * 8 * 64  # and without rematerialisation the hidden layer of every row


def test_march_is_a_scan():
    total, running = march(lambda c, row: (c + row, c * row), jnp.array(1.0), jnp.arange(4.0))
    assert total == 7.0
    np.testing.assert_array_equal(running, [0.0, 1.0, 4.0, 12.0])


@pytest.mark.parametrize(
    ("field", "value"),
    [("t", jnp.zeros(3)), ("states", jnp.zeros((4, 2, 1))), ("noise", jnp.zeros((4, 1))), ("t_state", jnp.zeros(4))],
)
def test_shapes_must_belong_together(field, value):
    good = {
        "t": jnp.zeros(4),
        "states": jnp.zeros((4, 2, 2)),
        "evals": jnp.zeros((4, 2, 3)),
        "noise": None,
        "t_state": jnp.zeros(5),
    }
    SamplerTable(**good)
    with pytest.raises(ValueError, match=f"`{field}` has shape"):
        SamplerTable(**{**good, field: value})


def test_views_must_exist():
    with pytest.raises(ValueError, match="`view` is 'v'"):
        SamplerTable(jnp.zeros(1), jnp.zeros((1, 1, 1)), jnp.zeros((1, 1, 1)), None, jnp.zeros(2), view="v")


def test_tables_without_x64_keep_their_digits():
    """Rows are computed in float64 and rounded once, so a float32 program sees the nearest float32 numbers."""
    exact = dpmpp(VP, time_grid(VP, 30, "logsnr"), 3)
    with jax.enable_x64(False):
        rounded = dpmpp(VP, time_grid(VP, 30, "logsnr"), 3)
    assert rounded.evals.dtype == jnp.float32
    np.testing.assert_array_equal(rounded.evals, np.asarray(exact.evals).astype(np.float32))
