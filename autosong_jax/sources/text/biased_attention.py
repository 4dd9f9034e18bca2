"""What the frozen text encoders share: activations by their released names, and attention with a bias on its scores.

Letters: B batch, L tokens, H heads, Dh width of a head.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.layers.transformer import ACTIVATIONS as OWN_ACTIVATIONS

ACTIVATIONS = OWN_ACTIVATIONS | {"gelu_new": jax.nn.gelu, "silu": jax.nn.silu}
MASKED = -1e30  # a bias that no score survives; finite, so that a row with nothing to see stays finite too
CHUNK = 512  # queries whose scores are in memory at once


def biased_attention(q: Array, k: Array, v: Array, bias: Callable[[Array], Array], scale: float) -> Array:
    """Attention of a text to itself; scores and softmax are float32.

    Args:
      q, k, v: [B, L, H, Dh].
      bias: int [Q], numbers of queries -> float32, which broadcasts to [B, H, Q, L]: what is added to their scores. It
        is asked for some queries at a time, so no array of size L x L has to exist.
      scale: of the scores, before the bias.

    Returns:
      [B, L, H, Dh] in v's dtype.
    """
    length = q.shape[1]

    def attend(queries: Array) -> Array:
        scores = jnp.einsum("bqhd,bnhd->bhqn", q[:, queries], k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores * scale + bias(queries), axis=-1).astype(v.dtype)
        return jnp.einsum("bhqn,bnhd->bqhd", weights, v)

    if length <= CHUNK:
        return attend(jnp.arange(length))
    count = -(-length // CHUNK)
    queries = jnp.minimum(jnp.arange(count * CHUNK), length - 1).reshape(count, CHUNK)
    out = jax.lax.map(attend, queries)
    return out.swapaxes(0, 1).reshape(q.shape[0], count * CHUNK, *v.shape[2:])[:, :length]


def stack(create: Callable[[nnx.Rngs], nnx.Module], layers: int, rngs: nnx.Rngs) -> nnx.Module:
    """`layers` equal blocks as one, whose every parameter has a leading axis of layers."""
    return nnx.vmap(create, in_axes=0, out_axes=0)(rngs.split(layers))


def scan(blocks: nnx.Module, apply: Callable[[nnx.Module, Array], Array], x: Array) -> Array:
    """x through all blocks of a `stack`, one after another."""
    graph, parameters = nnx.split(blocks)
    return jax.lax.scan(lambda x, layer: (apply(nnx.merge(graph, layer), x), None), x, parameters)[0]
