"""The song model: steps of codebook ids and a memory in, logits for the next step out.

Letters: B batch, S steps, K codebooks, V codebook size, M memory length, D width.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.errors import UserError
from autosong_jax.layers import decoding
from autosong_jax.layers.declaration import declared
from autosong_jax.layers.decoding import Cache
from autosong_jax.layers.transformer import Transformer, TransformerConfig
from autosong_jax.parallel.sharding import split_by_song, whole
from autosong_jax.sources.memory import Memory, SourceEncoders, null_memory, take_slots

FUSIONS = ("cross", "prefix")


class FusedHeads(nnx.Module):
    """The heads of all codebooks as one matrix, for sampling: XLA would otherwise make it anew at every step.

    Args:
      heads: [K, D, V].
    """

    def __init__(self, heads: Array):
        num_codebooks, width, self.size = heads.shape
        self.kernel = nnx.Param(heads.swapaxes(0, 1).reshape(width, num_codebooks * self.size))

    def __call__(self, x: Array, codebook: Array | None) -> Array:
        """As `SongModel._logits`."""
        kernel = self.kernel[...]
        if codebook is not None:
            kernel = jax.lax.dynamic_slice_in_dim(kernel, codebook * self.size, self.size, axis=1)
        logits = jnp.einsum("sd,dv->sv", x.reshape(-1, x.shape[-1]), kernel, preferred_element_type=jnp.float32)
        return logits.reshape(*x.shape[:2], -1, self.size)


class SongModel(nnx.Module):
    """Summed codebook embeddings, a transformer fused with the memory, one head a codebook.

    The transformer is causal and reads the steps of a pattern, or sees all frames at once and fills in masked ones: one
    model can do both, with the same parameters.

    Args:
      num_codebooks, codebook_size: K and V. Ids are in [0, V]; V is the special id, which stands where no code does.
      end_of_song: whether the heads also predict the special id: then a frame of it says that the song is over.
      decoder: the transformer; its `cross_attention` is decided by `fusion`.
      fusion: "cross" attends to the memory, "prefix" reads it before step 0.
      sources: the modules of the condition sources by name; may be empty.
      dropped: what a source that is dropped leaves in the memory; see `SourceEncoders`.
    """

    def __init__(self, num_codebooks: int, codebook_size: int, end_of_song: bool, decoder: TransformerConfig,
                 fusion: str, sources: Mapping[str, nnx.Module], dropped: str = "absent", *, rngs: nnx.Rngs):
        if fusion not in FUSIONS:
            raise UserError(f"model fusion {fusion!r}: expected one of {', '.join(FUSIONS)}")
        self.num_codebooks, self.special, self.fusion = num_codebooks, codebook_size, fusion
        self.num_ids = codebook_size + int(end_of_song)  # that the heads predict
        decoder = dataclasses.replace(decoder, cross_attention=fusion == "cross" and bool(sources))
        width = decoder.width
        init = nnx.initializers.truncated_normal(width**-0.5)
        self.embeddings = nnx.Param(init(rngs.params(), (num_codebooks, codebook_size + 1, width)),
                                    **declared("fsdp", cast=True))
        self.conditions = SourceEncoders(sources, width, dropped, rngs=rngs) if sources else None
        self.decoder = Transformer(decoder, rngs=rngs)
        self.heads = nnx.Param(init(rngs.params(), (num_codebooks, width, self.num_ids)),
                               **declared("fsdp", "tensor", cast=True))

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
                 codebook: Array | None = None) -> Array:
        """Teacher forcing, or filling in.

        Args:
          steps: int [B, S, K], ids in [0, V]: steps of a pattern, or if `local` is given frames, V where masked.
          memory: from `encode`.
          key: PRNG key of dropout; None for none.
          local: bool [], may be traced: every frame sees all frames, or if true those within the decoder's window.
            None: a step sees the steps up to it. Wants cross fusion.
          codebook: int [], the one whose logits are wanted; None for all.

        Returns:
          float32 [B, S, K, V], or [B, S, 1, V] for one codebook (V + 1 with end of song): at step s the logits of step
          s + 1, or if `local` is given the logits of frame s itself.
        """
        return self._logits(self.hidden(steps, memory, key, local=local), codebook)

    def hidden(self, steps: Array, memory: Memory, key: Array | None = None, *, local: Array | None = None) -> Array:
        """[B, S, D], what the heads read; arguments as of `__call__`."""
        x = self._embed(steps)
        if self.fusion == "cross":
            return self.decoder(x, local=local, memory=memory.states, memory_lengths=memory.lengths, key=key)
        x = self.decoder(self._after_memory(x, memory), key=key)
        return take_slots(x, memory.lengths[:, None] + jnp.arange(steps.shape[1]))

    def start(self, memory: Memory, steps: Array, room: int) -> Cache:
        """The cache after the first steps of songs, which are read at once. Wants an `unstacked` model.

        Args:
          memory: from `encode`.
          steps: int [B, P, K], the steps before the one that `step` is called for first; P may be 0. Where more of them
            are given, those from that one on mean nothing and change nothing.
          room: the steps that the cache has room for, at least P; `decoding.grown` makes more.
        """
        x = self._embed(steps)
        if self.fusion == "cross":
            return decoding.start(self.decoder, x, room, memory.states, memory.lengths)
        before = memory.states.shape[1]
        cache = decoding.start(self.decoder, self._after_memory(x, memory), before + room)
        return dataclasses.replace(cache, offset=memory.lengths, before=before)

    def step(self, ids: Array, index: Array, cache: Cache) -> tuple[Array, Cache]:
        """One step of decoding: what `__call__` gives at step `index`, from the cache of the steps before it.

        Args:
          ids: int [B, K], the ids of step `index`.
          index: int [].
          cache: from `start` or from the step before.

        Returns:
          float32 [B, K, V] (V + 1 with end of song), the logits of step index + 1; the new cache.
        """
        x, cache = decoding.step(self.decoder, self._embed(ids[:, None]), index, cache)
        return self._logits(x)[:, 0], cache

    def unstacked(self, *, consume: bool = False) -> "SongModel":
        """This model as `start` and `step` want it; see `Transformer.unstacked`."""
        copy = nnx.clone(self)
        copy.decoder = self.decoder.unstacked(consume=consume)
        dtype = self.decoder.config.dtype
        copy.embeddings[...] = copy.embeddings[...].astype(dtype)
        copy.heads = FusedHeads(copy.heads[...].astype(dtype))
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

    def _embed(self, ids: Array) -> Array:
        """int [B, S, K] -> [B, S, D], the sum over the codebooks."""
        tables = whole(self.embeddings[...].astype(self.decoder.config.dtype))
        return split_by_song(sum(tables[k][ids[..., k]] for k in range(self.num_codebooks)))

    def _logits(self, x: Array, codebook: Array | None = None) -> Array:
        if isinstance(self.heads, FusedHeads):
            return self.heads(x, codebook)
        heads = self.heads[...].astype(x.dtype)
        if codebook is not None:
            heads = jax.lax.dynamic_slice_in_dim(heads, codebook, 1)
        return jnp.einsum("bsd,kdv->bskv", x, heads, preferred_element_type=jnp.float32)
