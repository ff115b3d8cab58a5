import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, law_error, starts
from scipy.optimize import brentq
from scipy.stats import norm

from odekit.samplers import (
    Denoiser,
    Reflected,
    clipped,
    consistent,
    ddim,
    descent,
    dpmpp,
    flow_dps,
    gaussian,
    guided,
    guided_by,
    heun,
    hooked,
    inpainted,
    reflect,
    replaced,
    sample,
    thresholded,
    time_grid,
)

X = jnp.asarray(starts()[:12].reshape(4, 6))
COND = jnp.array([[1.0], [2.0], [-1.0], [0.5]])


def conditional(schedule=FM, predicts="velocity"):
    """A network that is nonlinear in state and condition."""
    return Denoiser(lambda x, t, cond: 2 * jnp.sin(3 * x) * (1 + cond), schedule, predicts)


def test_rescaled_guidance_has_the_spread_of_the_condition():
    model, images = conditional(), X.reshape(4, 3, 2)

    @jax.jit
    def answers(x):
        rescaled = [guided(model, 4.0, 0.0, rescale=by).velocity(x, 0.5, COND) for by in (0.0, 0.7, 1.0)]
        full = guided(model, 4.0, 0.0, rescale=1.0)
        alone = jax.vmap(lambda x, cond: full.velocity(x, 0.5, cond))(x, COND)
        framed = guided(model, 4.0, 0.0, rescale=1.0, sample_ndim=2).velocity(images, 0.5, COND[..., None])
        return rescaled, alone, framed.reshape(4, 6)

    rescaled, alone, framed = answers(X)
    with_cond, without = 2 * np.sin(3 * X) * (1 + np.asarray(COND)), 2 * np.sin(3 * X)
    far = without + 4 * (with_cond - without)
    ratio = np.std(with_cond, axis=1, keepdims=True) / np.std(far, axis=1, keepdims=True)
    for got, by in zip(rescaled, (0.0, 0.7, 1.0), strict=True):
        np.testing.assert_allclose(got, far * (1 - by + by * ratio), rtol=1e-12)
    for got in (alone, framed):
        np.testing.assert_allclose(got, far * ratio, rtol=1e-12)


def test_guidance_in_an_interval():
    model = conditional()
    limited, always = guided(model, 4.0, 0.0, interval=(0.3, 0.6)), guided(model, 4.0, 0.0)
    for t, want in ((0.7, model), (0.5, always), (0.2, model)):
        np.testing.assert_allclose(limited.velocity(X, t, COND), want.velocity(X, t, COND), rtol=1e-14)
    times = jnp.array([0.7, 0.5, 0.2, 0.4])
    got = limited.velocity(X, times, COND)
    want = jnp.where((times == 0.5) | (times == 0.4), 1.0, 0.0)[:, None]
    want = want * always.velocity(X, 0.5, COND) + (1 - want) * model.velocity(X, 0.5, COND)
    np.testing.assert_allclose(got, want, rtol=1e-14)


def test_thresholds_by_hand():
    model, t = Denoiser(lambda x, t, cond: 2 * x, VP, "data"), 0.4
    data = 2 * np.asarray(X)
    top = np.maximum(np.quantile(np.abs(data), 0.8, axis=1, keepdims=True), 2.0)
    want = np.clip(data, -top, top) * 2.0 / top
    assert np.any(top > 2.0)
    assert np.any(top == 2.0)
    dynamic = thresholded(model, 0.8, 2.0)
    np.testing.assert_allclose(dynamic.data(X, t), want, rtol=1e-14)
    np.testing.assert_allclose(dynamic.noise(X, t), (X - VP.alpha(t) * want) / VP.sigma(t), rtol=1e-12)
    np.testing.assert_allclose(clipped(model, -0.5, 2.0).data(X, t), np.clip(data, -0.5, 2.0))
    np.testing.assert_allclose(jax.vmap(lambda x: dynamic.data(x, t))(X), want, rtol=1e-14)
    framed = thresholded(model, 0.8, 2.0, sample_ndim=2).data(X.reshape(4, 3, 2), t)
    np.testing.assert_allclose(framed.reshape(4, 6), want, rtol=1e-14)


