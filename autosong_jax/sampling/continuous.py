"""The sampler of latents: step by step, each drawn by the model's head. Its frames are columns of latents.

Letters: B batch, G guidance branches, N columns, S steps, F values of a step.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autosong_jax.models.song import SongModel
from autosong_jax.sampling.guidance import combine
from autosong_jax.sampling.stepwise import SamplerState, StepwiseSampler


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Request:
    """See `stepwise.Request`; frames are columns.

    Attributes:
      prompt: float32 [B, N, R C].
      temperature: float32 [], see `latents.head.Head.sample`.
      steps: of the head's integration; None for its own.
    """

    weights: Array
    keys: Array
    prompt: Array
    prompt_frames: Array
    max_frames: Array
    temperature: Array
    steps: int | None = dataclasses.field(default=None, metadata={"static": True})


class Sampler(StepwiseSampler):
    """Samples windows of columns; a step holds one latent, float32 [F], step 0 zeros.

    Args:
      graph: the model without its parameters.
      columns: N.
      per_column: steps that each takes.
      residual: whether the head predicts the difference from the latent before.
    """

    def __init__(self, graph: Any, columns: int, per_column: int, residual: bool):
        super().__init__(graph, (1 + np.arange(columns)) * per_column, columns * per_column + 1)
        self._per_column, self._residual = per_column, residual

    def known_steps(self, prompt_frames: np.ndarray) -> int:
        """See `StepwiseSampler`."""
        return int(np.min(prompt_frames)) * self._per_column

    def prompt_steps(self, model: SongModel, request: Request) -> Array:
        """See `StepwiseSampler`."""
        return jnp.pad(model.frames.steps(request.prompt), ((0, 0), (1, 0), (0, 0)))

    def written_first(self, model: SongModel, request: Request, step: Array, end: Array) -> Array:
        """See `StepwiseSampler`; zeros where nothing is known."""
        written = self.prompt_steps(model, request)
        known = jnp.minimum(jnp.minimum(request.prompt_frames, end) * self._per_column, step)
        return jnp.where((jnp.arange(written.shape[1]) <= known[:, None])[..., None], written, 0)

    def inputs(self, model: SongModel, written: Array, index: Array) -> Array:
        """See `StepwiseSampler`; in place of step 0 the model reads its start."""
        index = index + jnp.arange(written.shape[1])
        return model.frames.placed(jnp.where((index == 0)[:, None], model.frames.start[...], written), index)

    def next_step(self, model: SongModel, outputs: Array, state: SamplerState, request: Request, prompt: Array
                  ) -> tuple[Array, Array]:
        """See `StepwiseSampler`."""
        frames, step = model.frames, state.step + 1
        states = combine(outputs, request.weights)
        length = frames.context.length if frames.context else 1
        # The window may begin before step 0, where there are zeros.
        padded = jnp.pad(state.written, ((0, 0), (length - 1, 0), (0, 0)))
        window = jax.lax.dynamic_slice_in_dim(padded, state.step, length, axis=1)
        keys = jax.vmap(jax.random.fold_in, (0, None))(request.keys, step)
        value = frames.head.sample(frames.condition_of_step(states, window), keys, request.temperature,
                                   steps=request.steps)
        value = value + window[:, -1] if self._residual else value
        column = state.step // self._per_column
        given = column < request.prompt_frames
        end = state.end
        if frames.end is not None:
            over = (frames.end(states)[:, 0] > 0) & (state.step % self._per_column == 0) & ~given
            end = jnp.where(over, jnp.minimum(end, column), end)
        value = jnp.where(given[:, None], prompt, value)
        return jnp.where((column < end)[:, None], value, 0).astype(state.written.dtype), end

    def frames_of(self, written: Array, start: Array | int, count: int) -> Array:
        """See `StepwiseSampler`; float32 [B, count, R C], zeros from a song's end on."""
        steps = jax.lax.dynamic_slice_in_dim(written, 1 + start * self._per_column, count * self._per_column, axis=1)
        return steps.reshape(len(written), count, written.shape[2] * self._per_column)
