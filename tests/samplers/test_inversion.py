import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VP, ends, mixture, numpy_view, run_by_hand, slots_by_hand, starts, toy

import odekit as ok
from odekit.loops.table import TableState
from odekit.samplers import (
    Denoiser,
    adams,
    bdia,
    belm,
    controlled,
    ddim,
    dpm,
    dpmpp,
    encode_noise,
    euler,
    gaussian,
    inverse,
    invert,
    rex,
    rf,
    sa,
    sample,
    slerp,
    time_grid,
    translate,
)

IMAGES = jnp.asarray(ends("VP"))
KEY = jax.random.key(5)


def rms(a, b):
    return float(np.sqrt(np.mean((np.asarray(a) - np.asarray(b)) ** 2)))


@pytest.mark.parametrize(("build", "latents"), [(bdia, 1e-12), pytest.param(rex, 4e-11, marks=pytest.mark.slow)])
def test_round_trips(build, latents):
    """An image comes back from its encoding, a sample goes back to its own start; 50 steps in float64."""
    table, model = build(VP, time_grid(VP, 50, "logsnr")), mixture(VP)
    of_image = invert(model, table, IMAGES)
    assert of_image.error < 1e-12
    np.testing.assert_array_equal(of_image.x, of_image.state.slots[0])
    end = sample(model, table, jnp.asarray(starts()), state=True)
    of_sample = invert(model, table, end, measure=False)
    assert of_sample.error is None
    np.testing.assert_allclose(of_sample.x, starts(), atol=latents)
    again = sample(model, table, of_sample.state, state=True)
    np.testing.assert_allclose(again.slots[0], end.slots[0], atol=1e-12)


def test_the_error_that_a_small_gamma_costs_is_reported():
    model, x = mixture(VP), jnp.asarray(starts())
    for gamma, lost in ((0.9, False), (0.5, True)):
        table = bdia(VP, time_grid(VP, 50, "logsnr"), gamma)  # the same shapes: compiled once
        found = invert(model, table, sample(model, table, x, state=True))
        np.testing.assert_allclose(found.amplification, gamma**-49.0, rtol=1e-12)
        assert (rms(found.x, x) > 1e-3) == lost  # 1e-16 * 2**49 is 0.06, give or take how rounding falls
        assert (rms(found.x, x) < 1e-11) != lost


def test_an_encoding_of_images_is_the_start_of_their_flow():
    """Alone, without its older slots, the encoding is as good as the solver, of order 2."""
    up, errors = numpy_view(VP, "noise"), []
    for n in (16, 64):
        ts = time_grid(VP, n, "quadratic")
        back = run_by_hand(dpm(VP, ts[[-1, -2]], 1), up, np.asarray(IMAGES), None)
        table = inverse(bdia(VP, ts))
        errors.append(rms(slots_by_hand(table, numpy_view(VP, "data"), [np.asarray(IMAGES), back], None)[0], starts()))
    assert errors[1] < 0.02
    assert errors[0] / errors[1] > 8.0


def test_noise_is_undone_with_the_same_key():
    model, x = toy(VP, "data"), jnp.asarray(starts())
    table = rex(VP, time_grid(VP, 6, start=0.4, end=0.1), ok.Heun(), sde=True)
    end = sample(model, table, x, key=KEY, state=True)
    np.testing.assert_allclose(invert(model, table, end, key=KEY, measure=False).x, x, atol=1e-11)
    assert rms(invert(model, table, end, key=jax.random.key(6), measure=False).x, x) > 0.1


# steps: rms round trips from the start down and up again, on logsnr: DDIM both ways, DPM-Solver++ and DPM-Solver
MORPHS = {10: (0.45, 0.14), 20: (0.25, 0.036), 50: (0.11, 0.0056)}


@pytest.mark.parametrize("n", MORPHS)
def test_encoders_on_the_reversed_grid(n):
    ts = time_grid(VP, n, "logsnr")
    pairs = ((ddim(VP, ts), ddim(VP, ts[::-1])), (dpmpp(VP, ts, 2, lower_order_final=False), dpm(VP, ts[::-1], 2)))
    for (down, up), printed in zip(pairs, MORPHS[n], strict=True):
        there = run_by_hand(down, numpy_view(VP, "data"), starts(), None)
        value = rms(run_by_hand(up, numpy_view(VP, up.view), there, None), starts())
        assert abs(value - printed) < 0.506 * 10.0 ** (np.floor(np.log10(printed)) - 1)


