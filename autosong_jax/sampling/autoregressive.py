"""The autoregressive sampler: one loop on the device from the first step of a pattern to the end of the songs.

Letters: B batch, G guidance branches, T frames, S steps, K codebooks, V codebook size.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autosong_jax.codebooks.patterns import Pattern
from autosong_jax.models.conditions import Memory
from autosong_jax.models.song import Cache, SongModel
from autosong_jax.sampling.guidance import combine
from autosong_jax.sampling.tokens import Choice, choose


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SamplerState:
    """Where sampling stands.

    Attributes:
      step: int32 [], the last step written.
      ids: int32 [B, S, K], the steps written so far; the special id elsewhere.
      end: int32 [B], the number of frames after which each song is over, as far as is known.
      cache: the model's, for G B songs.
    """

    step: Array
    ids: Array
    end: Array
    cache: Cache


def sample(model: SongModel, pattern: Pattern, memory: Memory, weights: Array, keys: Array, prompt: Array,
           prompt_frames: Array, max_frames: Array, choice: Choice,
           on_step: Callable[[int], None] | None = None) -> tuple[Array, Array]:
    """Samples songs.

    Args:
      model: `unstacked`.
      pattern: of T frames.
      memory: of G B examples, branch after branch.
      weights: float32 [G], of the branches (`guidance.branches`).
      keys: PRNG keys [B], one a song.
      prompt: int32 [B, T, K], the frames to start from, padded to T.
      prompt_frames: int32 [B], how many frames of `prompt` are given.
      max_frames: int32 [B], at most T: songs are over after so many frames, or earlier where the model says so.
      choice: how ids are chosen.
      on_step: called on the host every 32 steps with the number of steps done, to show progress; None costs nothing.

    Returns:
      codes int32 [B, T, K], the special id from each song's end on; num_frames int32 [B].
    """
    branches, batch = weights.shape[0], keys.shape[0]
    num_codebooks, special = model.num_codebooks, model.special
    num_frames = pattern.steps.shape[0]
    frames, codebooks = jnp.asarray(pattern.frames), jnp.arange(num_codebooks)
    # The step after which all of the first t + 1 frames stand.
    complete = jnp.asarray(np.maximum.accumulate(pattern.steps.max(axis=1)))
    prompt_steps = pattern.interleave(prompt, special)
    # Only the first codebook may say that the song is over; the others follow it.
    may_end = (codebooks == 0)[:, None] & (jnp.arange(model.heads.shape[-1]) == special)
    allowed = may_end | (jnp.arange(model.heads.shape[-1]) < special)

    def body(state: SamplerState) -> SamplerState:
        ids_now = jax.lax.dynamic_index_in_dim(state.ids, state.step, axis=1, keepdims=False)
        logits, cache = model.step(jnp.tile(ids_now, (branches, 1)), state.step, state.cache)
        logits = jnp.where(allowed, combine(logits, weights), -jnp.inf)
        step = state.step + 1
        drawn = choose(logits, jax.vmap(jax.random.fold_in, (0, None))(keys, step), choice)
        frame = frames[step]
        given = frame < prompt_frames[:, None]
        over = (drawn[:, 0] == special) & (frame[0] >= 0) & ~given[:, 0]
        end = jnp.where(over, jnp.minimum(state.end, frame[0]), state.end)
        ids = jnp.where(given, jax.lax.dynamic_index_in_dim(prompt_steps, step, axis=1, keepdims=False), drawn)
        ids = jnp.where((frame >= 0) & (frame < end[:, None]), ids, special)
        ids = jax.lax.dynamic_update_index_in_dim(state.ids, ids, step, axis=1)
        if on_step is not None:
            jax.lax.cond(step % 32 == 0, lambda: jax.debug.callback(on_step, step), lambda: None)
        return SamplerState(step, ids, end, cache)

    def unfinished(state: SamplerState) -> Array:
        last_frame = jnp.maximum(state.end - 1, 0)
        return jnp.any((state.step < complete[last_frame]) & (state.end > 0))

    ids = jnp.full((batch, pattern.num_steps, num_codebooks), special, jnp.int32)
    cache = model.start(memory, pattern.num_steps)
    state = SamplerState(jnp.int32(0), ids, jnp.minimum(max_frames, num_frames).astype(jnp.int32), cache)
    state = jax.lax.while_loop(unfinished, body, state)
    return pattern.deinterleave(state.ids), state.end
