import jax
import numpy as np
import pytest
from cases_sampling import FM, VE, VP

from odekit.samplers import ddim, sa, time_grid
from odekit.samplers.grids import on_grid
from odekit.schedules import VPCosine


@pytest.mark.parametrize("schedule", [VP, FM, VE, VPCosine()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("spacing", ["time", "logsnr", "quadratic", "karras"])
@pytest.mark.parametrize("end", ["min", "zero"])
def test_grids_run_from_noise_to_data(schedule, spacing, end):
    ts = time_grid(schedule, 8, spacing, end=end)
    assert ts.shape == (9,)
    assert ts.dtype == np.float64
    assert np.all(np.diff(ts) < 0)
    assert ts[0] == schedule.t_start
    assert ts[-1] == (0.0 if end == "zero" else schedule.t_end)


def test_spacings_are_uniform_in_what_they_say():
    assert np.ptp(np.diff(time_grid(VP, 9, "time"))) < 1e-15
    assert np.ptp(np.diff(VP.lam(time_grid(VP, 9, "logsnr")))) < 1e-13
    assert np.ptp(np.diff(np.sqrt(time_grid(VP, 9, "quadratic")))) < 1e-15
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


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: time_grid(VP, 0), "`n`"),
        (lambda: time_grid(VP, 4, "log"), "`spacing`"),
        (lambda: time_grid(VP, 4, end="max"), "`end`"),
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