@pytest.mark.parametrize(("n", "printed"), [(8, (3.3e-3, 2.0e-1)), (15, (6.9e-4, 1.1e-1)), (30, (7.9e-5, 5.8e-2))])
def test_rf_solver_there_and_back(n, printed):
    """An even order gains one there and back; Euler at equal cost does not. Both run from pure noise to none."""
    view = numpy_view(FM, "velocity")
    for build, steps, want in ((rf, n, printed[0]), (euler, 2 * n, printed[1])):
        ts = time_grid(FM, steps)
        there = run_by_hand(build(FM, ts), view, starts(), None)
        value = rms(run_by_hand(build(FM, ts[::-1]), view, there, None), starts())
        assert abs(value - want) < 0.51 * 10.0 ** (np.floor(np.log10(want)) - 1)


def test_tables_that_cannot_be_undone_are_run_upwards():
    """By their own times, from no noise to pure noise, to within the solvers' error, which is what is reported."""
    images, table, model = jnp.asarray(ends("FM")), adams(FM, time_grid(FM, 40, "quadratic"), 2), mixture(FM)
    found = invert(model, table, images)
    assert found.amplification is None
    assert rms(found.x, starts()) < 0.05
    assert len(found.state.slots) == 1
    np.testing.assert_allclose(
        found.error, np.max(np.abs(sample(model, table, found.x) - images)), rtol=1e-12, atol=1e-14
    )
    up = adams(FM, np.asarray(table.t_state)[::-1], 2)
    np.testing.assert_allclose(
        invert(model, table, images, encoder=up, measure=False).x, sample(model, up, images), rtol=1e-13
    )


def test_invert_composes_with_transformations():
    """Compiled, batched, and differentiated with respect to sample, model and grid."""

    def encode(x, mean, ts):
        return jnp.sum(jnp.sin(invert(gaussian(mean, 0.5, VP), bdia(VP, ts), x, measure=False).x))

    value_and_slopes = jax.jit(jax.value_and_grad(encode, (0, 1, 2)))
    at = (IMAGES[:3], jnp.array([0.3, -0.2]), jnp.asarray(time_grid(VP, 4)))
    _, slopes = value_and_slopes(*at)
    for k, (slope, leaf) in enumerate(zip(slopes, at, strict=True)):
        direction = jnp.asarray(np.random.RandomState(k).standard_normal(leaf.shape))
        up, down = (value_and_slopes(*at[:k], leaf + by * direction, *at[k + 1 :])[0] for by in (1e-6, -1e-6))
        np.testing.assert_allclose((up - down) / 2e-6, jnp.vdot(slope, direction), rtol=1e-6, atol=1e-8)
    table, model = bdia(VP, time_grid(VP, 4)), gaussian(at[1], 0.5, VP)
    each = jax.jit(lambda table, x: jax.vmap(lambda x: invert(model, table, x, measure=False).x)(x))(table, at[0])
    np.testing.assert_allclose(each, invert(model, table, at[0], measure=False).x, rtol=1e-12)


def test_float32():
    """The table stays in float64 until it is run: what is lost is the state's own rounding."""
    found = invert(mixture(VP), bdia(VP, time_grid(VP, 50, "logsnr")), IMAGES.astype(jnp.float32))
    assert found.x.dtype == jnp.float32
    assert found.error.dtype == jnp.float32
    assert found.error < 1e-5


def test_pytrees():
    def fn(x, t, cond):
        return jax.tree.map(lambda leaf: jnp.tanh(leaf) * t.astype(leaf.dtype), x)

    model, x = Denoiser(fn, VP, "data"), {"a": IMAGES[:3], "b": (IMAGES[3:8, 0],)}
    found = invert(model, belm(VP, time_grid(VP, 5)), x)
    assert jax.tree.structure(found.x) == jax.tree.structure(x)
    assert found.error < 1e-12


