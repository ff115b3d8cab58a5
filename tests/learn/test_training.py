"""The training loop: every sample once an epoch, best so far kept, trouble said in a sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from odekit.learn import adam, fit
from odekit.learn.training import _batches

KEY = jax.random.key(0)
X = jnp.linspace(-1, 1, 32)
LINE = {"x": X, "y": 3 * X - 1}


def squares(params, batch, key):
    return jnp.mean((params["slope"] * batch["x"] + params["offset"] - batch["y"]) ** 2)


def start():
    return {"slope": jnp.zeros(()), "offset": jnp.zeros(()), "name": "line"}


def test_a_line_is_found():
    params, history = fit(squares, start(), LINE, key=KEY, steps=400, batch=8, optimizer=adam(400, 0.1), every=100)
    np.testing.assert_allclose([params["slope"], params["offset"]], [3, -1], atol=1e-3)
    assert params["name"] == "line"
    assert history.loss.shape == (400,)
    assert history.checked.tolist() == [0, 100, 200, 300, 400]
    assert np.isnan(history.validation).all()


def test_batches_use_every_sample_once_before_any_twice():
    order = np.asarray(_batches(KEY, 10, 3, 7))
    assert order.shape == (7, 3)
    for epoch in (order[:3], order[3:6]):
        assert len(set(epoch.ravel().tolist())) == 9
    assert not np.array_equal(order[:3], order[3:6])


def test_the_best_parameters_on_held_out_data_are_kept():
    held_out = {"x": X, "y": jnp.zeros(32)}  # training only makes this worse
    params, history = fit(squares, start(), LINE, key=KEY, steps=50, batch=8, validation=held_out, every=10)
    assert float(params["slope"]) == 0
    assert history.validation[0] == history.validation.min() == 0
    assert history.validation[-1] > 0


def test_the_running_mean_is_what_is_returned():
    def run(ema):
        return fit(squares, start(), LINE, key=KEY, steps=3, batch=32, optimizer=optax.sgd(0.1), ema=ema)[0]["offset"]

    offsets = [0.0]
    for steps in (1, 2, 3):
        offsets.append(
            float(fit(squares, start(), LINE, key=KEY, steps=steps, batch=32, optimizer=optax.sgd(0.1))[0]["offset"])
        )
    mean = 0.0
    for i, offset in enumerate(offsets[1:]):
        keep = min(0.5, (1 + i) / (10 + i))
        mean = keep * mean + (1 - keep) * offset
    np.testing.assert_allclose(run(0.5), mean, rtol=1e-12)
    np.testing.assert_allclose(run(None), offsets[-1], rtol=1e-12)


def test_equal_keys_give_equal_bits_and_others_do_not():
    def noisy(params, batch, key):
        return squares(params, batch, key) + params["slope"] * jax.random.normal(key)

    runs = [fit(noisy, start(), LINE, key=jax.random.key(i), steps=20, batch=8)[0]["slope"] for i in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_repeated_runs_compile_once():
    traces = []

    def counted(params, batch, key):
        traces.append(1)
        return squares(params, batch, key)

    fit(counted, start(), LINE, key=KEY, steps=20, batch=8, every=10, validation=LINE)
    once = len(traces)
    fit(counted, start(), LINE, key=jax.random.key(5), steps=20, batch=8, every=10, validation=LINE)
    assert len(traces) == once


def test_progress_is_told_after_every_check():
    told = []
    fit(squares, start(), LINE, key=KEY, steps=30, batch=8, every=10, progress=lambda *a: told.append(a))
    assert [t[:2] for t in told] == [(10, 30), (20, 30), (30, 30)]
    assert all(t[2].startswith("loss ") for t in told)


def test_trouble_is_said_in_a_sentence():
    with pytest.raises(ValueError, match="`batch` is 33 but there are 32 samples"):
        fit(squares, start(), LINE, key=KEY, steps=5, batch=33)
    with pytest.raises(ValueError, match="`steps` and `every` are 0 and 100"):
        fit(squares, start(), LINE, key=KEY, steps=0, batch=8)

    def breaks(params, batch, key):
        return jnp.log(params["slope"] - 1.0) + squares(params, batch, key)

    with pytest.raises(ValueError, match="held-out loss at the start is nan"):
        fit(breaks, start(), LINE, key=KEY, steps=5, batch=8, validation=LINE)

    def breaks_later(params, batch, key):
        return jnp.where(params["offset"] < -0.05, jnp.nan, 1.0) * squares(params, batch, key)

    with pytest.raises(FloatingPointError, match="non-finite at step 6; lower the learning rate"):
        fit(breaks_later, start(), LINE, key=KEY, steps=50, batch=32, optimizer=adam(50, 1e-2))
