"""The encoder of BERT (Devlin et al. 2019), for inference.

A post-norm transformer with learned positions, of which there are few (512). A longer text comes as several pieces one
after another, each between two special tokens; positions start anew and attention stays within each piece.

Letters: B batch, L tokens, D width, H heads, Dh width of a head.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.sources.text.biased_attention import ACTIVATIONS, MASKED, biased_attention, scan, stack


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The shape of an encoder.

    Attributes:
      vocab_size: ids are in [0, vocab_size).
      max_positions: the longest piece.
      token_types: the size of a table of which only type 0 is used here.
      width, heads, layers, mlp_width: of the transformer.
      activation: of the MLP.
      epsilon: of the norms.
      begin, end: the ids that a piece begins and ends with, [CLS] and [SEP].
      first_position: of a piece. RoBERTa (Liu et al. 2019), otherwise the same encoder, counts from behind the id of
        padding.
    """

    vocab_size: int
    max_positions: int
    token_types: int
    width: int
    heads: int
    layers: int
    mlp_width: int
    activation: str
    epsilon: float
    begin: int
    end: int
    first_position: int = 0


class BertBlock(nnx.Module):
    """Self-attention and MLP, each a residual with a norm after."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, rngs=rngs)

        self.config = config
        self.q, self.k, self.v, self.out = (linear(config.width, config.width) for _ in range(4))
        self.attention_norm, self.mlp_norm = _norm(config, rngs), _norm(config, rngs)
        self.up = linear(config.width, config.mlp_width)
        self.down = linear(config.mlp_width, config.width)

    def __call__(self, x: Array, pieces: Array) -> Array:
        """x [B, L, D], the number of the piece that each token belongs to int [B, L], -1 at padding -> [B, L, D]."""
        x = self.attention_norm(x + self._attend(x, pieces))
        return self.mlp_norm(x + self.down(ACTIVATIONS[self.config.activation](self.up(x))))

    def _attend(self, x: Array, pieces: Array) -> Array:
        batch, length, _ = x.shape
        q, k, v = (linear(x).reshape(batch, length, self.config.heads, -1) for linear in (self.q, self.k, self.v))

        def bias(queries: Array) -> Array:
            return jnp.where(pieces[:, queries, None] == pieces[:, None], 0.0, MASKED)[:, None]

        return self.out(biased_attention(q, k, v, bias, q.shape[-1] ** -0.5).reshape(batch, length, -1))


class BertEncoder(nnx.Module):
    """Ids -> the last hidden states."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        def table(size: int) -> nnx.Embed:
            return nnx.Embed(size, config.width, rngs=rngs)

        self.config = config
        self.embedding = table(config.vocab_size)
        self.positions = table(config.max_positions)
        self.types = table(config.token_types)
        self.norm = _norm(config, rngs)
        self.blocks = stack(lambda rngs: BertBlock(config, rngs=rngs), config.layers, rngs)

    def __call__(self, ids: Array, lengths: Array) -> Array:
        """Encodes texts.

        Args:
          ids: int [B, L], the pieces of each text one after another, each with its special tokens.
          lengths: int [B]; what comes after the first lengths[b] ids of text b is padding and changes nothing.

        Returns:
          float32 [B, L, D]; at padding, something finite.
        """
        slots = jnp.arange(ids.shape[1])
        # That the token before it ends a piece tells the first token of a piece from a "[CLS]" within a text.
        after_end = jnp.pad(ids[:, :-1] == self.config.end, ((0, 0), (1, 0)), constant_values=True)
        begins = after_end & (ids == self.config.begin)
        positions = slots - jax.lax.cummax(jnp.where(begins, slots, 0), axis=1) + self.config.first_position
        positions = jnp.minimum(positions, self.config.max_positions - 1)  # only padding would stand further on
        pieces = jnp.where(slots < lengths[:, None], jnp.cumsum(begins, axis=1), -1)
        x = self.embedding(ids) + self.positions(positions) + self.types.embedding[0]
        return scan(self.blocks, lambda block, x: block(x, pieces), self.norm(x))


def _norm(config: BertConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(config.width, epsilon=config.epsilon, use_fast_variance=False, rngs=rngs)