def test_translation_between_two_models():
    """Of Gaussian data, whose flows only shift and scale: a sample keeps its place in units of the spread."""
    source, target = gaussian([0.5, 0.0], 0.2, VP), gaussian([-1.0, 2.0], 0.7, VP)
    table, x = bdia(VP, time_grid(VP, 100, "logsnr")), jnp.array([[0.7, 0.0], [0.5, -0.3]])
    there = np.asarray(translate(source, target, table, x))
    np.testing.assert_allclose((there - [-1.0, 2.0]) / 0.7, (np.asarray(x) - [0.5, 0.0]) / 0.2, atol=2e-2)


def test_translation_hands_each_model_its_condition():
    model = Denoiser(lambda x, t, cond: cond - 0.5 * x, VP, "data")
    table = bdia(VP, time_grid(VP, 5))
    a, b = jnp.full((64, 2), 1.0), jnp.full((64, 2), 2.0)
    np.testing.assert_allclose(translate(model, model, table, IMAGES, cond=a, target_cond=a), IMAGES, atol=1e-12)
    assert rms(translate(model, model, table, IMAGES, cond=a, target_cond=b), IMAGES) > 0.1


@pytest.mark.parametrize("end", ["data", "noise"])
def test_full_control_leads_to_the_known_end(end):
    """Of strength 1 the path is the straight one, of strength 0 the model's own, in every view."""
    known, ts = jnp.asarray(starts()[:4] + 1.0), time_grid(FM, 6, start=0.9, end=0.1)
    ts = ts if end == "data" else ts[::-1]
    x = jnp.asarray(starts()[:4])
    alpha, sigma = FM.alpha(ts[-1]), FM.sigma(ts[-1])
    for model in (toy(FM, "velocity"), toy(FM, "noise"), mixture(FM)):
        np.testing.assert_allclose(
            controlled(model, known, 0.0, end).velocity(x, 0.4), model.velocity(x, 0.4), rtol=1e-12
        )
    there = sample(controlled(toy(FM, "noise"), known, 1.0, end), euler(FM, ts), x)
    known_part, moved = (alpha, sigma) if end == "data" else (sigma, alpha)
    begin = {"data": FM.sigma, "noise": FM.alpha}[end](ts[0])
    other = (x - {"data": FM.alpha, "noise": FM.sigma}[end](ts[0]) * known) / begin  # the unknown end of the line
    np.testing.assert_allclose(there, known_part * known + moved * other, rtol=1e-11, atol=1e-12)


def test_control_is_the_mixture_of_velocities_of_the_paper():
    """`v + strength (v_known - v)`, with `(known - x) / (1 - t)` towards noise and `(x - known) / t` towards data."""
    model, known, x, t = mixture(FM), jnp.asarray(starts()[:4]), jnp.asarray(starts()[4:8]), 0.3
    own = model.velocity(x, t)
    for end, line in (("noise", (known - x) / (1 - t)), ("data", (x - known) / t)):
        got = controlled(model, known, lambda t: 2 * t, end).velocity(x, t)
        np.testing.assert_allclose(got, own + 0.6 * (line - own), rtol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "build"),
    [
        pytest.param(VP, functools.partial(sa, order=3, lower_order_final=True), marks=pytest.mark.slow),
        (FM, functools.partial(ddim, eta=0.5)),
    ],
)
def test_a_sample_comes_back_with_its_own_noise(schedule, build):
    """Also with history, and with a last row that adds no noise."""
    model, table = mixture(schedule), build(schedule, time_grid(schedule, 6))
    start, replay = encode_noise(model, table, IMAGES, key=KEY)
    assert not replay.stochastic
    np.testing.assert_allclose(sample(model, replay, start), IMAGES, rtol=1e-10, atol=1e-12)
    other = sample(gaussian([0.0, 0.0], 1.0, schedule), replay, start)
    assert rms(other, IMAGES) > 1e-3


