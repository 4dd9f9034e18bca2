"""Attention behind one function, which picks the implementation by platform.

Letters: B batch, Q queries, N keys, H heads, Dh width of a head.
"""

import jax
import jax.numpy as jnp
from jax import Array

from autosong_jax.layers.blockwise import blockwise
from autosong_jax.layers.platform import lacks_flash_attention, planned, platform
from autosong_jax.layers.splash import splash

# Past this many scores a head they are made block by block, so that no [Q, N] array exists at song length. By
# measurement on a CPU: blocks of an eighth of the keys, which leaves little to compute that no query sees, but not so
# small that starting a product takes longer than the product, nor so large that blocks fall out of the cache.
FEW_SCORES = 256 * 256
SMALLEST, LARGEST = 128, 512
# With a window, queries are taken in blocks of at least so many; measured best on a CPU for windows of a few steps.
BLOCK = 32


def attention(q: Array, k: Array, v: Array, *, causal: bool = False, window: int | None = None,
              local: Array | None = None, lengths: Array | None = None) -> Array:
    """Scaled dot-product attention.

    Args:
      q: [B, Q, H, Dh].
      k, v: [B, N, H, Dh].
      causal: query i sees keys j <= i only.
      window: query i sees keys |i - j| <= window only; wants Q = N. Time and memory are then linear in N.
      local: bool [], may be traced: whether the window is in force. None: it is.
      lengths: int [B], example b sees its first lengths[b] keys only; None for all. Where that is no key at all (every
        condition dropped) the result is zero. A query whose window holds no such key is padding itself: its result is
        finite and means nothing.

    Returns:
      [B, Q, H, Dh] in v's dtype; scores and softmax are float32.
    """
    if local is not None and window is not None:
        def attend(window):
            return lambda q, k, v: attention(q, k, v, causal=causal, window=window, lengths=lengths)

        return jax.lax.cond(local, attend(window), attend(None), q, k, v)
    kept = lengths
    if lengths is not None:  # no implementation sees a row without keys; such rows are zeroed below
        lengths = jnp.maximum(lengths, 1)
    few = q.shape[1] * k.shape[1] <= FEW_SCORES
    if platform() == "tpu" and not few:
        out = splash(q, k, v, causal=causal, window=window, lengths=lengths)
    elif window is not None:  # JAX has cuDNN's windows only to the left
        out = _banded(q, k, v, causal, window, lengths)
    elif platform() == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16) and not lacks_flash_attention():
        out = _cudnn(q, k, v, causal, lengths)
    elif few:
        out = _attend(q, k, v, causal, lengths)
    else:
        counts = jnp.full(q.shape[0], k.shape[1]) if lengths is None else lengths
        out = blockwise(q, k, v, counts, causal, _block_size(k.shape[1]))
    if kept is not None:
        out = jnp.where((kept > 0)[:, None, None, None], out, 0)
    return out


def _block_size(num_keys: int) -> int:
    """A multiple of `SMALLEST`, up to `LARGEST`."""
    return min(SMALLEST * -(-num_keys // (8 * SMALLEST)), LARGEST)


def _cudnn(q, k, v, causal, lengths) -> Array:
    """Attention by cuDNN. In training JAX gives it even numbers of queries and keys only, so odd ones get one more."""
    queries, keys = q.shape[1], k.shape[1]
    if keys % 2 and lengths is None and not causal:  # of causal queries, only the last one sees the key that is added
        lengths = jnp.full(k.shape[0], keys)

    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
    if planned():  # JAX would ask for cuDNN's version, and there need be none
        return _planned_cudnn(q, k, v)[:, :queries]
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, key_value_seq_lengths=lengths, implementation="cudnn")[:, :queries]


@jax.custom_vjp
def _planned_cudnn(q, k, v) -> Array:
    """What cuDNN reads, writes and keeps for its backward pass, without anything that computes it."""
    return _planned_cudnn_forward(q, k, v)[0]


def _planned_cudnn_forward(q, k, v):
    batch, queries, heads, _ = q.shape
    log_sums = jax.ShapeDtypeStruct((batch, heads, queries), jnp.float32)
    out, log_sums = jax.ffi.ffi_call("planned_cudnn", (jax.ShapeDtypeStruct(q.shape, v.dtype), log_sums))(q, k, v)
    return out, (q, k, v, out, log_sums)


def _planned_cudnn_backward(kept, out_gradient):
    of = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in kept[:3]]
    return tuple(jax.ffi.ffi_call("planned_cudnn_backward", of)(*kept, out_gradient))


_planned_cudnn.defvjp(_planned_cudnn_forward, _planned_cudnn_backward)


def _attend(q, k, v, causal, lengths) -> Array:
    """Attention with all scores in memory."""
    i, j = jnp.arange(q.shape[1])[:, None], jnp.arange(k.shape[1])
    seen = j <= i if causal else jnp.ones((q.shape[1], k.shape[1]), bool)
    if lengths is not None:
        seen = seen & (j < lengths[:, None, None, None])
    return _weighted(q, k, v, seen)


def _weighted(q, k, v, seen) -> Array:
    """Attention of q [..., Q, H, Dh] to k and v [..., N, H, Dh], where `seen` is true of [..., H, Q, N]."""
    scores = jnp.einsum("...qhd,...nhd->...hqn", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    # A finite stand-in for -inf: a row that sees nothing stays finite, backward too.
    weights = jax.nn.softmax(jnp.where(seen, scores, -1e30), axis=-1).astype(v.dtype)
    return jnp.einsum("...hqn,...nhd->...qhd", weights, v)


def _banded(q, k, v, causal, window, lengths) -> Array:
    """Attention within a window, all blocks of queries at once: each sees its own keys and a window on each side."""
    batch, steps = q.shape[:2]
    size = max(2 * window, BLOCK)
    count = -(-steps // size)

    def bands(x):
        """[B, N, H, Dh] -> [B, count, size + 2 window, H, Dh]; the first band starts `window` before key 0."""
        blocks = _blocks(x, window, count + 1, size)
        return jnp.concatenate([blocks[:, :-1], blocks[:, 1:, :2 * window]], axis=2)

    first = size * jnp.arange(count)[:, None, None, None]
    i = first + jnp.arange(size)[:, None]
    j = first + jnp.arange(size + 2 * window) - window
    seen = (jnp.abs(i - j) <= window) & (j >= 0) & (j < steps)
    if causal:
        seen &= j <= i
    if lengths is not None:
        seen = seen & (j < lengths[:, None, None, None, None])
    out = _weighted(_blocks(q, 0, count, size), bands(k), bands(v), seen)
    return out.reshape(batch, -1, *q.shape[2:])[:, :steps]


def _blocks(x: Array, before: int, count: int, size: int) -> Array:
    """x [B, S, H, Dh] after `before` zeros, cut and filled up to [B, count, size, H, Dh]."""
    after = count * size - before - x.shape[1]
    x = jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0)))
    return x.reshape(x.shape[0], count, size, *x.shape[2:])
