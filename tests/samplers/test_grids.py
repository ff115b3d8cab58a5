import jax
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, law_error

from odekit.samplers import ddim, discrete_grid, dpmpp, flow_dps, flow_shift, sa, time_grid
from odekit.samplers.grids import on_grid
from odekit.schedules import VE as GeometricVE
from odekit.schedules import FlowMatching, KineticOptimal, SubVP, VPCosine, betas, from_betas, zero_terminal_snr

UP = FlowMatching(data_at=1)


@pytest.mark.parametrize("schedule", [VP, FM, UP, VE, VPCosine(), SubVP()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("spacing", ["time", "logsnr", "quadratic", "karras", "sigmoid"])
@pytest.mark.parametrize("end", ["min", "zero"])
def test_grids_run_from_noise_to_data(schedule, spacing, end):
    ts = time_grid(schedule, 8, spacing, end=end)
    assert ts.shape == (9,)
    assert ts.dtype == np.float64
    assert np.all(np.diff(schedule.lam(ts)) > 0)
    assert ts[0] == schedule.t_start
    assert ts[-1] == (float(schedule is UP) if end == "zero" else schedule.t_end)
    if schedule is UP:
        np.testing.assert_allclose(ts, 1 - time_grid(FM, 8, spacing, end=end), rtol=1e-12)


def test_spacings_are_uniform_in_what_they_say():
    assert np.ptp(np.diff(time_grid(VP, 9, "time"))) < 1e-15
    assert np.ptp(np.diff(VP.lam(time_grid(VP, 9, "logsnr")))) < 1e-13
    assert np.ptp(np.diff(np.sqrt(time_grid(VP, 9, "quadratic")))) < 1e-15
    assert np.ptp(np.diff(time_grid(VP, 9, "power", rho=3.0) ** (1 / 3))) < 1e-15
    logits = FM.lam(time_grid(FM, 9, "sigmoid", start=FM.t_of_lam(-6.0), end=FM.t_of_lam(6.0)))
    assert np.ptp(np.diff(logits)) < 1e-12
    ts = time_grid(VP, 9, "karras")
    assert np.ptp(np.diff((VP.sigma(ts) / VP.alpha(ts)) ** (1 / 7))) < 1e-13


def test_karras_levels_as_published():
    i = np.arange(18)
    want = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(time_grid(VE, 18, "karras", end="zero"), [*want, 0.0], rtol=1e-13)


def test_infinite_ends_are_spaced_from_within_and_then_moved_out():
    ts = time_grid(FM, 10, "logsnr")
    inner = FM.lam(np.array([0.999, *ts[1:-1], 1e-3]))
    assert np.ptp(np.diff(inner)) < 1e-12
    assert (ts[0], ts[-1]) == (1.0, 0.0)


def test_given_ends():
    np.testing.assert_allclose(time_grid(FM, 2, start=0.8, end=0.2), [0.8, 0.5, 0.2])


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_a_shift_is_a_shift_of_lam(shift):
    ts = time_grid(FM, 10)
    for schedule, got in ((FM, time_grid(FM, 10, shift=shift)), (UP, 1 - time_grid(UP, 10, shift=shift))):
        np.testing.assert_allclose(got, shift * ts / (1 + (shift - 1) * ts), rtol=1e-13, atol=1e-15)
        assert schedule.lam(schedule.t_end) == np.inf
    circle = KineticOptimal(0.0)
    lam, moved = circle.lam(time_grid(circle, 10)[1:-1]), circle.lam(time_grid(circle, 10, shift=shift)[1:-1])
    np.testing.assert_allclose(moved, lam - np.log(shift), rtol=1e-12)


def test_shifts_by_size():
    assert flow_shift(256, 256) == 1.0
    assert flow_shift(512, 1024) == pytest.approx(np.sqrt(8))
    assert flow_shift(256, 256, "flux") == pytest.approx(np.exp(0.5))
    assert flow_shift(1024, 1024, "flux") == pytest.approx(np.exp(1.15))


LATENT = from_betas(betas("scaled_linear"))


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({"spacing": "leading"}, [750, 500, 250, 0]),
        ({"spacing": "leading", "steps_offset": 1}, [751, 501, 251, 1]),
        ({"spacing": "leading", "drop_last": True}, [800, 600, 400, 200]),
        ({"spacing": "trailing"}, [999, 749, 499, 249]),
        ({"spacing": "linspace"}, [999, 666, 333, 0]),
        ({"spacing": "linspace", "drop_last": True}, [999, 749, 500, 250]),
    ],
)
def test_discrete_spacings_as_published(given, want):
    ts = discrete_grid(LATENT, 4, **given)
    np.testing.assert_array_equal(np.round(ts[:-1] * 1000 - 1), want)
    assert ts[-1] == 0
    if want[-1] > 0:
        np.testing.assert_array_equal(discrete_grid(LATENT, 4, end="min", **given), [*ts[:-1], 1e-3])


@pytest.mark.parametrize("build", [ddim, dpmpp, sa, flow_dps])
def test_networks_with_no_data_at_the_start(build):
    """Zero terminal signal: a point is sampled from pure noise exactly, by finite numbers."""
    schedule = from_betas(zero_terminal_snr(betas("scaled_linear")))
    table = build(schedule, discrete_grid(schedule, 8, "trailing"))
    assert table.t[0] == 1
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(table))
    assert law_error(table, schedule, std=0.0) < 1e-14


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: time_grid(VP, 0), "`n`"),
        (lambda: time_grid(VP, 4, "log"), "`spacing`"),
        (lambda: time_grid(VP, 4, end="max"), "`end`"),
        (lambda: time_grid(VP, 4, rho=2.0), "`rho`"),
        (lambda: time_grid(VP, 4, "karras", rho=-1.0), "`rho`"),
        (lambda: time_grid(GeometricVE(), 4, end="zero"), "`end`"),
        (lambda: time_grid(VP, 40, shift=3.0), "`shift`"),
        (lambda: time_grid(FM, 4, shift=0.0), "`shift`"),
        (lambda: flow_shift(64, 64, "sdxl"), "`rule`"),
        (lambda: discrete_grid(LATENT, 1001), "`n`"),
        (lambda: discrete_grid(LATENT, 4, end="min"), "`n` is 4, with which the time 0.001 repeats"),
        (lambda: discrete_grid(LATENT, 4, "sdxl"), "`spacing`"),
        (lambda: discrete_grid(LATENT, 4, end="max"), "`end`"),
        (lambda: ddim(VP, [0.5]), "`ts`"),
        (lambda: ddim(VP, [[1.0, 0.5]]), "`ts`"),
        (lambda: ddim(VP, [1.0, 0.2, 0.5]), r"`ts` must be monotone: ts\[2\]=0.5 follows ts\[1\]=0.2"),
        (lambda: ddim(VP, [1.0, 0.5, 0.5]), r"ts\[2\]=0.5 follows ts\[1\]=0.5"),
        (lambda: ddim(VP, [0.0, 0.5]), "no noise"),
        (lambda: ddim(VP, [0.2, 0.5], eta=1.0), "`eta`"),
        (lambda: sa(VP, [0.2, 0.5]), "`tau`"),
    ],
)
def test_mistakes_are_named(call, argument):
    with pytest.raises(ValueError, match=argument):
        call()


def test_a_grid_knows_whether_it_is_being_trained():
    assert not on_grid(VP, [1.0, 0.5]).traced
    seen = []
    jax.eval_shape(lambda ts: seen.append(on_grid(VP, ts).traced), jax.numpy.array([1.0, 0.5]))
    assert seen == [True]
