"""The autoregressive sampler of codes: step by step through a pattern.

Letters: B batch, G guidance branches, T frames, S steps, K codebooks, V codebook size.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autosong_jax.codebooks.patterns import Pattern
from autosong_jax.models.song import SongModel
from autosong_jax.sampling.guidance import combine
from autosong_jax.sampling.stepwise import SamplerState, StepwiseSampler
from autosong_jax.sampling.tokens import Choice, choose, log_probability


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Request:
    """See `stepwise.Request`.

    Attributes:
      prompt: int32 [B, T, K].
      choice: how ids are chosen.
    """

    weights: Array
    keys: Array
    prompt: Array
    prompt_frames: Array
    max_frames: Array
    choice: Choice


class Sampler(StepwiseSampler):
    """Samples songs of one pattern; a step holds one id a codebook, int32 [K].

    Args:
      graph: the model without its parameters.
      pattern: in which it writes.
    """

    def __init__(self, graph: Any, pattern: Pattern):
        super().__init__(graph, np.maximum.accumulate(pattern.steps.max(axis=1)), pattern.num_steps)
        self._pattern = pattern

    def known_steps(self, prompt_frames: np.ndarray) -> int:
        """See `StepwiseSampler`."""
        unknown = (self._pattern.frames >= np.min(prompt_frames)).any(axis=1)
        return int(np.argmax(np.append(unknown, True))) - 1

    def prompt_steps(self, model: SongModel, request: Request) -> Array:
        """See `StepwiseSampler`."""
        return self._pattern.interleave(request.prompt, model.frames.special)

    def written_first(self, model: SongModel, request: Request, step: Array, end: Array) -> Array:
        """See `StepwiseSampler`; the special id where nothing is known."""
        frames, special = jnp.asarray(self._pattern.frames), model.frames.special
        given = (frames >= 0) & (frames < jnp.minimum(request.prompt_frames, end)[:, None, None])
        given &= (jnp.arange(len(frames)) <= step)[:, None]
        return jnp.where(given, self.prompt_steps(model, request), special).astype(jnp.int32)

    def inputs(self, model: SongModel, written: Array, index: Array) -> Array:
        """See `StepwiseSampler`."""
        return written

    def next_step(self, model: SongModel, outputs: Array, state: SamplerState, request: Request, prompt: Array
                  ) -> tuple[Array, Array]:
        """See `StepwiseSampler`."""
        special, step = model.frames.special, state.step + 1
        # Only the first codebook may say that the song is over; the others follow it.
        ids, codebooks = jnp.arange(model.frames.num_ids), jnp.arange(model.frames.num_codebooks)
        allowed = (codebooks == 0)[:, None] & (ids == special) | (ids < special)
        logits = jnp.where(allowed, combine(outputs, request.weights), -jnp.inf)
        drawn = choose(logits, jax.vmap(jax.random.fold_in, (0, None))(request.keys, step), request.choice)
        frame = jnp.asarray(self._pattern.frames)[step]
        given = frame < request.prompt_frames[:, None]
        over = (drawn[:, 0] == special) & (frame[0] >= 0) & ~given[:, 0]
        end = jnp.where(over, jnp.minimum(state.end, frame[0]), state.end)
        ids = jnp.where(given, prompt, drawn)
        return jnp.where((frame >= 0) & (frame < end[:, None]), ids, special), end

    def frames_of(self, written: Array, start: Array | int, count: int) -> Array:
        """See `StepwiseSampler`; int32 [B, count, K], the special id from a song's end on."""
        steps = jax.lax.dynamic_slice_in_dim(jnp.asarray(self._pattern.steps), start, count)
        return written[:, steps, jnp.arange(steps.shape[1])]


def log_probabilities(model: SongModel, pattern: Pattern, states: Array, codes: Array, codebook: Array) -> Array:
    """How probable the codes of one codebook are to a model that reads all codes of songs at once.

    Args:
      model: the model.
      pattern: of T frames, in which it reads.
      states: [B, S - 1, D], what it makes of the steps but the last (`SongModel.hidden`).
      codes: int32 [B, T, K].
      codebook: int [], which one.

    Returns:
      float32 [B, T], the log probability of each frame's code, of all codes; of the special id it means nothing.
    """
    special = model.frames.special
    # The logits of a step are those before it.
    logits = model.frames.predict(states, codebook)[:, jnp.asarray(pattern.steps)[:, codebook] - 1, 0, :special]
    return log_probability(logits, jax.lax.dynamic_index_in_dim(codes, codebook, axis=2, keepdims=False))
