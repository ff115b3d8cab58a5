import numpy as np
import pytest
from scipy.integrate import quad

from odekit.samplers.weights import NODES, WEIGHTS, polynomial_weights


@pytest.mark.parametrize("z", [1e-6, 1e-2, 1.0, 20.0, 60.0])
@pytest.mark.parametrize("k", range(4))
def test_nodes_and_weights_integrate_an_exponential_times_a_power(z, k):
    want, _ = quad(lambda x: z * np.exp(-z * (1 - x)) * x**k, 0, 1, epsabs=0, epsrel=1e-12)
    np.testing.assert_allclose(np.sum(WEIGHTS * z * np.exp(-z * (1 - NODES)) * NODES**k), want, rtol=1e-11)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_weights_integrate_polynomials_exactly(count):
    offsets = [np.array(v) for v in (0.0, 1.0, -0.7, -2.1)[:count]]
    moments = [1 / (k + 1) for k in range(count)]  # of the plain integral over [0, 1]
    weights = polynomial_weights(offsets, moments)
    for k in range(count):
        total = sum(w * v**k for w, v in zip(weights, offsets, strict=True))
        np.testing.assert_allclose(total, 1 / (k + 1), rtol=1e-12)


def test_an_infinite_last_offset_drops_out():
    moments = [1.0, 0.5, 1 / 3]
    want = polynomial_weights([0.0, -1.0], moments[:2])
    got = polynomial_weights([0.0, np.array(-1.0), np.array(-np.inf)], moments)
    np.testing.assert_allclose(got, [*want, 0.0], rtol=1e-14)
