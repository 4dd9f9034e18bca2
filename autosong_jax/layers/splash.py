"""Attention on TPUs by JAX's splash kernel: fused, exact, memory linear in length, nothing done for unseen blocks.

Letters: B batch, Q queries, N keys, H heads, Dh width of a head.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec

from autosong_jax.parallel.sharding import BATCH

LANES = 128  # what the kernel counts keys and queries in
# Blocks of at most so many queries and keys; the larger ones of a memory, all blocks of which are seen, and of songs of
# more than LONG steps. The kernel's own 128 is a placeholder; nothing of this has been timed.
BLOCK, LARGE_BLOCK, LONG = 512, 1024, 4096
# The fused backward kernel writes the gradient of the queries once for each block of keys and adds these up. Up to so
# many blocks; past it a kernel of its own makes it, so that memory stays linear in length.
MOST_COPIES = 4


def splash(q: Array, k: Array, v: Array, *, causal: bool = False, window: int | None = None,
           lengths: Array | None = None) -> Array:
    """Scaled dot-product attention, for a TPU.

    In a program for a mesh (`jax.sharding.use_abstract_mesh`) each device attends for its own songs and heads: the
    partitioner cannot cut a kernel and would give every device all of them.

    Args:
      q: [B, Q, H, Dh].
      k, v: [B, N, H, Dh].
      causal: query i sees keys j <= i only.
      window: query i sees keys |i - j| <= window only; wants Q = N.
      lengths: int [B], at least 1: how many keys of each example count; None for all.

    Returns:
      [B, Q, H, Dh] in q's dtype; scores and softmax are float32. The result of a query that sees no key is finite and
      means nothing.
    """
    def attend(q, k, v, *lengths):
        return _attend(q, k, v, causal, window, *lengths)

    arguments = (q, k, v) if lengths is None else (q, k, v, lengths)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return attend(*arguments)
    songs = BATCH[0] if q.shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0 else None
    heads = "tensor" if q.shape[2] % mesh.shape["tensor"] == 0 else None
    spec = PartitionSpec(songs, None, heads)
    # The kernel does not say along which axes its results vary, so that cannot be checked.
    return jax.shard_map(attend, mesh=mesh, in_specs=(spec, spec, spec, PartitionSpec(songs))[:len(arguments)],
                         out_specs=spec, check_vma=False)(*arguments)


def _attend(q, k, v, causal, window, lengths=None) -> Array:
    """`splash` on one device."""
    batch, queries, heads, width = q.shape
    keys = k.shape[1]
    q_block, kv_block = _block(queries, BLOCK), _block(keys, BLOCK if causal or window is not None else LARGE_BLOCK)
    q_length, kv_length = (-(-n // block) * block for n, block in ((queries, q_block), (keys, kv_block)))
    kernel = _kernel(heads, (q_length, kv_length), _block_sizes(q_block, kv_block, kv_length, window), causal, window)

    def padded(x, length):
        """[B, N, H, Dh] -> [B, H, length, Dh], zeros at the end."""
        return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, length - x.shape[1]), (0, 0)))

    # In the dtype of q: XLA would make and lay out a float32 copy of it first.
    q, k, v = padded(q * width ** -0.5, q_length), padded(k, kv_length), padded(v, kv_length)
    # Causal queries do not see what is added after them, unless lengths differ.
    if lengths is None and (kv_length == keys or (causal and queries <= keys)):
        out = jax.vmap(kernel)(q, k, v)
    else:
        lengths = jnp.full(batch, keys) if lengths is None else jnp.minimum(lengths, keys)
        # A query sees keys of its own segment: 0, which keys are in that count.
        segments = kernels.SegmentIds(q=jnp.zeros(q_length, jnp.int32),
                                      kv=(jnp.arange(kv_length) >= lengths[:, None]).astype(jnp.int32))
        out = jax.vmap(kernel, in_axes=(0, 0, 0, kernels.SegmentIds(None, 0)))(q, k, v, segments)
    return out[:, :, :queries].swapaxes(1, 2)


def _block(length: int, most: int) -> int:
    """The size of blocks: a multiple of `LANES`, equal parts of the length or little more."""
    count = -(-length // (LARGE_BLOCK if length > LONG else most))
    return -(-length // (count * LANES)) * LANES


def _block_sizes(q_block: int, kv_block: int, kv_length: int, window: int | None) -> kernels.BlockSizes:
    fused = window is None and kv_length // kv_block <= MOST_COPIES  # fused, it goes over blocks outside a window, too
    of_q, of_kv = (None, None) if fused else (q_block, kv_block)
    at_once = BLOCK if kv_block % BLOCK == 0 else kv_block
    return kernels.BlockSizes(
        block_q=q_block, block_kv=kv_block, block_kv_compute=at_once, block_q_dkv=q_block, block_kv_dkv=kv_block,
        block_kv_dkv_compute=at_once, block_q_dq=of_q, block_kv_dq=of_kv, use_fused_bwd_kernel=fused)


@functools.lru_cache(maxsize=64)  # a mask of 18,000 steps takes a second
def _kernel(heads: int, shape: tuple[int, int], sizes: kernels.BlockSizes, causal: bool, window: int | None
            ) -> kernels.SplashAttentionKernel:
    """q [H, Q, Dh], scaled, and k and v [H, N, Dh] -> [H, Q, Dh]; `shape` is Q, N."""
    if window is not None:
        mask = masks.LocalMask(shape, (window, 0 if causal else window), 0)
    else:
        mask = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    with jax.ensure_compile_time_eval():  # arrays, not part of the program that happens to be traced first
        return kernels.make_splash_mha(masks.MultiHeadMask([mask] * heads), block_sizes=sizes, head_shards=1,
                                       q_seq_shards=1)
