"""Frame adapters: between what a step of a song holds and the states of a decoder.

An adapter embeds steps, [B, S, ...] -> [B, S, D], and predicts from states. The decoder knows nothing of what it sings;
an objective and its sampler know the adapter that they are for.

Letters: B batch, S steps, K codebooks, V codebook size, D width.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.layers.declaration import declared
from autosong_jax.layers.embedding import summed


class CodeFrames(nnx.Module):
    """Steps of one id a codebook: embeddings summed over the codebooks, and one head a codebook.

    Args:
      num_codebooks, codebook_size: K and V. Ids are in [0, V]; V is the special id, which stands where no code does.
      end_of_song: whether the heads also predict the special id: then a frame of it says that the song is over.
      width: D.
      dtype: of the embeddings that a decoder reads.
      keys: PRNG keys of the initial embeddings and heads.

    Attributes:
      num_codebooks: K.
      special: V, the special id.
      num_ids: how many ids the heads predict, V or V + 1.
    """

    def __init__(self, num_codebooks: int, codebook_size: int, end_of_song: bool, width: int, dtype: str, *,
                 keys: tuple[Array, Array]):
        self.num_codebooks, self.special, self.dtype = num_codebooks, codebook_size, dtype
        self.num_ids = codebook_size + int(end_of_song)
        init = nnx.initializers.truncated_normal(width**-0.5)
        self.embeddings = nnx.Param(init(keys[0], (num_codebooks, codebook_size + 1, width)),
                                    **declared("table", "fsdp", cast=True))
        self.heads = nnx.Param(init(keys[1], (num_codebooks, width, self.num_ids)),
                               **declared("matrix", "fsdp", "tensor", cast=True))

    def embed(self, ids: Array) -> Array:
        """int [B, S, K] -> [B, S, D]."""
        return summed(self.embeddings[...].astype(self.dtype), ids)

    def predict(self, states: Array, codebook: Array | None = None) -> Array:
        """Logits.

        Args:
          states: [B, S, D].
          codebook: int [], the one whose logits are wanted; None for all.

        Returns:
          float32 [B, S, K, V], or [B, S, 1, V] for one codebook; V + 1 with end of song.
        """
        if isinstance(self.heads, FusedHeads):
            return self.heads(states, codebook)
        heads = self.heads[...].astype(states.dtype)
        if codebook is not None:
            heads = jax.lax.dynamic_slice_in_dim(heads, codebook, 1)
        return jnp.einsum("bsd,kdv->bskv", states, heads, preferred_element_type=jnp.float32)

    def fused(self) -> "CodeFrames":
        """This adapter for sampling: `FusedHeads`, all matrices in the compute dtype."""
        copy = nnx.clone(self)
        copy.embeddings[...] = copy.embeddings[...].astype(self.dtype)
        copy.heads = FusedHeads(copy.heads[...].astype(self.dtype))
        return copy


class FusedHeads(nnx.Module):
    """The heads of all codebooks as one matrix, for sampling: XLA would otherwise make it anew at every step.

    Args:
      heads: [K, D, V].
    """

    def __init__(self, heads: Array):
        num_codebooks, width, self.size = heads.shape
        self.kernel = nnx.Param(heads.swapaxes(0, 1).reshape(width, num_codebooks * self.size))

    def __call__(self, states: Array, codebook: Array | None) -> Array:
        """As `CodeFrames.predict`."""
        kernel = self.kernel[...]
        if codebook is not None:
            kernel = jax.lax.dynamic_slice_in_dim(kernel, codebook * self.size, self.size, axis=1)
        rows = states.reshape(-1, states.shape[-1])
        logits = jnp.einsum("sd,dv->sv", rows, kernel, preferred_element_type=jnp.float32)
        return logits.reshape(*states.shape[:2], -1, self.size)
