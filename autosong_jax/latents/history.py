"""What a decoder of latents reads of those before: noisy ones in training, and the last few as they are.

Free run brings errors into the history that training has never seen, and they grow. Noise in training makes the decoder
take from the history what is coarse; the last latents, clean and by a way of their own, keep what is fine (Rouard et
al. 2025, "Continuous Audio Language Models", arXiv 2509.06926).

Letters: B batch, S steps, F values of a latent, D width.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.latents.head import linear
from autosong_jax.layers.transformer import ACTIVATIONS, layer_norm


def noised(latents: Array, keys: Array) -> Array:
    """sqrt(k) e + sqrt(1 - k) x for latents x whose variance is 1, which it keeps; for training only.

    Every step has its own k, uniform in [0, 1): the history of a step then always holds some latents that are almost
    clean and some that are almost noise, whichever they are, and a short song of training shows all levels.

    Args:
      latents: [B, S, F].
      keys: PRNG keys [B], one a song.

    Returns:
      float32 [B, S, F].
    """
    def of_song(x: Array, key: Array) -> Array:
        of_level, of_noise = jax.random.split(key)
        k = jax.random.uniform(of_level, (len(x), 1))
        return jnp.sqrt(k) * jax.random.normal(of_noise, x.shape) + jnp.sqrt(1 - k) * x

    return jax.vmap(of_song)(latents, keys)


class ShortContext(nnx.Module):
    """The last latents of every step, clean, through a residual MLP; what it adds is zero before training.

    Step by step it needs no more than those latents, and gives exactly what it gives for whole songs.

    Args:
      size, width: F and D.
      dtype: of the computation.
      length: how many latents, that of the step among them.
      layers, hidden: residual blocks, and their width.
    """

    def __init__(self, size: int, width: int, dtype: str = "float32", *, length: int = 10, layers: int = 2,
                 hidden: int = 512, rngs: nnx.Rngs):
        self.length, self.dtype = length, dtype
        self.inputs = linear(length * size, hidden, dtype, rngs)
        self.blocks = nnx.List([Residual(hidden, dtype, rngs=rngs) for _ in range(layers)])
        self.out = linear(hidden, width, dtype, rngs, zero=True)

    def __call__(self, latents: Array) -> Array:
        """Of every step, what is read of it and the `length` - 1 before: [B, S, F] -> [B, S, D].

        Before the first step there are zeros.
        """
        steps = latents.shape[1]
        padded = jnp.pad(latents, ((0, 0), (self.length - 1, 0), (0, 0)))
        windows = jnp.stack([padded[:, i:i + steps] for i in range(self.length)], axis=2)
        return self.last(windows)

    def last(self, windows: Array) -> Array:
        """Of a step alone: the `length` latents up to it, oldest first, [..., length, F] -> [..., D]."""
        x = self.inputs(windows.reshape(*windows.shape[:-2], -1).astype(self.dtype))
        for block in self.blocks:
            x = block(x)
        return self.out(x)


class Residual(nnx.Module):
    """x + MLP(norm(x)), [..., W] -> [..., W]."""

    def __init__(self, width: int, dtype: str, *, rngs: nnx.Rngs):
        self.norm = layer_norm(width, dtype, rngs)
        self.up = linear(width, width, dtype, rngs)
        self.down = linear(width, width, dtype, rngs)

    def __call__(self, x: Array) -> Array:
        return x + self.down(ACTIVATIONS["gelu"](self.up(self.norm(x))))
