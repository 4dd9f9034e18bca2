"""The autoregressive sampler: loops on the device from the first step of a pattern to the end of the songs.

Every loop has a cache of its own length, longer than the last; the host starts them one after another. A song that is
over early, or shorter than the pattern, so never pays for the cache of a long one, nor for compiling with it. Where
frames are wanted as they are made, the host starts the same loops for a few frames at a time: a program that called the
host would be compiled for each caller, never be kept, and could not be one graph on a GPU.

Letters: B batch, G guidance branches, T frames, S steps, K codebooks, V codebook size.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from autosong_jax.codebooks.patterns import Pattern
from autosong_jax.layers import decoding
from autosong_jax.layers.decoding import Cache
from autosong_jax.layers.platform import loop_options
from autosong_jax.sampling.guidance import combine
from autosong_jax.sampling.tokens import Choice, choose
from autosong_jax.sampling.windows import Piece
from autosong_jax.sources.memory import Memory

ROOM = 256  # steps, by which a cache grows at least
LOOPS = 4  # at most, each of which is compiled
BLOCK = 64  # steps; prompts are read in whole ones, so that prompts of similar lengths share a program


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Request:
    """Which songs are asked for.

    Attributes:
      weights: float32 [G], of the guidance branches (`guidance.branches`).
      keys: PRNG keys [B], one a song.
      prompt: int32 [B, T, K], the frames to start from, padded to T.
      prompt_frames: int32 [B], how many frames of `prompt` are given.
      max_frames: int32 [B], at most T: songs are over after so many frames, or earlier where the model says so.
      choice: how ids are chosen.
    """

    weights: Array
    keys: Array
    prompt: Array
    prompt_frames: Array
    max_frames: Array
    choice: Choice


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


class Sampler:
    """Samples songs of one pattern, of T frames, with one model, `unstacked`.

    Args:
      graph: the model without its parameters.
      pattern: in which it writes.
    """

    def __init__(self, graph: Any, pattern: Pattern):
        self._graph, self._pattern = graph, pattern
        # The step after which all of the first t + 1 frames stand.
        self._complete = np.maximum.accumulate(pattern.steps.max(axis=1))
        self._begin = jax.jit(self._begun, static_argnames=("read", "room"))
        self._advance = jax.jit(self._advanced, donate_argnames="state", compiler_options=loop_options())
        self._look = jax.jit(self._looked_at, static_argnames="count")

    def __call__(self, params: Any, memory: Memory, request: Request) -> tuple[Array, Array]:
        """Samples songs.

        Args:
          params: of the model.
          memory: of G B examples, branch after branch.
          request: of B songs.

        Returns:
          codes int32 [B, T, K], the special id from each song's end on; num_frames int32 [B].
        """
        state = self.begin(params, memory, request)
        state = self.advance(params, state, request, self._pattern.num_steps)
        return self._pattern.deinterleave(state.ids), state.end

    def pieces(self, params: Any, memory: Memory, request: Request, stride: int | None = None) -> Iterator[Piece]:
        """What a call gives, piece by piece as the device makes it; arguments as above.

        Args:
          stride: how many frames a piece has, but for the last; None is one piece of all that are not given.
        """
        length, prompt = len(self._complete), int(np.min(request.prompt_frames))
        state = self.begin(params, memory, request)
        start, before = prompt, None
        for stop in (*(range(prompt + stride, length, stride) if stride else ()), length):
            last = stop == length
            state = self.advance(params, state, request,
                                 self._pattern.num_steps if last else int(self._complete[stop - 1]))
            now = None if last else self._look(state, stop - stride, count=stride)
            if before is not None:  # which is fetched only now, so the device always has the next
                codes, ends = jax.device_get(before)
                yield Piece(start, codes, ends, (start + stride - prompt) / (length - prompt))
                start += stride
                if (ends <= start).all():
                    break
            before = now
        codes, ends = jax.device_get((self._pattern.deinterleave(state.ids), state.end))
        yield Piece(start, codes[:, start:], ends, 1.0)

    def begin(self, params: Any, memory: Memory, request: Request) -> SamplerState:
        """The state before the first step of which some song does not know all ids; arguments as above."""
        frames = self._pattern.frames
        unknown = (frames >= np.min(request.prompt_frames)).any(axis=1)
        step = int(np.argmax(np.append(unknown, True))) - 1
        read = min(-(-step // BLOCK) * BLOCK, len(frames))
        room = next(room for room in self._rooms() if room >= max(step + 1, read))
        return self._begin(params, memory, request, step, read=read, room=room)

    def advance(self, params: Any, state: SamplerState, request: Request, until: int) -> SamplerState:
        """The state after step `until` or at the end of the songs; `state` is used up. Other arguments as above."""
        for room in [room for room in self._rooms() if room >= state.cache.room]:
            if state.cache.room < room:
                state = dataclasses.replace(state, cache=decoding.grown(state.cache, room))
            state, goes_on = self._advance(params, state, request, min(until, room))
            if room >= until or not goes_on:
                break
        return state

    def _begun(self, params, memory, request, step, *, read: int, room: int) -> SamplerState:
        """The state in which `step` is written, its cache with some room.

        The model reads the first steps at once, `read` of them; what they are from `step` on means nothing.
        """
        model, frames = nnx.merge(self._graph, params), jnp.asarray(self._pattern.frames)
        end = jnp.minimum(request.max_frames, len(self._complete)).astype(jnp.int32)
        given = (frames >= 0) & (frames < jnp.minimum(request.prompt_frames, end)[:, None, None])
        given &= (jnp.arange(len(frames)) <= step)[:, None]
        ids = jnp.where(given, self._pattern.interleave(request.prompt, model.frames.special), model.frames.special)
        first = jnp.tile(ids[:, :read], (request.weights.shape[0], 1, 1))
        return SamplerState(jnp.int32(step), ids.astype(jnp.int32), end, model.start(memory, first, room))

    def _advanced(self, params, state, request, until) -> tuple[SamplerState, Array]:
        """The state after step `until`, or at the end of the songs; bool [], whether any song goes on."""
        model, branches = nnx.merge(self._graph, params), request.weights.shape[0]
        frames, codebooks = jnp.asarray(self._pattern.frames), jnp.arange(model.frames.num_codebooks)
        prompt = self._pattern.interleave(request.prompt, model.frames.special)
        # Only the first codebook may say that the song is over; the others follow it.
        ids = jnp.arange(model.frames.num_ids)
        allowed = (codebooks == 0)[:, None] & (ids == model.frames.special) | (ids < model.frames.special)

        def body(state: SamplerState) -> SamplerState:
            ids_now = jax.lax.dynamic_index_in_dim(state.ids, state.step, axis=1, keepdims=False)
            logits, cache = model.step(jnp.tile(ids_now, (branches, 1)), state.step, state.cache)
            logits = jnp.where(allowed, combine(logits, request.weights), -jnp.inf)
            step = state.step + 1
            drawn = choose(logits, jax.vmap(jax.random.fold_in, (0, None))(request.keys, step), request.choice)
            frame = frames[step]
            given = frame < request.prompt_frames[:, None]
            over = (drawn[:, 0] == model.frames.special) & (frame[0] >= 0) & ~given[:, 0]
            end = jnp.where(over, jnp.minimum(state.end, frame[0]), state.end)
            ids = jnp.where(given, jax.lax.dynamic_index_in_dim(prompt, step, axis=1, keepdims=False), drawn)
            ids = jnp.where((frame >= 0) & (frame < end[:, None]), ids, model.frames.special)
            ids = jax.lax.dynamic_update_index_in_dim(state.ids, ids, step, axis=1)
            return SamplerState(step, ids, end, cache)

        def goes_on(state: SamplerState) -> Array:
            return (state.step < until) & self._unfinished(state.step, state.end)

        state = jax.lax.while_loop(goes_on, body, state)
        return state, self._unfinished(state.step, state.end)

    def _looked_at(self, state, start, *, count: int) -> tuple[Array, Array]:
        """`count` frames from `start` on, and where the songs end, as arrays that outlive the state."""
        steps = jax.lax.dynamic_slice_in_dim(jnp.asarray(self._pattern.steps), start, count)
        return state.ids[:, steps, jnp.arange(steps.shape[1])], state.end + 0

    def _unfinished(self, step: Array, end: Array) -> Array:
        """bool [], whether any song lacks a step after `step`."""
        return jnp.any((step < jnp.asarray(self._complete)[jnp.maximum(end - 1, 0)]) & (end > 0))

    def _rooms(self) -> list[int]:
        """The steps that the caches have room for, one after another."""
        num_steps = self._pattern.num_steps
        stride = max(ROOM, -(-num_steps // (LOOPS * BLOCK)) * BLOCK)
        return [*range(stride, num_steps, stride), num_steps]
