"""The frame adapter of continuous songs: columns of an autoencoder's latents as a decoder's steps.

Letters: B batch, T frames, M bands, N columns (T / 16), R rows (M / 16), C channels, S steps, F values of a step, D
width.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.latents.head import Head, linear
from autosong_jax.latents.history import ShortContext
from autosong_jax.layers.declaration import declared
from autosong_jax.layers.transformer import ACTIVATIONS
from autosong_jax.models.autoencoder import MelAutoencoder


class Latents(nnx.Module):
    """An autoencoder and the statistics of its latents, none of which a song model trains: songs as columns of unit
    variance, and back.

    Args:
      autoencoder: of mels of R rows.
      rows: R.

    Attributes:
      mean, spread: float32 [R, C], of the latents of the songs that are learned from.
    """

    def __init__(self, autoencoder: MelAutoencoder, rows: int):
        self.autoencoder = autoencoder
        shape = (rows, autoencoder.channels)
        self.mean = nnx.Param(jnp.zeros(shape), **declared("vector"))
        self.spread = nnx.Param(jnp.ones(shape), **declared("vector"))

    def encode(self, values: Array) -> Array:
        """float [B, T, M] -> columns float32 [B, N, R C]."""
        latents = (self.autoencoder.to_latents(values) - self.mean[...]) / self.spread[...]
        return latents.reshape(*latents.shape[:2], -1)

    def restored(self, columns: Array) -> Array:
        """Columns [B, N, R C] -> the autoencoder's latents float32 [B, N, R, C]."""
        return columns.reshape(*columns.shape[:2], *self.mean.shape) * self.spread[...] + self.mean[...]


class LatentFrames(nnx.Module):
    """Steps of columns, or of one patch of a column each, embedded by an MLP and predicted by a head.

    What a decoder reads of a step is the patch, to which a learned vector of the row and of the channels is added,
    through an MLP. What the head reads is the decoder's state and, with a short context, the last latents as they are.

    Args:
      latents: what columns are.
      order: "column", all rows of a column in one step; or "raster", the rows of a column one after another.
      head: makes the head, of a width, a size, a dtype and rngs.
      short_context: how many latents the head reads beside the state; 0 for none.
      end_of_song: whether there is an `end`, which says from the state that the song is over.
      width: D.
      dtype: of the computation.
      keys: PRNG keys, of which the second is used.

    Attributes:
      size: F.
      per_column: how many steps a column takes.
    """

    def __init__(self, latents: Latents, order: str, head: Callable[..., Head], short_context: int,
                 end_of_song: bool, width: int, dtype: str, *, keys: tuple[Array, Array]):
        rngs = nnx.Rngs(params=keys[1])
        rows, channels = latents.mean.shape
        self.latents, self.dtype = latents, dtype
        self.per_column = rows if order == "raster" else 1
        self.size = rows * channels // self.per_column
        vector = nnx.initializers.normal(0.02)
        self.start = nnx.Param(vector(rngs.params(), (self.size,)), **declared("vector"))
        self.places = nnx.Param(vector(rngs.params(), (rows * channels,)), **declared("vector"))
        self.up = linear(self.size, width, dtype, rngs)
        self.down = linear(width, width, dtype, rngs)
        self.head = head(width, self.size, dtype, rngs=rngs)
        self.context = ShortContext(self.size, width, dtype, length=short_context, rngs=rngs) if short_context else None
        self.end = linear(width, 1, dtype, rngs) if end_of_song else None

    def steps(self, columns: Array) -> Array:
        """Columns [B, N, R C] -> steps [B, S, F]."""
        return columns.reshape(len(columns), columns.shape[1] * self.per_column, self.size)

    def columns(self, steps: Array) -> Array:
        """Steps [B, S, F] of whole columns -> columns [B, N, R C]."""
        return steps.reshape(len(steps), steps.shape[1] // self.per_column, self.size * self.per_column)

    def inputs(self, steps: Array) -> Array:
        """What a decoder reads when steps [B, S, F] are to be predicted: the start, then all steps but the last."""
        start = jnp.broadcast_to(self.start[...], (len(steps), 1, self.size))
        return self.placed(jnp.concatenate([start, steps[:, :-1]], axis=1), jnp.arange(steps.shape[1]))

    def placed(self, steps: Array, index: Array) -> Array:
        """Steps [..., F] with the vectors of their places, `index` int [...] being those of the steps that follow."""
        places = self.places[...].reshape(self.per_column, -1)
        return steps + places[(index - 1) % self.per_column]

    def embed(self, steps: Array) -> Array:
        """[B, S, F], `placed` -> [B, S, D]."""
        return self.down(ACTIVATIONS["gelu"](self.up(steps.astype(self.dtype))))

    def predict(self, states: Array) -> Array:
        """What a head and `end` read: the states themselves, float32 [B, S, D]."""
        return states.astype(jnp.float32)

    def condition(self, states: Array, before: Array) -> Array:
        """What the head predicts from: states [B, S, D] and, in a short context, `before` [B, S, F], the latents that
        stand before each step, zeros before the first."""
        return states if self.context is None else states + self.context(before).astype(states.dtype)

    def condition_of_step(self, states: Array, window: Array) -> Array:
        """The same of one step: states [B, D] and the latents before it, oldest first, [B, length, F]."""
        return states if self.context is None else states + self.context.last(window).astype(states.dtype)

    def fused(self) -> "LatentFrames":
        """This adapter for sampling."""
        return self