@pytest.mark.slow
def test_recovered_noise_is_a_path_of_the_forward_process():
    """With the exact model of Gaussian data a row's noise is the posterior's and what the model cannot know of data."""
    a_key, b_key = jax.random.split(KEY, 2)
    model, ts = gaussian([0.5], 0.25, VP), time_grid(VP, 20, "logsnr")
    table, alpha, sigma = ddim(VP, ts, 1.0), VP.alpha(ts), VP.sigma(ts)
    x = alpha[-1] * 0.5 + np.hypot(alpha[-1] * 0.25, sigma[-1]) * jax.random.normal(a_key, (20000, 1))
    start, replay = encode_noise(model, table, x, key=b_key)
    np.testing.assert_allclose(np.std(start), np.hypot(alpha[0] * 0.25, sigma[0]), rtol=0.03)
    unknown = (0.25 * sigma[:-1]) ** 2 / np.hypot(alpha[:-1] * 0.25, sigma[:-1]) ** 2
    want = np.sqrt(np.asarray(table.noise)[:, 0] ** 2 + np.asarray(table.evals)[:, 0, 0] ** 2 * unknown)
    left = np.asarray(replay.offset)[:, 0, :, 0]
    np.testing.assert_allclose(np.std(left, axis=1), want, rtol=0.03)
    assert np.max(np.abs(np.mean(left / want[:, None], axis=1))) < 0.03


def test_slerp_keeps_to_the_sphere():
    a, b = ({"p": jnp.asarray(starts()[i]), "q": jnp.asarray(starts()[i + 1, :1])} for i in (2, 9))
    a, b = (jax.tree.map(lambda leaf, n=n: leaf / n, tree) for tree, n in ((a, norm(a)), (b, norm(b))))
    angle = np.arccos(sum(float(jnp.vdot(p, q)) for p, q in zip(a.values(), b.values(), strict=True)))
    for weight in (0.0, 0.25, 1.0):
        got = slerp(a, b, weight)
        np.testing.assert_allclose(norm(got), 1.0, rtol=1e-12)
        along = sum(float(jnp.vdot(p, q)) for p, q in zip(a.values(), got.values(), strict=True))
        np.testing.assert_allclose(along, np.cos(weight * angle), rtol=1e-12)


def norm(tree):
    return np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in tree.values()))


def test_slerp_of_one_direction_is_a_line_with_a_derivative():
    a = jnp.array([3.0, 4.0], jnp.float32)
    mixed, slope = jax.jit(jax.value_and_grad(lambda a: jnp.sum(slerp(a, 2 * a, 0.5))))(a)
    np.testing.assert_allclose(mixed, 1.5 * 7.0, rtol=1e-6)
    assert np.all(np.isfinite(slope))
    assert mixed.dtype == jnp.float32


class Bare:
    def data(self, x, t, cond=None):
        return x


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: invert(mixture(VP), ddim(VP, [1.0, 0.5], 1.0), IMAGES), ValueError, "`encode_noise`"),
        (lambda: invert(Bare(), ddim(VP, [1.0, 0.5]), IMAGES), TypeError, "without a schedule, which sampling upwards"),
        (lambda: invert(Bare(), bdia(VP, [1.0, 0.5]), IMAGES), TypeError, "without a schedule, which a sample given"),
        (
            lambda: invert(mixture(VP), bdia(VP, [1.0, 0.5]), IMAGES, encoder=ddim(VP, [0.5, 1.0])),
            ValueError,
            "`encoder` is given",
        ),
        (lambda: invert(mixture(VP), rex(VP, [1.0, 0.5], sde=True), IMAGES), ValueError, "`key` is None"),
        (
            lambda: invert(mixture(VP), bdia(VP, [1.0, 0.5]), TableState((IMAGES,))),
            ValueError,
            "`x_init` has 1 slots",
        ),
        (lambda: sample(mixture(VP), ddim(VP, [1.0, 0.5]), IMAGES, trajectory=True, state=True), ValueError, "both"),
        (lambda: controlled(mixture(VP), IMAGES, 0.5, "start"), ValueError, "`end` is 'start'"),
        (lambda: controlled(Bare(), IMAGES, 0.5), TypeError, "without a schedule"),
        (
            lambda: encode_noise(mixture(VP), rex(VP, [1.0, 0.5], sde=True), IMAGES, key=KEY),
            ValueError,
            "not one slot",
        ),
    ],
)
def test_mistakes_are_named(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
