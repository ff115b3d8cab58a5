"""What the golden runs of diffusers and k-diffusion share with the tests that repeat them: starts, noise, schedule."""

import functools
import json
from pathlib import Path

import numpy as np
from cases_sampling import starts

GOLDEN = Path(__file__).parent / "golden" / "diffusers.json"
BETAS = (0.00085, 0.012)
"""First and last rate of latent diffusion, linear in the square root over 1000 steps."""


@functools.cache
def golden():
    """Every run: levels (sigma over alpha, or sigma of a flow) at the ends of its steps, and its end state."""
    return json.loads(GOLDEN.read_text())


def noise():
    """(40, 4, 2): the unit normals fed to the evaluation of that number."""
    return np.random.RandomState(0).standard_normal((40, 4, 2))  # noqa: NPY002 - its stream is promised not to change


def start(kind, level):
    """(4, 2) initial states: "vp" and "flow" of unit scale, "ve" of the scale of the first noise level."""
    return (level if kind == "ve" else 1.0) * starts()[:4]