def test_hooks_act_in_order_in_every_view_under_every_transformation():
    """Guided, then thresholded, then sampled from data and from velocities, by hand and through jit, grad and vmap."""
    model, ts = thresholded(guided(conditional(), 3.0, 0.0), 0.9), time_grid(FM, 4, start=0.9, end=0.1)
    tables = {"data": dpmpp(FM, ts, 1), "velocity": heun(FM, ts)}

    def by_hand(x, t):
        velocity = 2 * np.sin(3 * x) * (1 + 3 * np.asarray(COND))
        data = x - t * velocity
        top = np.maximum(np.quantile(np.abs(data), 0.9, axis=1, keepdims=True), 1.0)
        return np.clip(data, -top, top) / top

    x = np.asarray(X)
    for s, t in zip(ts, ts[1:], strict=False):
        x = t / s * x + (1 - t / s) * by_hand(x, s)
    np.testing.assert_allclose(sample(model, tables["data"], X, cond=COND), x, rtol=1e-11, atol=1e-13)
    x = np.asarray(X)
    for s, t in zip(ts, ts[1:], strict=False):
        slope = (x - by_hand(x, s)) / s
        probe = x + (t - s) * slope
        x = x + (t - s) * (slope + (probe - by_hand(probe, t)) / t) / 2
    np.testing.assert_allclose(sample(model, tables["velocity"], X, cond=COND), x, rtol=1e-11, atol=1e-13)

    def loss(scale, x, cond):
        model = thresholded(guided(conditional(), scale, 0.0), 0.9)
        return jnp.sum(sample(model, tables["data"], x, cond=cond) ** 2)

    def slopes(x):
        one_by_one = jax.vmap(jax.grad(loss, (0, 1)), (None, 0, 0))
        return jax.grad(loss, (0, 1))(3.0, x, COND), one_by_one(3.0, x, COND)

    (by_scale, by_x), (each_by_scale, each_by_x) = jax.jit(slopes)(X)
    assert by_scale != 0
    np.testing.assert_allclose(jnp.sum(each_by_scale), by_scale, rtol=1e-10)
    np.testing.assert_allclose(each_by_x, by_x, rtol=1e-10, atol=1e-13)


MASK, KNOWN = jnp.arange(6) < 2, jnp.arange(6.0)


def test_known_data_end_up_in_the_sample():
    model, ts = Denoiser(lambda x, t, cond: jnp.tanh(x + jnp.sum(x, -1, keepdims=True)), VP, "noise"), time_grid(FM, 6)
    painted = inpainted(Denoiser(model.fn, FM, "data"), KNOWN[None], MASK[None])
    for table in (dpmpp(FM, ts, 2), ddim(FM, ts, 1.0)):
        got = sample(painted, table, X, key=jax.random.key(0))
        np.testing.assert_allclose(got[:, :2], np.broadcast_to(KNOWN[:2], (4, 2)), rtol=1e-12, atol=1e-14)
    noise = jnp.ones_like(X)
    project = replaced(FM, KNOWN[None], MASK[None], noise)
    plain = Denoiser(model.fn, FM, "data")
    path = sample(plain, ddim(FM, ts), project(X, jnp.array(1.0)), trajectory=True, project=project)
    for t, x in zip(ts, path, strict=True):
        np.testing.assert_allclose(x[:, :2], np.broadcast_to((1 - t) * KNOWN[:2] + t, (4, 2)), rtol=1e-12)
    assert np.all(path[-1][:, 2:] != sample(plain, ddim(FM, ts), X)[:, 2:])


