import logging

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VP, mixture, starts, toy

from odekit.samplers import Denoiser, adams, ddim, dpmpp, guided, sa, sample, time_grid

X = jnp.asarray(starts())


def counting_model(schedule, calls):
    """A denoiser that notes every trace of its network."""

    def fn(x, t, cond):
        calls.append(None)
        return jnp.tanh(x) * t

    return Denoiser(fn, schedule, "noise")


def test_the_network_is_traced_once_whatever_the_number_of_rows():
    for n in (5, 50):
        calls = []
        sample(counting_model(VP, calls), dpmpp(VP, time_grid(VP, n), 2), X)
        assert len(calls) == 1


def test_new_numbers_compile_nothing(caplog):
    calls = []
    model = counting_model(VP, calls)
    sample(model, dpmpp(VP, time_grid(VP, 7), 2, lower_order_final=True), X)
    table, x = dpmpp(VP, time_grid(VP, 7, "logsnr"), 2, lower_order_final=True), 2 * X
    jax.block_until_ready((table, x))
    with jax.log_compiles(), caplog.at_level(logging.DEBUG):
        sample(model, table, x)
    assert len(calls) == 1
    assert not [record for record in caplog.records if "ompil" in record.getMessage()]


def test_new_weights_scales_and_conditions_compile_nothing():
    calls = []

    class Network(eqx.Module):
        weight: jax.Array

        def __call__(self, x, t, cond):
            calls.append(None)
            return self.weight * x + cond

    table = ddim(FM, time_grid(FM, 4))
    for weight, scale in ((0.5, 2.0), (0.7, 3.0)):
        model = guided(Denoiser(Network(jnp.array(weight)), FM, "velocity"), scale, 0.0)
        sample(model, table, X, cond=jnp.full((64, 1), weight).repeat(2, 1))
    assert len(calls) == 1


