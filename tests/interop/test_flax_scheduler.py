"""Loops written for diffusers' Flax schedulers run with the import replaced, and end where `sample` ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_checkpoints import CHECKPOINTS, PUBLISHED
from cases_sampling import starts

from odekit.interop import FlaxScheduler, from_scheduler_config, timestepped
from odekit.samplers import Denoiser, sample

LATENTS = jnp.asarray(starts()[:8], jnp.float32)


def unet(params, latents, timestep):
    return jnp.tanh(params * latents + 1e-3 * timestep.astype(jnp.float32)[:, None])


def generate(scheduler, params, latents, n, key=None):
    """The loop of a Flax pipeline, as published."""
    scheduler_state = scheduler.set_timesteps(scheduler.create_state(), num_inference_steps=n, shape=latents.shape)
    latents = latents * scheduler_state.init_noise_sigma

    def loop_body(step, args):
        latents, scheduler_state = args
        t = jnp.array(scheduler_state.timesteps)[step]
        timestep = jnp.broadcast_to(t, latents.shape[0])
        latents_input = scheduler.scale_model_input(scheduler_state, latents, t)
        noise_pred = unet(params, latents_input, timestep)
        return scheduler.step(scheduler_state, noise_pred, t, latents, key).to_tuple()

    latents, _ = jax.lax.fori_loop(0, len(scheduler_state.timesteps), loop_body, (latents, scheduler_state))
    return latents


@pytest.mark.parametrize("name", ["DiT", "Stable Diffusion 1.5", "Wan 2.1", "SDXL Turbo"])
def test_a_flax_loop_with_another_import(name):
    config, params, key = CHECKPOINTS[name], jnp.float32(0.7), jax.random.key(2)
    got = jax.jit(generate, static_argnums=(0, 3))(FlaxScheduler(config), params, LATENTS, 6, key)

    schedule, predicts, table = from_scheduler_config(config, 6)
    model = Denoiser(
        timestepped(lambda x, timestep, cond: unet(params, x, jnp.broadcast_to(timestep, x.shape[0])), config),
        schedule,
        predicts,
    )
    want = sample(model, table, LATENTS, key=key if table.stochastic else None)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_the_loop_outside_of_a_compiled_function_and_from_the_middle():
    """What the user does to the latents between two steps is kept, as by loops that put known pixels back."""
    config, changed = PUBLISHED["PixArt-alpha"], []
    scheduler = FlaxScheduler(config)
    for shift in (0.0, 0.5):
        state = scheduler.set_timesteps(scheduler.create_state(), 8, LATENTS.shape, start=6)
        np.testing.assert_array_equal(state.timesteps, [250, 125])
        latents = LATENTS
        for t in state.timesteps:
            latents, state = scheduler.step(state, 0.5 * latents, t, latents)
            latents = latents + jnp.float32(shift if state.row == 1 else 0.0)
        assert int(state.row) == 2
        changed.append(latents)
    assert float(jnp.min(jnp.abs(changed[1] - changed[0]))) > 0.1
    schedule, _, table = from_scheduler_config(config, 8, start=6)
    noisy = scheduler.add_noise(state, LATENTS, jnp.ones_like(LATENTS), jnp.full(8, 250))
    t = float(table.t[0])
    np.testing.assert_allclose(noisy, schedule.alpha(t) * np.asarray(LATENTS) + schedule.sigma(t), rtol=1e-5)


def test_a_sampler_with_a_memory_needs_the_shape():
    scheduler = FlaxScheduler(PUBLISHED["Stable Diffusion 1.5"])
    with pytest.raises(ValueError, match=r"`shape` is \(\), but pndm4 remembers predictions; pass shape=latents.shape"):
        scheduler.set_timesteps(scheduler.create_state(), 10)


def test_preconditioned_networks_are_refused():
    with pytest.raises(ValueError, match="of a preconditioned network; use `sample` with `timestepped`"):
        FlaxScheduler(PUBLISHED["Playground 2.5"])
