"""The calls of the Flax schedulers that diffusers had and maxdiffusion has, over the rows of a table."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from odekit.interop.scheduler_config import Timestepped, from_scheduler_config, predicted, read, timestepped
from odekit.loops.table import SamplerTable, TableState
from odekit.samplers import Denoiser
from odekit.samplers.denoiser import fitted


class FlaxSchedulerState(eqx.Module):
    """What a loop carries: a pytree of arrays, the same for every step.

    Attributes:
        timesteps: (N,) times of training, one for each evaluation of the network.
        init_noise_sigma: () scale of the first latents.
        row: () the next row of the table.
        table: None before `set_timesteps`.
        memory: slots and past predictions; None for a table that needs neither.
    """

    timesteps: Array
    init_noise_sigma: Array
    row: Array
    table: SamplerTable | None = None
    memory: TableState | None = None


class FlaxSchedulerOutput(NamedTuple):
    """The latents after a step, and the state of the scheduler."""

    prev_sample: Array
    state: FlaxSchedulerState

    def to_tuple(self) -> tuple:
        """Return `(prev_sample, state)`."""
        return tuple(self)


class _Given(eqx.Module):
    """The network of a loop that has called it already."""

    output: Array

    def __call__(self, x: Array, t: Array, cond: Any) -> Array:
        return self.output


class FlaxScheduler:
    """The scheduler of a scheduler_config.json for loops written for diffusers' Flax schedulers.

    Replaces the import: `create_state`, `set_timesteps`, `scale_model_input`, `step` and `add_noise` are called as
    before. New code is shorter and compiles less with `sample`. Latents are on the scale the network sees, so that
    `scale_model_input` returns what it is given.

    Args:
        config: as for `from_scheduler_config`.
        dtype: of the latents.
        mu: as for `from_scheduler_config`.

    Raises:
        ValueError: as for `from_scheduler_config`; or the network is preconditioned (EDM), and not to be called bare.

    Example:
        >>> scheduler = FlaxScheduler({"_class_name": "DDIMScheduler", "clip_sample": False})
        >>> state = scheduler.set_timesteps(scheduler.create_state(), 4)
        >>> latents, state = scheduler.step(state, jnp.zeros(2), state.timesteps[0], jnp.ones(2)).to_tuple()

    Source: the sampler's own, `table.source`.
    """

    def __init__(self, config: dict | str | Path, *, dtype: Any = jnp.float32, mu: float | None = None):
        self.config, self.dtype, self.mu = config, dtype, mu
        network = timestepped(_Given, config)
        if not isinstance(network, Timestepped):
            raise ValueError("`config` is of a preconditioned network; use `sample` with `timestepped`.")
        self._network, self._predicts = network, predicted(read(config)[1], network.schedule)

    def create_state(self) -> FlaxSchedulerState:
        """Return the state before `set_timesteps`, for training: all timesteps, from noise to data."""
        return FlaxSchedulerState(jnp.arange(self._network.steps)[::-1], jnp.ones((), self.dtype), jnp.int32(0))

    def set_timesteps(
        self, state: FlaxSchedulerState, num_inference_steps: int, shape: tuple = (), *, start: int = 0
    ) -> FlaxSchedulerState:
        """Return the state before the first step.

        Args:
            state: of `create_state`.
            num_inference_steps: number of steps.
            shape: of the latents; needed by samplers with a memory.
            start: as for `from_scheduler_config`.

        Raises:
            ValueError: the sampler has a memory, and no shape was given.
        """
        with jax.ensure_compile_time_eval():  # inside a compiled function too
            *_, table = from_scheduler_config(self.config, num_inference_steps, start=start, mu=self.mu)
            times = np.asarray(self._network.timestep(np.asarray(table.t)))
        with_memory = table.evals.shape[1:] != (1, 1)
        if with_memory and not shape:
            raise ValueError(f"`shape` is (), but {table.name} remembers predictions; pass shape=latents.shape.")
        whole = np.round(times)
        times = whole.astype(np.int32) if np.max(np.abs(times - whole)) < 1e-6 else times.astype(np.float32)
        memory = table.init(jnp.zeros(shape, self.dtype)) if with_memory else None
        table = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), table.unlabelled())
        return dataclasses.replace(state, timesteps=jnp.asarray(times), table=table, row=jnp.int32(0), memory=memory)

    def scale_model_input(self, state: FlaxSchedulerState, sample: Array, timestep: Any = None) -> Array:
        """Return `sample`, which has the scale that the network expects."""
        return sample

    def step(
        self,
        state: FlaxSchedulerState,
        model_output: Array,
        timestep: Any,
        sample: Array,
        key: Array | None = None,
        return_dict: bool = True,
    ) -> FlaxSchedulerOutput:
        """Return the latents after the row of `timestep`.

        Args:
            state: of `set_timesteps` or the last step.
            model_output: what the network says of `sample`, in its own prediction.
            timestep: one of `state.timesteps`, taken in order.
            sample: the latents.
            key: for samplers that add noise, the same in every step.
            return_dict: ignored: the output is a named tuple either way.

        Raises:
            ValueError: the state has not been through `set_timesteps`.
        """
        if state.table is None:
            raise ValueError("`state` has no table yet; pass it through `set_timesteps`.")
        schedule, predicts = self._network.schedule, self._predicts
        model = Denoiser(dataclasses.replace(self._network, fn=_Given(model_output)), schedule, predicts)
        # several rows may have one timestep: the first of them that is not done yet
        away = jnp.abs((state.timesteps - jnp.asarray(timestep, state.timesteps.dtype)).astype(jnp.float32))
        done = jnp.arange(away.size, dtype=jnp.int32) < state.row
        k = jnp.argmin(jnp.where(done, jnp.float32(jnp.inf), away)).astype(jnp.int32)
        memory = state.table.init(sample) if state.memory is None else state.memory
        slots = tuple(jnp.where(state.row == jnp.int32(0), sample, slot) for slot in memory.slots[1:])
        memory = state.table.step(model, k, TableState((sample, *slots), memory.ring), key)
        kept = None if state.memory is None else memory
        return FlaxSchedulerOutput(memory.slots[0], dataclasses.replace(state, row=k + jnp.int32(1), memory=kept))

    def add_noise(self, state: FlaxSchedulerState, original_samples: Array, noise: Array, timesteps: Array) -> Array:
        """Return the data with noise of the level of `timesteps`, () or (batch,)."""
        t = self._network.time(jnp.asarray(timesteps, jnp.float32))
        at = self._network.schedule
        alpha, sigma = (fitted(c, original_samples) for c in (at.alpha(t), at.sigma(t)))
        return alpha * original_samples + sigma * noise
