"""The mixture of ten Gaussians in eight dimensions on which learned tables are measured."""

import jax.numpy as jnp
import numpy as np

from odekit.learn.compare import references
from odekit.samplers import GaussianMixture
from odekit.schedules import FlowMatching, VPLinear

SCHEDULES = {"flow": FlowMatching(), "vp": VPLinear()}
VIEWS = {"flow": "velocity", "vp": "data"}
RMS = {"flow": 1.1685, "vp": 1.1684}  # of the fine end states of noise(12345, 4096)
RANGE = {"flow": (-3.443, 3.413), "vp": (-3.442, 3.414)}
PEAK = 4.0


def mixture8(name):
    k, j = np.arange(10)[:, None], np.arange(8)[None]
    means = 1.5 * np.sin(1.7 * (k + 1) * (j + 1) + 0.3 * j)
    weights = 1 + 0.5 * np.cos(np.arange(10))
    return GaussianMixture(weights / weights.sum(), means, 0.3 + 0.1 * (np.arange(10) % 4), SCHEDULES[name])


def noise(seed, n):
    return jnp.asarray(np.random.RandomState(seed).standard_normal((n, 8)))


def paths(name, seed, n, steps=1000):
    """Initial states and their fine end states; the grid is uniform in time on the flow, in lam on VP."""
    x, spacing = noise(seed, n), {"flow": "time", "vp": "logsnr"}[name]
    return x, references(mixture8(name), x, spacing=spacing, steps=steps)
