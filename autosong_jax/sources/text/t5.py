"""The encoders of T5 (Raffel et al. 2020), mT5 (Xue et al. 2021) and umT5 (Chung et al. 2023), for inference.

All three are pre-norm transformers without a bias term. Attention does not scale its scores and knows positions only by
a learned bias for each head and distance: T5 and mT5 share one table among their layers, umT5 has one in every layer.

Letters: B batch, L tokens, D width, H heads, Dh width of a head.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from autosong_jax.sources.text.biased_attention import ACTIVATIONS, MASKED, biased_attention, scan, stack


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The shape of an encoder.

    Attributes:
      vocab_size: ids are in [0, vocab_size).
      width, heads, head_width, layers, mlp_width: of the transformer; D is not always H Dh.
      buckets, max_distance: how many classes of distances there are, and from which distance on all are one class.
      shared_bias: whether the layers share the table of biases.
      activation, gated: of the MLP; a gate multiplies the activation by a second linear map.
      epsilon: of the norms.
    """

    vocab_size: int
    width: int
    heads: int
    head_width: int
    layers: int
    mlp_width: int
    buckets: int = 32
    max_distance: int = 128
    shared_bias: bool = True
    activation: str = "relu"
    gated: bool = False
    epsilon: float = 1e-6


def distance_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """The class of each distance, int32 [2 length - 1]: entry i is for a key at i - (length - 1) after its query.

    Half of the classes are for keys after the query. Of either half, one half is for the short distances, each alone;
    the rest covers the others up to `max_distance` on a logarithmic scale.
    """
    distance = np.arange(1 - length, length)
    half = buckets // 2
    exact = half // 2
    far = np.maximum(np.abs(distance), 1).astype(np.float32) / exact
    # In float32 and in this order, as the released code has it: at the edges of classes rounding decides.
    far = np.log(far) / np.float32(np.log(max_distance / exact)) * np.float32(half - exact)
    near = np.abs(distance)
    bucket = np.where(near < exact, near, np.minimum(exact + far.astype(np.int32), half - 1))
    return (bucket + np.where(distance > 0, half, 0)).astype(np.int32)


class T5Block(nnx.Module):
    """Self-attention and MLP, each a residual with a norm before."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)

        self.config = config
        inner = config.heads * config.head_width
        self.attention_norm, self.mlp_norm = _norm(config, rngs), _norm(config, rngs)
        self.q, self.k, self.v = (linear(config.width, inner) for _ in range(3))
        self.out = linear(inner, config.width)
        if not config.shared_bias:
            self.bias = nnx.Embed(config.buckets, config.heads, rngs=rngs)
        self.up = linear(config.width, config.mlp_width)
        if config.gated:
            self.gate = linear(config.width, config.mlp_width)
        self.down = linear(config.mlp_width, config.width)

    def __call__(self, x: Array, lengths: Array, shared_bias: Array | None) -> Array:
        """x [B, L, D], lengths int [B], the table of biases [buckets, H] that is not the block's own -> [B, L, D]."""
        table = self.bias.embedding[...] if shared_bias is None else shared_bias
        x = x + self._attend(self.attention_norm(x), lengths, table)
        h = self.mlp_norm(x)
        up = ACTIVATIONS[self.config.activation](self.up(h))
        return x + self.down(up * self.gate(h) if self.config.gated else up)

    def _attend(self, x: Array, lengths: Array, table: Array) -> Array:
        config, (batch, length, _) = self.config, x.shape
        q, k, v = (linear(x).reshape(batch, length, config.heads, config.head_width)
                   for linear in (self.q, self.k, self.v))
        # [H, 2 L - 1]: a query's biases are L neighbours of it.
        by_distance = table.T[:, distance_buckets(length, config.buckets, config.max_distance)].astype(jnp.float32)
        padding = jnp.where(jnp.arange(length) < lengths[:, None], 0.0, MASKED)[:, None, None]

        def bias(queries: Array) -> Array:
            def of_query(i):
                return jax.lax.dynamic_slice_in_dim(by_distance, length - 1 - i, length, axis=1)

            return jax.vmap(of_query, out_axes=1)(queries) + padding

        return self.out(biased_attention(q, k, v, bias, 1.0).reshape(batch, length, -1))


class T5Encoder(nnx.Module):
    """Ids -> the last hidden states."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = nnx.Embed(config.vocab_size, config.width, rngs=rngs)
        if config.shared_bias:
            self.bias = nnx.Embed(config.buckets, config.heads, rngs=rngs)
        self.blocks = stack(lambda rngs: T5Block(config, rngs=rngs), config.layers, rngs)
        self.norm = _norm(config, rngs)

    def __call__(self, ids: Array, lengths: Array) -> Array:
        """Encodes texts.

        Args:
          ids: int [B, L].
          lengths: int [B]; what comes after the first lengths[b] ids of text b is padding and changes nothing.

        Returns:
          float32 [B, L, D]; at padding, something finite.
        """
        bias = self.bias.embedding[...] if self.config.shared_bias else None
        return self.norm(scan(self.blocks, lambda block, x: block(x, lengths, bias), self.embedding(ids)))


def _norm(config: T5Config, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(config.width, epsilon=config.epsilon, use_fast_variance=False, rngs=rngs)