@pytest.mark.parametrize(("schedule", "t"), [(VP, 0.4), (FM, 0.7), (VE, 2.0)])
def test_guidance_by_a_measurement_of_gaussian_data(schedule, t):
    """The Jacobian of the data prediction is the posterior variance of the data times alpha / sigma**2."""
    std, matrix, y = np.array([0.5, 2.0]), np.array([[1.0, -1.0], [0.5, 2.0]]), np.array([0.3, -1.0])
    model, x = gaussian([0.2, -0.4], std, schedule), starts()[:5]
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    spread = std**2 * sigma**2 / (alpha**2 * std**2 + sigma**2)
    data = np.asarray(model.data(jnp.asarray(x), t))
    r = data @ matrix.T - y

    def residual(data):
        return jnp.sum(data[:, None, :] * matrix[None], axis=-1) - y[None]

    hows = ({"scale": 0.7}, {"scale": lambda t: 0.1 * t, "squared": False}, {"scale": 0.7, "through_network": False})
    got = jax.jit(lambda x: [guided_by(model, residual, **how).data(x, t) for how in hows])(jnp.asarray(x))
    unit = r / np.linalg.norm(r, axis=1, keepdims=True)
    moves = (0.7 * spread * (r @ matrix), 0.1 * t * spread * (unit @ matrix), 0.7 * (r @ matrix))
    for answer, move in zip(got, moves, strict=True):
        np.testing.assert_allclose(answer, data - move, rtol=1e-11, atol=1e-13)


def test_guidance_by_a_residual_has_no_nan_where_it_is_met_or_at_the_ends():
    model = gaussian([0.0, 0.0], 1.0, FM)

    @jax.jit
    def answers(t):
        pairs = []
        for how in ({"squared": False}, {"squared": True}, {"through_network": False}):
            met = guided_by(model, lambda data: 0 * data, 1.0, **how).data(X[:, :2], t)
            off = guided_by(model, lambda data: data - 1.0, 1.0, **how).data(X[:, :2], t)
            pairs.append((met, off))
        return pairs

    for t in (0.0, 0.5, 1.0):
        for met, off in answers(t):
            np.testing.assert_array_equal(met, model.data(X[:, :2], t))
            assert jnp.all(jnp.isfinite(off))


def test_flow_dps_step_by_step():
    """The published loop, written out: refined data in proportion of the noise level, its own noise kept."""
    ts, model = time_grid(FM, 5), Denoiser(lambda x, t, cond: jnp.tanh(2 * x), FM, "velocity")
    refine = descent(lambda data: data - 0.5, 0.1, 2)
    table, key = flow_dps(FM, ts), jax.random.key(4)
    got = sample(consistent(model, table, refine), table, X, key=key)
    z = np.asarray(X)
    for k, (s, t) in enumerate(zip(ts, ts[1:], strict=False)):
        xi = np.asarray(jax.random.normal(jax.random.fold_in(key, k), X.shape))
        u = np.tanh(2 * z)
        clean, noise = z - s * u, z + (1 - s) * u
        fine = clean
        for _ in range(2):
            fine = fine - 0.1 * (fine - 0.5) / np.linalg.norm(fine - 0.5)
        clean = (1 - s) * clean + s * fine
        z = (1 - t) * clean + t * (np.sqrt(t) * noise + np.sqrt(1 - t) * xi)
    np.testing.assert_allclose(got, z, rtol=1e-11, atol=1e-13)
    with pytest.raises(ValueError, match="`table`"):
        consistent(model, ddim(FM, ts), refine)


def test_flow_dps_has_a_limit_that_is_too_narrow():
    """More steps settle on another law than that of the data, N(0.5, 0.25**2), unlike those of ancestral sampling."""
    coarse, fine = (law_error(flow_dps(FM, time_grid(FM, n)), FM) for n in (128, 256))
    assert abs(coarse - fine) < 1e-3
    assert fine > 0.05
    assert law_error(ddim(FM, time_grid(FM, 256), 1.0), FM) < 0.01


def test_walls_are_mirrors():
    x = jnp.linspace(-3.0, 3.0, 61)
    np.testing.assert_allclose(reflect(x), np.arccos(np.cos(np.pi * x)) / np.pi, atol=1e-7)


POINTS = np.array([[0.15, 0.5], [0.8, 0.9], [0.4, 0.05]])


