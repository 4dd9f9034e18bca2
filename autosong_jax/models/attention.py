"""Attention behind one function, which picks the implementation by platform.

Letters: B batch, Q queries, N keys, H heads, Dh width of a head.
"""

import jax
import jax.numpy as jnp
from jax import Array

# Queries are taken in chunks past this many scores a head, so that no [Q, N] array exists at song length.
MAX_SCORES = 2048 * 2048
CHUNK = 512


def attention(q: Array, k: Array, v: Array, *, causal: bool = False, window: int | None = None,
              lengths: Array | None = None) -> Array:
    """Scaled dot-product attention.

    Args:
      q: [B, Q, H, Dh].
      k, v: [B, N, H, Dh].
      causal: query i sees keys j <= i only.
      window: query i sees keys |i - j| <= window only.
      lengths: int [B], example b sees its first lengths[b] keys only; None for all. Where that is no key at all (every
        condition dropped) the result is zero.

    Returns:
      [B, Q, H, Dh] in v's dtype; scores and softmax are float32.
    """
    kept = lengths
    if lengths is not None:  # no implementation sees a row without keys; such rows are zeroed below
        lengths = jnp.maximum(lengths, 1)
    if jax.default_backend() == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16):
        out = jax.nn.dot_product_attention(
            q, k, v, is_causal=causal, local_window_size=window, key_value_seq_lengths=lengths, implementation="cudnn")
    elif q.shape[1] * k.shape[1] <= MAX_SCORES:
        out = _attend(q, k, v, 0, 0, causal, window, lengths)
    else:
        out = _chunked(q, k, v, causal, window, lengths)
    if kept is not None:
        out = jnp.where((kept > 0)[:, None, None, None], out, 0)
    return out


def _attend(q, k, v, first_query, first_key, causal, window, lengths) -> Array:
    """Attention of the queries from `first_query` on to the keys from `first_key` on, with all scores in memory."""
    scores = jnp.einsum("bqhd,bnhd->bhqn", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    i = first_query + jnp.arange(q.shape[1])[:, None]
    j = first_key + jnp.arange(k.shape[1])[None]
    seen = jnp.ones((1, 1, q.shape[1], k.shape[1]), bool)
    if causal:
        seen &= j <= i
    if window is not None:
        seen &= jnp.abs(i - j) <= window
    if lengths is not None:
        seen &= (j < lengths[:, None, None])[:, None]
    # A finite stand-in for -inf: a row that sees nothing stays finite, backward too, and is zeroed by the caller.
    scores = jnp.where(seen, scores, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqn,bnhd->bqhd", weights, v)


def _chunked(q, k, v, causal, window, lengths) -> Array:
    """`_attend` over chunks of queries, recomputed in the backward pass: memory linear in Q, and in N with a window."""
    batch, queries, heads, head_width = q.shape
    keys = k.shape[1]
    padded = jnp.pad(q, ((0, 0), (0, -queries % CHUNK), (0, 0), (0, 0)))
    chunks = padded.reshape(batch, -1, CHUNK, heads, head_width).swapaxes(0, 1)
    span = keys if window is None else min(keys, CHUNK + 2 * window)

    @jax.checkpoint
    def one(chunk):
        index, q_chunk = chunk
        first_query = index * CHUNK
        first_key = 0 if span == keys else jnp.clip(first_query - window, 0, keys - span)
        k_span = jax.lax.dynamic_slice_in_dim(k, first_key, span, axis=1)
        v_span = jax.lax.dynamic_slice_in_dim(v, first_key, span, axis=1)
        return _attend(q_chunk, k_span, v_span, first_query, first_key, causal, window, lengths)

    out = jax.lax.map(one, (jnp.arange(chunks.shape[0]), chunks))
    return out.swapaxes(0, 1).reshape(batch, -1, heads, head_width)[:, :queries]