def test_one_key_gives_one_answer_and_another_key_another():
    model, table = toy(VP), sa(VP, time_grid(VP, 5), 2)
    a, b, c = (sample(model, table, X, key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.all(np.any(a != c, axis=1))


@pytest.mark.parametrize("legacy", [False, True])
def test_with_a_key_each_a_sample_does_not_depend_on_its_batch(legacy):
    model, table = mixture(VP), sa(VP, time_grid(VP, 6), 3, corrector=3)
    keys = jax.random.split((jax.random.PRNGKey if legacy else jax.random.key)(7), 64)
    everyone = sample(model, table, X, key=keys)
    some = np.array([5, 60, 17])
    np.testing.assert_allclose(sample(model, table, X[some], key=keys[some]), everyone[some], rtol=1e-13)
    alone = sample(model, table, X[5], key=keys[5])
    np.testing.assert_allclose(alone, everyone[5], rtol=1e-13)


def test_noise_of_pytrees_differs_between_leaves():
    model, table = Denoiser(lambda x, t, cond: x, VP, "data"), ddim(VP, time_grid(VP, 3), 1.0)
    out = sample(model, table, {"a": X, "b": X}, key=jax.random.key(0))
    assert np.all(np.any(out["a"] != out["b"], axis=1))


def test_transformations_commute():
    model, table = toy(FM), adams(FM, time_grid(FM, 6), 3)
    want = sample(model, table, X)
    np.testing.assert_array_equal(jax.jit(lambda x: sample(model, table, x))(X), want)
    np.testing.assert_allclose(jax.vmap(lambda x: sample(model, table, x))(X), want, rtol=1e-12)
    slope = jax.grad(lambda x: jnp.sum(sample(model, table, x) ** 2))(X)
    each = jax.vmap(jax.grad(lambda x: jnp.sum(sample(model, table, x) ** 2)))(X)
    np.testing.assert_allclose(each, slope, rtol=1e-10)
    _, tangent = jax.jvp(lambda x: jnp.sum(sample(model, table, x) ** 2), (X,), (jnp.ones_like(X),))
    np.testing.assert_allclose(tangent, jnp.sum(slope), rtol=1e-11)


def test_tables_can_be_batched():
    grids = jnp.stack([jnp.asarray(time_grid(FM, 4, start=start)) for start in (1.0, 0.9)])
    tables = jax.vmap(lambda ts: adams(FM, ts, 2))(grids)
    both = jax.vmap(lambda table: sample(toy(FM), table, X))(tables)
    for got, ts in zip(both, grids, strict=True):
        np.testing.assert_allclose(got, sample(toy(FM), adams(FM, np.asarray(ts), 2), X), rtol=1e-11)


def test_condition_is_handed_on():
    model = Denoiser(lambda x, t, cond: cond["shift"] - x, FM, "data")
    table = ddim(FM, [1.0, 0.0])
    got = sample(model, table, X, cond={"shift": jnp.full((64, 2), 3.0)})
    np.testing.assert_allclose(got, 3.0 - X, rtol=1e-14)


def test_guidance_in_a_whole_run():
    """A constant data prediction per condition: the sample is the guided combination."""
    model = guided(Denoiser(lambda x, t, cond: cond + 0 * x, FM, "data"), 2.5, 1.0)
    got = sample(model, ddim(FM, time_grid(FM, 4)), X, cond=jnp.full((64, 2), 3.0))
    np.testing.assert_allclose(got, 1.0 + 2.5 * (3.0 - 1.0), rtol=1e-12)


@pytest.mark.parametrize("trajectory", [False, True])
def test_progress_is_reported_and_changes_nothing(trajectory):
    model, table, seen = toy(VP), sa(VP, time_grid(VP, 4), 2), []
    key = jax.random.key(1)
    got = sample(model, table, X, key=key, trajectory=trajectory, progress=lambda *at: seen.append(at))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    np.testing.assert_array_equal(got, sample(model, table, X, key=key, trajectory=trajectory))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_the_dtype_is_kept(dtype):
    model = Denoiser(lambda x, t, cond: 0.5 * x, VP, "data")
    table = sa(VP, time_grid(VP, 5), 2, tau=0.3)
    assert sample(model, table, X.astype(dtype), key=jax.random.key(0)).dtype == dtype


class OnlyData:
    def data(self, x, t, cond=None):
        return x


def wide(x, t, cond):
    return x.astype(jnp.float64)


def summed(x, t, cond):
    return jnp.sum(x, axis=-1)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: sample(mixture(VP), sa(VP, [1.0, 0.5]), X), ValueError, "`key` is None"),
        (lambda: sample(OnlyData(), adams(FM, [1.0, 0.5]), X), TypeError, "`model` is a OnlyData without"),
        (lambda: sample(mixture(VP), dpmpp, X), TypeError, "`table` is a function"),
        (lambda: sample(mixture(VP), ddim(VP, [1.0, 0.5]), jnp.arange(4)), TypeError, "`x_init` holds int"),
        (lambda: sample(mixture(VP), ddim(VP, [1.0, 0.5]), ()), TypeError, "`x_init` holds nothing"),
        (
            lambda: sample(mixture(VP), sa(VP, [1.0, 0.5]), X, key=jax.random.split(jax.random.key(0), 3)),
            ValueError,
            r"`key` holds \(3,\) keys",
        ),
        (
            lambda: sample(Denoiser(summed, VP, "data"), ddim(VP, [1.0, 0.5]), X),
            ValueError,
            r"`model.data` returned .*\(64,\)",
        ),
        (
            lambda: sample(Denoiser(wide, VP, "data"), ddim(VP, [1.0, 0.5]), X.astype(jnp.float32)),
            ValueError,
            "returned .*float64.* for a state of .*float32",
        ),
        (
            lambda: jax.jit(lambda x: sample(mixture(VP), ddim(VP, [1.0, 0.5]), x, progress=print))(X),
            ValueError,
            "`progress`",
        ),
        (lambda: ddim(VP, [1.0, 0.5]).step(mixture(VP), 1, ddim(VP, [1.0, 0.5]).init(X)), IndexError, "`k` is 1"),
    ],
)
def test_mistakes_are_named(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