def folded(x, sigma):
    """The density of the folded Gaussian by many images, in NumPy."""
    m = 2.0 * np.arange(-12, 13)
    y, x = POINTS[:, :, None], x[..., None, :, None]
    kernel = norm.pdf(x - y - m, scale=sigma).sum(-1) + norm.pdf(x + y - m, scale=sigma).sum(-1)
    return kernel.prod(-1).mean(-1)


def test_the_reflected_kernel():
    model, x, step = Reflected(POINTS, VE), np.abs(np.mod(starts()[:8] + 1, 2) - 1), 1e-5
    both = jax.jit(lambda x, sigma: (model.log_prob(x, sigma), model.score(x, sigma)))
    for sigma in (0.05, 0.3, 0.499, 0.501, 1.0, 3.0):
        log_prob, score = both(jnp.asarray(x), sigma)
        np.testing.assert_allclose(log_prob, np.log(folded(x, sigma)), rtol=1e-9, atol=1e-13)
        for i in range(2):
            up, down = (folded(x + by * np.eye(2)[i], sigma) for by in (step, -step))
            np.testing.assert_allclose(score[:, i], np.log(up / down) / (2 * step), rtol=1e-4, atol=1e-6)
    walls = jnp.tile(jnp.array([[0.0, 1.0], [1.0, 0.0]]), (4, 1))
    np.testing.assert_allclose(both(walls, 0.4)[1], 0.0, atol=1e-12)
    _, single = both(jnp.asarray(x, jnp.float32), jnp.full(8, 0.7))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, both(jnp.asarray(x), 0.7)[1], rtol=1e-4, atol=2e-5)


def test_the_reflected_flow_moves_quantiles():
    """In one dimension the flow keeps the distribution function, which is a sum of images."""
    model = Reflected([[0.2], [0.7]], VE)
    m = 2.0 * np.arange(-6, 7)

    def cdf(x, sigma):
        parts = [norm.cdf((x + s * y - m) / sigma) - norm.cdf((s * y - m) / sigma) for y in (0.2, 0.7) for s in (1, -1)]
        return np.sum(parts) / 2

    x0 = (np.arange(8) + 0.5) / 8
    ts = time_grid(VE, 100, "karras", start=2.5, end=0.08)
    got = sample(model, heun(VE, ts), jnp.asarray(x0[:, None]), project=reflect)[:, 0]
    want = [brentq(lambda x, q=q: cdf(x, 0.08) - q, 0.0, 1.0, xtol=1e-12) for q in x0]
    np.testing.assert_allclose(got, want, atol=5e-4)


def test_reflected_samples_have_the_law_of_the_data():
    """Cosines are the eigenfunctions of the walls, so their means are known; 2000 samples, four standard errors."""
    model, n = Reflected([[0.2], [0.7]], VE), 2000
    x = jax.random.uniform(jax.random.key(1), (n, 1))
    got = sample(
        model,
        ddim(VE, time_grid(VE, 80, "karras", start=2.5, end=0.05), 1.0),
        x,
        key=jax.random.key(2),
        project=reflect,
    )
    assert jnp.all((got >= 0) & (got <= 1))
    for k in (1, 2, 3):
        wave = np.cos(k * np.pi * np.asarray(got))
        want = np.exp(-0.5 * (k * np.pi * 0.05) ** 2) * np.mean(np.cos(k * np.pi * np.array([0.2, 0.7])))
        assert abs(wave.mean() - want) < 4 * wave.std() / np.sqrt(n)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: Reflected([[0.5, 1.2]], VE), "`samples`"),
        (lambda: Reflected([[0.5]], FM), "`schedule`"),
    ],
)
def test_mistakes_are_named(call, argument):
    with pytest.raises(ValueError, match=argument):
        call()


def test_any_change_of_the_data_is_a_hook():
    model = hooked(Denoiser(lambda x, t, cond: x, VE, "data"), lambda data, x, t: jax.tree.map(jnp.floor, data))
    tree = {"a": X, "b": X[:, 0]}
    assert jax.tree.all(jax.tree.map(lambda d, x: jnp.all(d == jnp.floor(x)), model.data(tree, 1.0), tree))
