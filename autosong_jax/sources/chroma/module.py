"""How a model reads a melody.

Letters: B batch, L slots, D width of the decoder.
"""

from collections.abc import Mapping

import jax
from flax import nnx
from jax import Array

from autosong_jax.layers.transformer import projection
from autosong_jax.sources.chroma.pitch_classes import NUM_CHROMA


class ChromaSource(nnx.Module):
    """The strongest pitch class of each frame of a recording, through one linear layer (MusicGen's melody)."""

    def __init__(self, width: int, dtype: str, *, rngs: nnx.Rngs):
        self.projection = projection(NUM_CHROMA, width, dtype, rngs)

    def __call__(self, source: Mapping[str, Array], key: Array | None = None) -> Array:
        """{"chroma": int [B, L] in [0, 12), "length": int [B]} -> [B, L, D]."""
        return self.projection(jax.nn.one_hot(source["chroma"], NUM_CHROMA))

    @property
    def null(self) -> Array:
        """[D], what stands where there is no recording: pitch class 0, as the released checkpoints were trained."""
        return self.projection(jax.nn.one_hot(0, NUM_CHROMA))
