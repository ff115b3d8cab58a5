import numpy as np
import pytest
from cases_sampling import VE, VP, agrees, assert_errors, flow_error, flow_slope, numpy_view, run_by_hand, starts

from odekit.samplers import ddim, pndm, time_grid

ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -4 / 3, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -3 / 8))
# kind: rms error to the exact flow, None where there are too few evaluations; slope uniform in lam and quadratic
MIXTURE = {
    "i": (1.67e-1, 3.18e-2, 5.76e-3, 6.89e-2, 1.06e-2, 3.26e-3, 8.93e-2, 2.32e-2, 1.93, 1.97),
    "s": (2.30e-1, 9.27e-2, 4.61e-2, 2.04e-1, 5.87e-2, 2.75e-2, 9.56e-2, 3.42e-2, 1.98, 1.97),
    "f": (None, 5.91e2, 2.34e-2, None, 5.91e2, 1.24e-2, 5.91e2, 7.51e-2, 1.93, 1.97),
}
MORE = {"i": 0, "s": 1, "plms": 1, "f": 9}
"""Evaluations beyond one a step."""


@pytest.mark.parametrize("kind", MIXTURE)
def test_errors_and_slopes_on_the_mixture(kind):
    """The numbers of the grids are those of evaluations; one step of F-PNDM, four evaluations, stands in for ten."""
    *printed, uniform, quadratic = MIXTURE[kind]

    def build(schedule, ts):
        table = pndm(schedule, ts, kind=kind)
        steps = len(ts) - 1
        assert table.nfe == steps + 3 * min(3, steps) if kind == "f" else steps + MORE[kind]
        return table

    assert_errors(build, printed, more=MORE[kind])
    assert flow_slope(build, "logsnr") > uniform - 0.15
    assert flow_slope(build, "quadratic") > quadratic - 0.15


def test_errors_on_an_exploding_path():
    for n, want in zip((5, 10, 20), (2.10e-1, 3.99e-2, 8.47e-3), strict=True):
        assert agrees(flow_error(pndm(VE, time_grid(VE, n, "karras")), "VE"), want)


def transfer(x, e, s, t):
    """Where DDIM takes the state from time s to time t with the noise prediction e."""
    return VP.alpha(t) / VP.alpha(s) * (x - VP.sigma(s) * e) + VP.sigma(t) * e


def by_formula(x, ts, kind, order):
    """Warm-up and multistep part written one after the other, history the first prediction of every step."""
    e, history = numpy_view(VP, "noise"), []
    for k, (s, t) in enumerate(zip(ts[:-1], ts[1:], strict=True)):
        history = [e(x, s), *history][:order]
        if kind in ("s", "plms") and k == 0:
            combined = (history[0] + e(transfer(x, history[0], s, t), t)) / 2
        elif kind == "f" and k < order - 1:
            middle = (s + t) / 2
            e2 = e(transfer(x, history[0], s, middle), middle)
            e3 = e(transfer(x, e2, s, middle), middle)
            e4 = e(transfer(x, e3, s, t), t)
            combined = (history[0] + 2 * e2 + 2 * e3 + e4) / 6
        else:
            combined = sum(w * f for w, f in zip(ADAMS[len(history) - 1], history, strict=True))
        x = transfer(x, combined, s, t)
    return x


@pytest.mark.parametrize(
    ("kind", "order"), [("i", 1), ("i", 2), ("i", 3), ("i", 4), ("plms", 4), ("s", 2), ("f", 2), ("f", 3), ("f", 4)]
)
def test_published_formula(kind, order):
    for n in (1, 2, 7):
        ts = time_grid(VP, n, start=0.7)
        table = pndm(VP, ts, order, kind)
        want = by_formula(starts(), ts, kind, order)
        got = run_by_hand(table, numpy_view(VP, "noise"), starts(), None)
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


def test_orders_of_the_kinds():
    ts = time_grid(VP, 7)
    for kind, order in (("i", 4), ("plms", 4), ("s", 2), ("f", 4)):
        np.testing.assert_array_equal(pndm(VP, ts, kind=kind).evals, pndm(VP, ts, order, kind).evals)
    np.testing.assert_array_equal(pndm(VP, ts, kind="s").evals, pndm(VP, ts, 2, "plms").evals)


def test_order_1_is_ddim():
    ts = time_grid(VP, 6, "quadratic")
    want = run_by_hand(ddim(VP, ts), numpy_view(VP, "data"), starts(), None)
    got = run_by_hand(pndm(VP, ts, 1), numpy_view(VP, "noise"), starts(), None)
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("given", "argument"), [({"order": 5}, "`order`"), ({"kind": "p"}, "`kind`")])
def test_mistakes_are_named(given, argument):
    with pytest.raises(ValueError, match=argument):
        pndm(VP, [1.0, 0.5, 0.1], **given)
