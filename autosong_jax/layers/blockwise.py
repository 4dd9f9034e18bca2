"""Exact attention block by block: memory linear in length, forward and backward, and nothing done for unseen blocks.

FlashAttention (Dao et al. 2022, Dao 2023) in plain JAX, for platforms without a kernel of their own. The forward pass
keeps the logarithm of each query's softmax sum; the backward pass makes the weights of each block again from it.

Letters: B batch, H heads, Q queries, N keys, Dh width of a head; I blocks of C queries, J blocks of C keys.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

HIDDEN = -1e30  # a finite stand-in for -inf: a row that sees nothing in a block stays finite


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def blockwise(q: Array, k: Array, v: Array, lengths: Array, causal: bool, block: int) -> Array:
    """Scaled dot-product attention of q [B, Q, H, Dh] to k and v [B, N, H, Dh].

    Args:
      lengths: int [B], at least 1: how many keys of each example count.
      causal: query i sees keys j <= i only.
      block: C.

    Returns:
      [B, Q, H, Dh] in v's dtype; scores and softmax are float32.
    """
    return _forward(q, k, v, lengths, causal, block)[0]


def _forward(q, k, v, lengths, causal, block):
    blocks = _Blocks(q.shape[1], k.shape[1], lengths, causal, block)
    q_blocks, k_blocks, v_blocks = map(blocks.cut, (_scaled(q), k, v))

    def of_queries(block_and_index):
        q_block, i = block_and_index

        def add(j, so_far):
            highest, total, out = so_far
            scores = jnp.einsum("bhqd,bhnd->bhqn", q_block, k_blocks[j], preferred_element_type=jnp.float32)
            scores = jnp.where(blocks.seen(i, j), scores, HIDDEN)
            higher = jnp.maximum(highest, scores.max(axis=-1))
            weights = jnp.exp(scores - higher[..., None])
            shrink = jnp.exp(highest - higher)
            added = jnp.einsum("bhqn,bhnd->bhqd", weights.astype(v.dtype), v_blocks[j],
                               preferred_element_type=jnp.float32)
            return higher, shrink * total + weights.sum(axis=-1), shrink[..., None] * out + added

        rows = q_block.shape[:-1]
        start = jnp.full(rows, HIDDEN), jnp.zeros(rows), jnp.zeros(q_block.shape)
        highest, total, out = jax.lax.fori_loop(0, blocks.last_key_block(i), add, start)
        return (out / total[..., None]).astype(v.dtype), highest + jnp.log(total)

    out, log_sums = jax.lax.map(of_queries, (q_blocks, jnp.arange(len(q_blocks))))
    out = blocks.join(out, q.shape[1])
    return out, (q, k, v, lengths, out, log_sums)


def _backward(causal, block, kept, out_gradient):
    q, k, v, lengths, out, log_sums = kept
    blocks = _Blocks(q.shape[1], k.shape[1], lengths, causal, block)
    q_blocks, k_blocks, v_blocks, gradients = map(blocks.cut, (_scaled(q), k, v, out_gradient))
    # What a weight's gradient is measured against: its row's mean (Dao 2023, algorithm 2, line 4).
    means = jnp.einsum("bqhd,bqhd->bhq", out, out_gradient, preferred_element_type=jnp.float32)[..., None]
    means = blocks.cut(means.swapaxes(1, 2))[..., 0]

    def of_keys(q_gradients, block_and_index):
        k_block, v_block, j = block_and_index

        def add(i, so_far):
            q_gradients, k_gradient, v_gradient = so_far
            # Keys before queries: two of the three products below then read their factors row by row.
            scores = jnp.einsum("bhnd,bhqd->bhnq", k_block, q_blocks[i], preferred_element_type=jnp.float32)
            seen = blocks.seen(i, j).swapaxes(-2, -1)
            weights = jnp.where(seen, jnp.exp(scores - log_sums[i][:, :, None]), 0)
            by_weights = jnp.einsum("bhnd,bhqd->bhnq", v_block, gradients[i], preferred_element_type=jnp.float32)
            by_scores = (weights * (by_weights - means[i][:, :, None])).astype(q.dtype)
            v_gradient += jnp.einsum("bhnq,bhqd->bhnd", weights.astype(v.dtype), gradients[i],
                                     preferred_element_type=jnp.float32)
            k_gradient += jnp.einsum("bhnq,bhqd->bhnd", by_scores, q_blocks[i], preferred_element_type=jnp.float32)
            added = jnp.einsum("bhnq,bhnd->bhqd", by_scores, k_block, preferred_element_type=jnp.float32)
            return q_gradients.at[i].add(added), k_gradient, v_gradient

        zeros = jnp.zeros(k_block.shape)
        q_gradients, *of_block = jax.lax.fori_loop(
            blocks.first_query_block(j), blocks.num_queries, add, (q_gradients, zeros, zeros))
        return q_gradients, tuple(of_block)

    q_gradient, (k_gradient, v_gradient) = jax.lax.scan(
        of_keys, jnp.zeros(q_blocks.shape), (k_blocks, v_blocks, jnp.arange(len(k_blocks))))
    return (_scaled(blocks.join(q_gradient, q.shape[1])).astype(q.dtype),
            blocks.join(k_gradient, k.shape[1]).astype(k.dtype), blocks.join(v_gradient, k.shape[1]).astype(v.dtype),
            None)


blockwise.defvjp(_forward, _backward)


def _scaled(q: Array) -> Array:
    return q * q.shape[-1] ** -0.5


class _Blocks:
    """How queries and keys are cut into blocks, and which see which."""

    def __init__(self, num_queries: int, num_keys: int, lengths: Array, causal: bool, block: int):
        self.size, self.causal, self.lengths = block, causal, lengths
        self.num_queries = -(-num_queries // block)
        self._used = -(-jnp.minimum(jnp.max(lengths), num_keys) // block)  # blocks in which any key counts

    def cut(self, x: Array) -> Array:
        """[B, N, H, Dh] -> [J, B, H, C, Dh], zeros at the end."""
        count = -(-x.shape[1] // self.size)
        x = jnp.pad(x, ((0, 0), (0, count * self.size - x.shape[1]), (0, 0), (0, 0)))
        return x.reshape(x.shape[0], count, self.size, *x.shape[2:]).transpose(1, 0, 3, 2, 4)

    def join(self, x: Array, length: int) -> Array:
        """[J, B, H, C, Dh] -> [B, length, H, Dh]."""
        x = x.transpose(1, 0, 3, 2, 4)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]

    def seen(self, i: Array, j: Array) -> Array:
        """bool [B, 1, C or 1, C]: whether a query of block i sees a key of block j."""
        at = j * self.size + jnp.arange(self.size)
        seen = (at < self.lengths[:, None])[:, None, None]
        if self.causal:
            seen &= at <= i * self.size + jnp.arange(self.size)[:, None]
        return seen

    def last_key_block(self, i: Array) -> Array:
        """The number of key blocks that queries of block i see any of."""
        return jnp.minimum(self._used, i + 1) if self.causal else self._used

    def first_query_block(self, j: Array) -> Array:
        """The first query block that sees any of key block j; one that there is not, if no key in it counts."""
        return jnp.where(j < self._used, j if self.causal else 0, self.num_queries)
