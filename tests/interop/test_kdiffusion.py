"""k-diffusion's functions under their names and calls; their numbers are in test_diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_diffusers import golden, start
from cases_sampling import VE, mixture

from odekit.interop import kdiffusion

EXACT, RUN = mixture(VE), golden()["k euler"]
X = jnp.asarray(start("ve", RUN["levels"][0]))


def model(x, sigma):
    assert sigma.shape == x.shape[:1]
    return EXACT.data(x, sigma)


def test_the_call_gives_the_numbers():
    got = kdiffusion.sample_euler(model, X, RUN["levels"])
    np.testing.assert_allclose(got, RUN["end"], rtol=1e-11, atol=1e-11)


def test_noise_comes_from_the_key_and_options_reach_the_table():
    sigmas, traces = np.array(RUN["levels"]), []

    def model(x, sigma):
        traces.append(sigma.shape)
        return EXACT.data(x, sigma)

    one, same, other, quiet = (
        kdiffusion.sample_euler_ancestral(model, X, sigmas, key=jax.random.key(seed), eta=eta)
        for seed, eta in ((0, 1.0), (0, 1.0), (1, 1.0), (0, 1e-9))
    )
    np.testing.assert_array_equal(one, same)
    assert np.max(np.abs(one - other)) > 1e-2
    np.testing.assert_allclose(quiet, RUN["end"], rtol=1e-6)
    assert len(traces) == 1  # four calls, one program


def test_extra_arguments_reach_the_model():
    end = kdiffusion.sample_euler(lambda x, sigma, by: by * x, jnp.ones((2, 3)), [2.0, 1.0, 0.0], {"by": 0.5})
    np.testing.assert_allclose(end, 0.5 * (1 - 0.5 / 2), rtol=1e-12)


@pytest.mark.parametrize("name", kdiffusion.TABLES)
def test_every_table_has_its_function(name):
    assert f"sample_{name}" in kdiffusion.__all__
    table = kdiffusion.TABLES[name](VE, np.array([3.0, 1.0, 0.5, 0.0]))
    assert table.stochastic == ("ancestral" in name or "sde" in name)
