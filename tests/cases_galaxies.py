"""Score networks that nobody here trained: galaxies of the Zwicky Transient Facility and lensed quasars.

The weights are those of the PyPI package galaxygrad 0.2.1, fetched once into the user's cache and checked; the package
is neither imported nor installed. Each network is an MLP-mixer over patches of 4 x 4 pixels, trained on the score under
`alpha = exp(-t/2)`, t in (0, 10]; its file is a row of .npy blocks.
"""

import functools
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from odekit.samplers import Denoiser
from odekit.schedules import VPLinear

SCHEDULE = VPLinear(beta_min=1.0, beta_max=1.0, t_start=10.0, t_end=0.01)
FILES = {"ztf": "eqx_ZTF_ScoreNet32.eqx", "ztf64": "eqx_ZTF_ScoreNet64.eqx", "quasar": "eqx_quasar_lens72.eqx"}
SIDES = {"ztf": 32, "ztf64": 64, "quasar": 72}
PATCH, BLOCKS = 4, 4
VERSION = "galaxygrad==0.2.1"
SHA256 = "56fd8f02de3b025e87f690a494014371391894f2288356288068f9f5e90d8a97"


class Absent(Exception):
    """The weights are neither in the cache nor to be had; says why."""


class Mixer(NamedTuple):
    """One block: a perceptron of two layers along patches and one along channels, each behind a normalisation."""

    along_patches: tuple
    along_channels: tuple
    norms: tuple


class Weights(NamedTuple):
    """A network: (weight, bias) of the patches' embedding and of its inverse, the blocks, the last normalisation."""

    embed: tuple
    unembed: tuple
    blocks: tuple
    norm: tuple


def wheel():
    """Return the path of the checked file, fetched by pip if it is not in the cache yet; raises `Absent`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "odekit"
    kept = cache / "galaxygrad-0.2.1-py3-none-any.whl"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            command = [
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--retries",
                "1",
                "--timeout",
                "20",
                "-d",
            ]
            asked = [sys.executable, *command, folder, VERSION]
            ended = subprocess.run(asked, capture_output=True, text=True, timeout=300, check=False)
            if ended.returncode:
                raise Absent(f"{VERSION} is not in {cache}, and pip could not fetch it: {ended.stderr.strip()[-200:]}")
            (Path(folder) / kept.name).replace(kept)
    if hashlib.sha256(kept.read_bytes()).hexdigest() != SHA256:
        raise Absent(f"{kept} is not the file that was published as {VERSION}; delete it")
    return kept


@functools.cache
def weights(name):
    """Return the weights of a network in float32; raises `Absent`."""
    with zipfile.ZipFile(wheel()) as archive:
        file = io.BytesIO(archive.read(f"galaxygrad/{FILES[name]}"))
    blocks = iter([np.load(file) for _ in range(7 + 12 * BLOCKS)])

    def pair():
        return next(blocks), next(blocks)

    embed, unembed = pair(), pair()
    mixers = tuple(Mixer((pair(), pair()), (pair(), pair()), (pair(), pair())) for _ in range(BLOCKS))
    return Weights(embed, unembed, mixers, pair())


def _normalise(scale_shift, y):
    mean, variance = jnp.mean(y, (-2, -1), keepdims=True), jnp.var(y, (-2, -1), keepdims=True)
    scale, shift = (jnp.broadcast_to(a, y.shape) for a in scale_shift)
    return (y - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + shift


def _layer(weight_bias, y):
    weight, bias = weight_bias
    return y @ weight.T + jnp.broadcast_to(bias, (*y.shape[:-1], bias.size))


def _perceptron(layers, y):
    first, second = layers
    return _layer(second, jax.nn.relu(_layer(first, y)))


def score(net, x, t):
    """Return the score at images `x`, (batch, side, side), and time `t`, () or (batch,)."""
    net = jax.tree.map(lambda a: jnp.asarray(a, x.dtype), net)
    batch, side, _ = x.shape
    n = side // PATCH
    told = jnp.broadcast_to(jnp.asarray(t, x.dtype).reshape(-1, 1, 1) / 10, x.shape)
    y = jnp.stack([x, told], 1).reshape(batch, 2, n, PATCH, n, PATCH)
    y = y.transpose(0, 2, 4, 1, 3, 5).reshape(batch, n * n, -1)
    kernel, bias = net.embed
    y = _layer((kernel.reshape(kernel.shape[0], -1), bias.ravel()), y).swapaxes(1, 2)
    for along_patches, along_channels, (before_patches, before_channels) in net.blocks:
        y = y + _perceptron(along_patches, _normalise(before_patches, y))
        y = y.swapaxes(1, 2)
        y = y + _perceptron(along_channels, _normalise(before_channels, y))
        y = y.swapaxes(1, 2)
    kernel, bias = net.unembed  # a transposed convolution written as one with a dilated input: its kernel is mirrored
    mirrored = kernel[0, :, ::-1, ::-1].reshape(kernel.shape[1], -1)
    y = _normalise(net.norm, y).swapaxes(1, 2) @ mirrored + bias.ravel()[0]
    return y.reshape(batch, n, n, PATCH, PATCH).swapaxes(2, 3).reshape(x.shape)


def galaxies(name):
    """Return the denoiser of a network, "ztf", "ztf64" or "quasar"; raises `Absent`."""
    net = weights(name)
    return Denoiser(lambda x, t, cond: score(net, x, t), SCHEDULE, "score")


def start(name, batch=8, seed=0):
    """Return fixed unit normals to start from, (batch, side, side) in float64 whatever JAX's default."""
    return np.random.RandomState(seed).standard_normal((batch, SIDES[name], SIDES[name]))
