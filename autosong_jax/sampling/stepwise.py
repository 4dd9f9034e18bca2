"""Loops on the device that make songs step by step, whatever a step holds.

Every loop has a cache of its own length, longer than the last; the host starts them one after another. A song that is
over early, or shorter than the window, so never pays for the cache of a long one, nor for compiling with it. Where
frames are wanted as they are made, the host starts the same loops for a few frames at a time: a program that called the
host would be compiled for each caller, never be kept, and could not be one graph on a GPU.

Letters: B batch, G guidance branches, T frames, S steps.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from autosong_jax.layers import decoding
from autosong_jax.layers.decoding import Cache
from autosong_jax.layers.platform import loop_options
from autosong_jax.models.song import SongModel
from autosong_jax.sampling.windows import Piece
from autosong_jax.sources.memory import Memory

ROOM = 256  # steps, by which a cache grows at least
LOOPS = 4  # at most, each of which is compiled
BLOCK = 64  # steps; prompts are read in whole ones, so that prompts of similar lengths share a program


class Request(Protocol):
    """Which songs are asked for; a sampler's own has more.

    Attributes:
      weights: float32 [G], of the guidance branches (`guidance.branches`).
      keys: PRNG keys [B], one a song.
      prompt: [B, T, ...], the frames to start from, padded to T.
      prompt_frames: int32 [B], how many frames of `prompt` are given.
      max_frames: int32 [B], at most T: songs are over after so many frames, or earlier where the model says so.
    """

    weights: Array
    keys: Array
    prompt: Array
    prompt_frames: Array
    max_frames: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SamplerState:
    """Where sampling stands.

    Attributes:
      step: int32 [], the last step written.
      written: [B, S, ...], the steps so far.
      end: int32 [B], the number of frames after which each song is over, as far as is known.
      cache: the model's, for G B songs.
    """

    step: Array
    written: Array
    end: Array
    cache: Cache


class StepwiseSampler:
    """Samples songs of one window, of T frames, with one model, `unstacked`; what a step is, subclasses say.

    Args:
      graph: the model without its parameters.
      complete: int [T], the step after which all of the first t + 1 frames stand.
      num_steps: S.
    """

    def __init__(self, graph: Any, complete: np.ndarray, num_steps: int):
        self._graph, self._complete, self._num_steps = graph, complete, num_steps
        self._begin = jax.jit(self._begun, static_argnames=("read", "room"))
        self._advance = jax.jit(self._advanced, donate_argnames="state", compiler_options=loop_options())
        self._look = jax.jit(self._looked_at, static_argnames="count")

    def known_steps(self, prompt_frames: np.ndarray) -> int:
        """The last step before the first that some song does not know all of, when so many frames [B] are given."""
        raise NotImplementedError

    def prompt_steps(self, model: SongModel, request: Request) -> Array:
        """The prompt as steps [B, S, ...]; where none is given they mean nothing."""
        raise NotImplementedError

    def written_first(self, model: SongModel, request: Request, step: Array, end: Array) -> Array:
        """What is written [B, S, ...] when `step` is the last of the steps that are known; `end` int32 [B]."""
        raise NotImplementedError

    def inputs(self, model: SongModel, written: Array, index: Array) -> Array:
        """What the model reads of written steps [B, n, ...], the first of which has the number `index`, int []."""
        raise NotImplementedError

    def next_step(self, model: SongModel, outputs: Array, state: SamplerState, request: Request, prompt: Array
                  ) -> tuple[Array, Array]:
        """What stands at the step after `state.step` [B, ...], and where songs end, int32 [B].

        Args:
          outputs: [G B, ...], what the model predicts.
          prompt: [B, ...], of that step.
        """
        raise NotImplementedError

    def frames_of(self, written: Array, start: Array | int, count: int) -> Array:
        """`count` frames from `start` on, [B, count, ...]."""
        raise NotImplementedError

    def __call__(self, params: Any, memory: Memory, request: Request) -> tuple[Array, Array]:
        """Samples songs.

        Args:
          params: of the model.
          memory: of G B examples, branch after branch.
          request: of B songs.

        Returns:
          frames [B, T, ...]; num_frames int32 [B], after which frames mean nothing.
        """
        state = self.begin(params, memory, request)
        state = self.advance(params, state, request, self._num_steps)
        return self._look(state, 0, count=len(self._complete))

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
            state = self.advance(params, state, request, self._num_steps if last else int(self._complete[stop - 1]))
            now = None if last else self._look(state, stop - stride, count=stride)
            if before is not None:  # which is fetched only now, so the device always has the next
                frames, ends = jax.device_get(before)
                yield Piece(start, frames, ends, (start + stride - prompt) / (length - prompt))
                start += stride
                if (ends <= start).all():
                    break
            before = now
        frames, ends = jax.device_get(self._look(state, 0, count=length))
        yield Piece(start, frames[:, start:], ends, 1.0)

    def begin(self, params: Any, memory: Memory, request: Request) -> SamplerState:
        """The state before the first step of which some song does not know all; arguments as above."""
        step = self.known_steps(request.prompt_frames)
        read = min(-(-step // BLOCK) * BLOCK, self._num_steps)
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
        model = nnx.merge(self._graph, params)
        end = jnp.minimum(request.max_frames, len(self._complete)).astype(jnp.int32)
        written = self.written_first(model, request, step, end)
        first = jnp.tile(self.inputs(model, written[:, :read], 0), (len(request.weights), *[1] * (written.ndim - 1)))
        return SamplerState(jnp.int32(step), written, end, model.start(memory, first, room))

    def _advanced(self, params, state, request, until) -> tuple[SamplerState, Array]:
        """The state after step `until`, or at the end of the songs; bool [], whether any song goes on."""
        model, branches = nnx.merge(self._graph, params), len(request.weights)
        prompt = self.prompt_steps(model, request)

        def body(state: SamplerState) -> SamplerState:
            now = jax.lax.dynamic_slice_in_dim(state.written, state.step, 1, axis=1)
            now = self.inputs(model, now, state.step)[:, 0]
            outputs, cache = model.step(jnp.tile(now, (branches, *[1] * (now.ndim - 1))), state.step, state.cache)
            given = jax.lax.dynamic_index_in_dim(prompt, state.step + 1, axis=1, keepdims=False)
            new, end = self.next_step(model, outputs, state, request, given)
            written = jax.lax.dynamic_update_index_in_dim(state.written, new, state.step + 1, axis=1)
            return SamplerState(state.step + 1, written, end, cache)

        def goes_on(state: SamplerState) -> Array:
            return (state.step < until) & self._unfinished(state.step, state.end)

        state = jax.lax.while_loop(goes_on, body, state)
        return state, self._unfinished(state.step, state.end)

    def _looked_at(self, state, start, *, count: int) -> tuple[Array, Array]:
        """`count` frames from `start` on, and where the songs end, as arrays that outlive the state."""
        return self.frames_of(state.written, start, count), state.end + 0

    def _unfinished(self, step: Array, end: Array) -> Array:
        """bool [], whether any song lacks a step after `step`."""
        return jnp.any((step < jnp.asarray(self._complete)[jnp.maximum(end - 1, 0)]) & (end > 0))

    def _rooms(self) -> list[int]:
        """The steps that the caches have room for, one after another."""
        stride = max(ROOM, -(-self._num_steps // (LOOPS * BLOCK)) * BLOCK)
        return [*range(stride, self._num_steps, stride), self._num_steps]
