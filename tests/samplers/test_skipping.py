"""Rows without the network: which, and at what price."""

import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import VP, ends, mixture, numpy_view, starts

from odekit.samplers import ddim, dpmpp, heun, sada, sample, time_grid

X, TS = jnp.asarray(starts()), time_grid(VP, 50)


def rms(x):
    return float(np.sqrt(np.mean((np.asarray(x) - ends("VP")) ** 2)))


def by_hand(weights, first=10, last=47, longest=4):
    """Second-order DPM-Solver++ with skipping, written out: the sample, and which rows called the network."""
    noise, alpha, sigma, lam = numpy_view(VP, "noise"), VP.alpha(TS), VP.sigma(TS), VP.lam(TS)
    x, slopes, older, skip, streak, calls = starts(), [], None, False, 0, []
    for k in range(50):
        at = hat if skip else x  # noqa: F821 (set in the row before)
        e = e if skip else noise(x, TS[k])  # noqa: F821
        calls.append(not skip)
        d = (at - sigma[k] * e) / alpha[k]
        slopes = [VP.alpha_dot(TS[k]) * d + VP.sigma_dot(TS[k]) * e, *slopes][:3]
        h = lam[k + 1] - lam[k]
        slant = 0.0 if k in (0, 49) else (d - older) * h / (lam[k] - lam[k - 1]) / 2
        new = sigma[k + 1] / sigma[k] * x - alpha[k + 1] * np.expm1(-h) * (d + slant)
        skip = False
        if k >= 2:
            hat = x + (TS[k + 1] - TS[k]) * sum(w * s for w, s in zip(weights, slopes, strict=True))
            stable = np.sum((new - hat) * (slopes[0] - 2 * slopes[1] + slopes[2])) <= 0
            skip = stable and first <= k + 1 < last and streak < longest
        streak = streak + 1 if skip else 0
        x, older = new, d
    return x, calls


@pytest.mark.parametrize(("compat", "skipped", "error"), [(True, 30, 0.108), (False, 4, 0.00686)])
def test_the_loop_written_out(compat, skipped, error):
    table = dpmpp(VP, TS, 2, lower_order_final=True)
    got = sada(mixture(VP), table, X, compat=compat)
    x, calls = by_hand((5 / 8, 3 / 4, -3 / 8) if compat else (23 / 12, -16 / 12, 5 / 12))
    np.testing.assert_array_equal(got.evaluated, calls)
    np.testing.assert_allclose(got.x, x, rtol=1e-9, atol=1e-9)
    assert int(got.evaluations) == 50 - skipped
    np.testing.assert_allclose(rms(got.x), error, rtol=0.01)


def test_without_a_row_to_skip_it_is_the_table():
    table = ddim(VP, TS)
    np.testing.assert_allclose(sada(mixture(VP), table, X, first=50).x, sample(mixture(VP), table, X), rtol=1e-12)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="`table` 'heun' has two rows at one time"):
        sada(mixture(VP), heun(VP, TS), X)
