"""How a model reads where in its song a window begins.

Letters: B batch, D width of the decoder.
"""

from collections.abc import Mapping

from flax import nnx
from jax import Array

from autosong_jax.layers.transformer import projection, sinusoidal

FEATURES = 64  # sines and cosines of the second, of periods from 6 s to 17 hours


class PositionSource(nnx.Module):
    """Sinusoidal features of the second at which a window begins, through one linear layer."""

    def __init__(self, width: int, dtype: str, *, rngs: nnx.Rngs):
        self.projection = projection(FEATURES, width, dtype, rngs)

    def __call__(self, source: Mapping[str, Array], key: Array | None = None) -> Array:
        """{"seconds": float32 [B, 1], "length": int [B]} -> [B, 1, D]."""
        return self.projection(sinusoidal(source["seconds"], FEATURES))
