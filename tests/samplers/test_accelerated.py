import numpy as np
from cases_sampling import VE, VP, flow_error, numpy_view, run_by_hand, starts

from odekit.samplers import accelerated_ddim, time_grid


def test_errors_on_the_mixture():
    for n, nfe, printed in ((3, 5, 7.7), (5, 9, 1.8), (10, 19, 0.27)):
        table = accelerated_ddim(VP, time_grid(VP, n))
        assert table.nfe == nfe
        assert abs(flow_error(table, "VP") - printed) < 0.5 * 10 ** np.floor(np.log10(printed) - 1)


def test_slope():
    coarse, fine = (flow_error(accelerated_ddim(VP, time_grid(VP, n)), "VP") for n in (128, 256))
    assert np.log2(coarse / fine) > 1.96 - 0.15


def test_the_published_formula():
    """In the score, on a schedule that preserves the variance."""
    ts, noise, x = time_grid(VP, 5), numpy_view(VP, "noise"), starts()

    def score(x, t):
        return -noise(x, t) / VP.sigma(t)

    square = VP.alpha(ts) ** 2
    for k in range(5):
        a, s = square[k] / square[k + 1], score(x, ts[k])
        new = x + (1 - a) / 2 * s
        if k > 0:
            a0 = square[k - 1] / square[k]
            older = score(np.sqrt(a0) * (x - (1 - a0) / 2 * s), ts[k - 1])
            new = new + (1 - a) ** 2 / (4 * (1 - a0)) * (s - np.sqrt(a0) * older)
        x = new / np.sqrt(a)
    got = run_by_hand(accelerated_ddim(VP, ts), noise, starts(), None)
    np.testing.assert_allclose(got, x, rtol=1e-11, atol=1e-11)


def test_it_is_the_same_on_a_schedule_scaled_to_other_variances():
    lam, scaled = np.linspace(-3.0, 3.0, 7), []
    for schedule in (VP, VE):
        ts = schedule.t_of_lam(lam)
        alpha = schedule.alpha(ts)
        table = accelerated_ddim(schedule, ts)
        scaled.append(run_by_hand(table, numpy_view(schedule, "noise"), 20 * alpha[0] * starts(), None) / alpha[-1])
    np.testing.assert_allclose(scaled[1], scaled[0], rtol=1e-9, atol=1e-9)
