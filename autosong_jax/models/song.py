"""The song model: steps of a song and a memory in, what its frame adapter predicts of the next step out.

Letters: B batch, S steps, M memory length, D width.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.errors import UserError
from autosong_jax.layers import decoding
from autosong_jax.layers.decoding import Cache
from autosong_jax.layers.transformer import Transformer, TransformerConfig
from autosong_jax.models.frames import CodeFrames
from autosong_jax.sources.memory import Memory, SourceEncoders, null_memory, take_slots

FUSIONS = ("cross", "prefix")


class SongModel(nnx.Module):
    """A transformer fused with the memory, between the two sides of a frame adapter.

    The transformer is causal and reads the steps of a pattern, or sees all frames at once and fills in masked ones: one
    model can do both, with the same parameters.

    Args:
      frames: makes the adapter, of a width, a dtype and two PRNG keys; a `functools.partial` of `CodeFrames` does.
      decoder: the transformer; its `cross_attention` is decided by `fusion`.
      fusion: "cross" attends to the memory, "prefix" reads it before step 0.
      sources: the modules of the condition sources by name; may be empty.
      dropped: what a source that is dropped leaves in the memory; see `SourceEncoders`.
    """

    def __init__(self, frames: Callable[..., CodeFrames], decoder: TransformerConfig, fusion: str,
                 sources: Mapping[str, nnx.Module], dropped: str = "absent", *, rngs: nnx.Rngs):
        if fusion not in FUSIONS:
            raise UserError(f"model fusion {fusion!r}: expected one of {', '.join(FUSIONS)}")
        self.fusion = fusion
        decoder = dataclasses.replace(decoder, cross_attention=fusion == "cross" and bool(sources))
        key = rngs.params()  # drawn first: initial values follow the order
        self.conditions = SourceEncoders(sources, decoder.width, dropped, rngs=rngs) if sources else None
        self.decoder = Transformer(decoder, rngs=rngs)
        self.frames = frames(decoder.width, decoder.dtype, keys=(key, rngs.params()))

    @property
    def source_names(self) -> list[str]:
        """The condition sources, in the order of the columns of `keep`."""
        return self.conditions.names if self.conditions else []

    def encode(self, sources: Mapping[str, Mapping[str, Array]], keep: Array, key: Array | None = None) -> Memory:
        """The memory of a batch; see `SourceEncoders.__call__`. `keep` is bool [B, number of sources]."""
        if self.conditions is None:
            return null_memory(keep.shape[0], self.decoder.config.width, self.decoder.config.dtype)
        return self.conditions(sources, keep, key)

    def __call__(self, steps: Array, memory: Memory, key: Array | None = None, *, local: Array | None = None,
                 **wanted: Array) -> Array:
        """Teacher forcing, or filling in.

        Args:
          steps: [B, S, ...], as the adapter takes them: steps of a pattern, or if `local` is given frames.
          memory: from `encode`.
          key: PRNG key of dropout; None for none.
          local: bool [], may be traced: every frame sees all frames, or if true those within the decoder's window.
            None: a step sees the steps up to it. Wants cross fusion.
          wanted: what of a step the adapter is to predict, as its `predict` takes it; all by default.

        Returns:
          [B, S, ...], what the adapter predicts: at step s of step s + 1, or if `local` is given of frame s itself.
        """
        return self.frames.predict(self.hidden(steps, memory, key, local=local), **wanted)

    def hidden(self, steps: Array, memory: Memory, key: Array | None = None, *, local: Array | None = None) -> Array:
        """[B, S, D], what the adapter predicts from; arguments as of `__call__`."""
        x = self.frames.embed(steps)
        if self.fusion == "cross":
            return self.decoder(x, local=local, memory=memory.states, memory_lengths=memory.lengths, key=key)
        x = self.decoder(self._after_memory(x, memory), key=key)
        return take_slots(x, memory.lengths[:, None] + jnp.arange(steps.shape[1]))

    def start(self, memory: Memory, steps: Array, room: int) -> Cache:
        """The cache after the first steps of songs, which are read at once. Wants an `unstacked` model.

        Args:
          memory: from `encode`.
          steps: [B, P, ...], the steps before the one that `step` is called for first; P may be 0. Where more of them
            are given, those from that one on mean nothing and change nothing.
          room: the steps that the cache has room for, at least P; `decoding.grown` makes more.
        """
        x = self.frames.embed(steps)
        if self.fusion == "cross":
            return decoding.start(self.decoder, x, room, memory.states, memory.lengths)
        before = memory.states.shape[1]
        cache = decoding.start(self.decoder, self._after_memory(x, memory), before + room)
        return dataclasses.replace(cache, offset=memory.lengths, before=before)

    def step(self, step: Array, index: Array, cache: Cache) -> tuple[Array, Cache]:
        """One step of decoding: what `__call__` gives at step `index`, from the cache of the steps before it.

        Args:
          step: [B, ...], what step `index` holds.
          index: int [].
          cache: from `start` or from the step before.

        Returns:
          [B, ...], what the adapter predicts of step index + 1; the new cache.
        """
        x, cache = decoding.step(self.decoder, self.frames.embed(step[:, None]), index, cache)
        return self.frames.predict(x)[:, 0], cache

    def unstacked(self, *, consume: bool = False) -> "SongModel":
        """This model as `start` and `step` want it; see `Transformer.unstacked`."""
        copy = nnx.clone(self)
        copy.decoder = self.decoder.unstacked(consume=consume)
        copy.frames = self.frames.fused()
        return copy

    def _after_memory(self, x: Array, memory: Memory) -> Array:
        """[B, M + S, D]: the memory that counts, the steps x [B, S, D] from `memory.lengths` on, then padding.

        Causal attention never looks at the end. So no mask is needed, and padding cannot change a result.
        """
        m, s = memory.states.shape[1], x.shape[1]
        slots = jnp.arange(m + s)
        at = slots - memory.lengths[:, None]
        x = jnp.concatenate([memory.states.astype(x.dtype), x], axis=1)
        return take_slots(x, jnp.where(at < 0, slots, jnp.minimum(m + at, m + s - 1)))
