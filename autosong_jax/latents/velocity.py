"""The network of flows: which way a noisy latent moves, given a state and times.

Letters as in `head`; W is the width of the network.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.latents.head import linear
from autosong_jax.parallel.sharding import split_by_song

TIME_FEATURES = 32


def time_features(times: Array) -> Array:
    """Sines and cosines of times in [0, 1]: [...] -> float32 [..., TIME_FEATURES].

    From a twelfth of a turn on the way from 0 to 1 to one and a half: self-distillation takes derivatives by time,
    which faster ones would blow up, and slower ones would all be one constant.
    """
    angles = times[..., None] * jnp.geomspace(0.5, 10.0, TIME_FEATURES // 2)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Velocity(nnx.Module):
    """An MLP of residual blocks with adaptive layer normalisation (Peebles and Xie 2023), as the head of MAR (Li et al.
    2024). Its gates and its output are zero before training.

    Args:
      width, size: D and F.
      dtype: of the computation.
      times: how many times it is given, each embedded by an MLP of its own; their mean counts.
      layers, hidden: the number of blocks, and W.
    """

    def __init__(self, width: int, size: int, dtype: str, *, times: int, layers: int, hidden: int, rngs: nnx.Rngs):
        self.dtype = dtype
        self.state = linear(width, hidden, dtype, rngs)
        self.times = nnx.List([Time(hidden, dtype, rngs=rngs) for _ in range(times)])
        self.inputs = linear(size, hidden, dtype, rngs)
        self.blocks = nnx.List([Block(hidden, dtype, rngs=rngs) for _ in range(layers)])
        self.modulation = linear(hidden, 2 * hidden, dtype, rngs, zero=True)
        self.out = linear(hidden, size, dtype, rngs, zero=True)

    def __call__(self, states: Array, x: Array, *times: Array) -> Array:
        """The velocity.

        Args:
          states: [..., D].
          x: [..., F].
          times: in [0, 1]; [...] each.

        Returns:
          float32 [..., F]. The leading axes of all arguments are broadcast against each other.
        """
        time = sum(embed(t) for embed, t in zip(self.times, times, strict=True)) / len(times)
        condition = jax.nn.silu(self.state(states) + time)
        x = self.inputs(x.astype(self.dtype))
        for block in self.blocks:
            x = block(split_by_song(x), condition)
        shift, scale = jnp.split(self.modulation(condition), 2, axis=-1)
        return self.out(_normed(x) * (1 + scale) + shift).astype(jnp.float32)


class Time(nnx.Module):
    """The embedding of a time, [...] -> [..., W]."""

    def __init__(self, hidden: int, dtype: str, *, rngs: nnx.Rngs):
        self.up = linear(TIME_FEATURES, hidden, dtype, rngs)
        self.down = linear(hidden, hidden, dtype, rngs)

    def __call__(self, times: Array) -> Array:
        return self.down(jax.nn.silu(self.up(time_features(times))))


class Block(nnx.Module):
    """x + gate MLP(norm(x) (1 + scale) + shift), all three of the condition."""

    def __init__(self, hidden: int, dtype: str, *, rngs: nnx.Rngs):
        self.modulation = linear(hidden, 3 * hidden, dtype, rngs, zero=True)
        self.up = linear(hidden, hidden, dtype, rngs)
        self.down = linear(hidden, hidden, dtype, rngs)

    def __call__(self, x: Array, condition: Array) -> Array:
        """[..., W] and [..., W] -> [..., W]."""
        shift, scale, gate = jnp.split(self.modulation(condition), 3, axis=-1)
        return x + gate * self.down(jax.nn.silu(self.up(_normed(x) * (1 + scale) + shift)))


def _normed(x: Array) -> Array:
    """Layer normalisation without parameters, which the condition brings."""
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    return (y * jax.lax.rsqrt((y**2).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)
