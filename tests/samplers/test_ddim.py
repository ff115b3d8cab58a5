import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VP, agrees, ends, law_error, mixture, numpy_view, run_by_hand, starts

from odekit.samplers import ddim, dpmpp, euler, sample, time_grid

# eta: distance in law from Gaussian data on (logsnr 5, 10, 20, time 20)
LAW = {
    0.0: (9.72e-2, 5.32e-2, 2.82e-2, 5.71e-2),
    0.5: (1.01e-1, 5.82e-2, 3.24e-2, 6.09e-2),
    1.0: (1.28e-1, 8.32e-2, 4.95e-2, 7.85e-2),
}


@pytest.mark.parametrize("eta", LAW)
def test_law_on_gaussian_data(eta):
    for (spacing, n), printed in zip(
        (("logsnr", 5), ("logsnr", 10), ("logsnr", 20), ("time", 20)), LAW[eta], strict=True
    ):
        value = law_error(ddim(VP, time_grid(VP, n, spacing), eta), VP)
        assert agrees(value, printed), f"{spacing} {n}: {value:.4e}, not {printed:.2e}"


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_formula(eta):
    """The update as printed in the paper, in cumulative products of 1 - beta."""
    ts = time_grid(VP, 6)
    bar, z = VP.alpha(ts) ** 2, np.random.RandomState(0).standard_normal((6, 64, 2))
    view = numpy_view(VP, "noise")
    x = starts()
    for k in range(6):
        eps = view(x, ts[k])
        std = eta * np.sqrt((1 - bar[k + 1]) / (1 - bar[k])) * np.sqrt(1 - bar[k] / bar[k + 1])
        data = (x - np.sqrt(1 - bar[k]) * eps) / np.sqrt(bar[k])
        x = np.sqrt(bar[k + 1]) * data + np.sqrt(1 - bar[k + 1] - std**2) * eps + std * z[k]
    np.testing.assert_allclose(
        run_by_hand(ddim(VP, ts, eta), numpy_view(VP, "data"), starts(), z), x, rtol=1e-11, atol=1e-11
    )


def test_ancestral_sampling_is_eta_1():
    """The DDPM posterior: mean in terms of the noise, variance beta (1 - previous) / (1 - current)."""
    ts = time_grid(VP, 6)
    alpha, sigma, z = VP.alpha(ts), VP.sigma(ts), np.random.RandomState(0).standard_normal((6, 64, 2))
    x = starts()
    for k in range(6):
        a, eps = (alpha[k] / alpha[k + 1]) ** 2, numpy_view(VP, "noise")(x, ts[k])
        variance = (1 - a) * sigma[k + 1] ** 2 / sigma[k] ** 2
        x = (x - (1 - a) / sigma[k] * eps) / np.sqrt(a) + np.sqrt(variance) * z[k]
    np.testing.assert_allclose(
        run_by_hand(ddim(VP, ts, 1.0), numpy_view(VP, "data"), starts(), z), x, rtol=1e-11, atol=1e-11
    )


def test_it_is_euler_on_a_flow():
    ts, x = time_grid(FM, 10), jnp.asarray(starts())
    a, b = (sample(mixture(FM), table(FM, ts), x) for table in (ddim, euler))
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_it_is_order_1_of_the_multistep_family():
    ts = time_grid(VP, 10)
    np.testing.assert_array_equal(ddim(VP, ts).evals, dpmpp(VP, ts, 1).evals)


def test_it_encodes_on_the_reversed_grid():
    ts = time_grid(VP, 400, "logsnr")
    noise = sample(mixture(VP), ddim(VP, ts[::-1]), jnp.asarray(ends("VP")))
    assert np.sqrt(np.mean((noise - starts()) ** 2)) < 0.03
