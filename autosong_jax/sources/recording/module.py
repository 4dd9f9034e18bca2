"""How a model reads a recording.

Letters: B batch, L slots, K codebooks, V codebook size, D width of the decoder.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax.numpy as jnp
import ml_collections
from flax import nnx
from jax import Array

from autosong_jax.layers.declaration import declared
from autosong_jax.layers.embedding import summed
from autosong_jax.layers.transformer import Transformer, TransformerConfig, projection, sinusoidal

if TYPE_CHECKING:
    from autosong_jax.sources.recording.spec import RecordingSpec


class RecordingSource(nnx.Module):
    """Codes through embeddings, summed over the codebooks and times the square root of their width, sinusoidal
    positions, a bidirectional transformer, and where widths differ a linear layer.

    Args:
      num_codebooks, codebook_size: K and V.
      config: the transformer; without layers it is left out, and a slot holds its own codes alone.
      width: D of the memory.
    """

    def __init__(self, num_codebooks: int, codebook_size: int, config: TransformerConfig, width: int, *,
                 rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.truncated_normal(config.width**-0.5)
        self.embeddings = nnx.Param(init(rngs.params(), (num_codebooks, codebook_size, config.width)),
                                    **declared("table", "fsdp", cast=True))
        self.encoder = Transformer(config, rngs=rngs) if config.layers else None
        self.projection = None if config.width == width else projection(config.width, width, config.dtype, rngs)

    def __call__(self, source: Mapping[str, Array], key: Array | None = None) -> Array:
        """{"codes": int [B, L, K], "length": int [B]} -> [B, L, D]."""
        x = summed(self.embeddings[...].astype(self.config.dtype), source["codes"]) * self.config.width**0.5
        if self.encoder is None:
            x = x + sinusoidal(jnp.arange(x.shape[1]), self.config.width).astype(x.dtype)
        else:
            x = self.encoder(x, lengths=source["length"], key=key)
        return x if self.projection is None else self.projection(x)


def build(spec: "RecordingSpec", config: ml_collections.ConfigDict, dtype: str, *, rngs: nnx.Rngs) -> RecordingSource:
    """What reads the source; see `SourceSpec.module`. A width of 0 is that of the decoder."""
    model, source = config.model, config.sources[spec.name]
    width = source.width or model.width
    encoder = TransformerConfig(
        width=width, heads=source.heads or 1, layers=source.layers, mlp_width=4 * width, activation=model.activation,
        bias=model.bias, dropout=model.dropout, causal=False, remat=config.train.remat, unroll=config.train.unroll,
        dtype=dtype)
    return RecordingSource(spec.codec.num_codebooks, spec.codec.codebook_size, encoder, model.width, rngs=rngs)
