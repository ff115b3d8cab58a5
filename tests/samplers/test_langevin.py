import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import VE, VP, mixture, numpy_view, starts

from odekit.samplers import Denoiser, ddim, ddpm, gaussian, heun, predictor_corrector, reverse_diffusion, time_grid

KEY = jax.random.key(11)


def normals(k, x, key=KEY):
    return np.asarray(jax.random.normal(jax.random.fold_in(key, k), x.shape))


@pytest.mark.parametrize(("schedule", "n_corrector", "last_noise"), [(VE, 1, False), (VP, 2, True)])
def test_published_algorithm(schedule, n_corrector, last_noise):
    """Corrector at the noise level of the state, then predictor; step sizes from the norms of each sample."""
    n, snr = 6, 0.16
    ts, score = time_grid(schedule, n, "karras", end=0.1), numpy_view(schedule, "score")
    x = x0 = schedule.sigma(ts[0]) * starts()
    for k in range(n):
        a = (schedule.alpha(ts[k]) / schedule.alpha(ts[k + 1])) ** 2
        for j in range(n_corrector):
            z, s = normals(n + 1 + k * n_corrector + j, x), score(x, ts[k])
            e = 2 * a * (snr * np.linalg.norm(z, axis=1) / np.linalg.norm(s, axis=1)) ** 2
            x = x + e[:, None] * s + np.sqrt(2 * e)[:, None] * z
        if schedule is VE:
            gap, mean = ts[k] ** 2 - ts[k + 1] ** 2, x
        else:
            gap, mean = 1 - a, (2 - np.sqrt(a)) * x
        x = mean + gap * score(x, ts[k])
        if k < n - 1 or last_noise:
            x = x + np.sqrt(gap) * normals(k, x)
    table = reverse_diffusion(schedule, ts)
    got = predictor_corrector(
        mixture(schedule), schedule, table, jnp.asarray(x0), key=KEY, n_corrector=n_corrector, last_noise=last_noise
    )
    np.testing.assert_allclose(got, x, rtol=1e-10, atol=1e-11)


def test_samples_do_not_depend_on_their_batch():
    """Each has its own key and its own step sizes; leaves of a pytree share one norm."""
    table, keys = ddpm(VP, time_grid(VP, 5)), jax.random.split(KEY, 64)
    x = jnp.asarray(starts())
    whole = predictor_corrector(mixture(VP), VP, table, x, key=keys)
    part = predictor_corrector(mixture(VP), VP, table, x[3:9], key=keys[3:9])
    np.testing.assert_allclose(part, whole[3:9], rtol=1e-12)


def test_pytree_states_share_one_step_size():
    joint = Denoiser(lambda x, t, cond: jax.tree.map(jnp.tanh, x), VP, "data")
    x = {"a": jnp.asarray(starts(), jnp.float32), "b": jnp.asarray(starts(), jnp.float32)}
    got = predictor_corrector(joint, VP, ddim(VP, time_grid(VP, 4)), x, key=KEY)
    assert got["a"].shape == got["b"].shape == (64, 2)
    assert got["a"].dtype == got["b"].dtype == jnp.float32
    assert not np.allclose(got["a"], got["b"])  # leaves have their own noise


def test_corrector_repairs_the_law():
    """Ancestral sampling in few steps leaves too little variance; Langevin steps bring most of it back."""
    model, ts = gaussian([0.5] * 100, 0.25, VE), time_grid(VE, 20, "karras", start=10.0, end=0.05)
    x, table = 0.5 + 10 * jax.random.normal(jax.random.key(1), (50, 100)), ddpm(VE, ts)
    plain, corrected = (
        predictor_corrector(model, VE, table, x, key=KEY, n_corrector=n, last_noise=True) for n in (0, 4)
    )
    exact = np.hypot(0.25, 0.05)
    assert abs(float(jnp.std(corrected)) / exact - 1) < abs(float(jnp.std(plain)) / exact - 1) / 3
    assert abs(float(jnp.mean(corrected)) - 0.5) < 4 * exact / np.sqrt(5000)


@pytest.mark.parametrize(
    ("build", "given", "error", "message"),
    [
        (heun, {}, ValueError, "2 slots"),
        (ddpm, {"n_corrector": -1}, ValueError, "`n_corrector` is -1"),
        (ddpm, {"key": None}, ValueError, "`key` is None"),
    ],
)
def test_mistakes_are_named(build, given, error, message):
    with pytest.raises(error, match=message):
        predictor_corrector(
            mixture(VP), VP, build(VP, time_grid(VP, 3)), jnp.asarray(starts()), **{"key": KEY, **given}
        )
