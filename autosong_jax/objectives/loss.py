"""The cross-entropy of the codebooks, from the decoder's states and the heads, one codebook after another.

The logits of one codebook are in memory at a time, and they are made once: the gradient by states and heads is taken
while they are there (as in Hsu et al. 2024, "Liger Kernel"), so nothing of them is kept for the backward pass.

Letters: B batch, S steps, K codebooks, V codebook size, D width.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Sums = dict[str, Array]


def codebook_sums(x: Array, heads: Array, targets: Array, mask: Array, normalizer: Array) -> tuple[Array, Sums]:
    """The loss, and sums over the targets that count.

    Args:
      x: [B, S, D], the decoder's states, in the dtype of the computation.
      heads: [K, D, V] or [K, D, V + 1].
      targets: int32 [B, S, K].
      mask: bool [B, S, K], the targets that count. Others may be the special id, for which there may be no logit.
      normalizer: float32 [K], what the summed cross-entropy of each codebook is divided by; see `Examples.normalizer`.

    Returns:
      The loss, float32 [], the only result that has a gradient; {"cross_entropy", "correct", "count"}, each float32
      [K]. A prediction is correct if no id is more probable than the target.
    """
    return _codebook_sums(x, heads, targets, mask, normalizer)


@jax.custom_vjp
def _codebook_sums(x, heads, targets, mask, normalizer) -> tuple[Array, Sums]:
    def one(codebook):
        head, target, counts = codebook
        return _of_codebook(_logits(x, head), target, counts)[0]

    sums = jax.lax.map(one, (heads, *_by_codebook(targets, mask)))
    return (sums["cross_entropy"] / normalizer).sum(), sums


def _with_gradients(x, heads, targets, mask, normalizer) -> tuple[tuple[Array, Sums], Any]:
    def one(x_gradient, codebook):
        head, target, counts, divisor = codebook
        sums, probabilities, is_target = _of_codebook(_logits(x, head), target, counts)
        gradient = jnp.where(is_target, probabilities - 1, probabilities) * (counts / divisor)[..., None]
        gradient = gradient.astype(x.dtype)  # that of the logits [B, S, V]
        x_gradient += jnp.einsum("bsv,dv->bsd", gradient, head.astype(x.dtype), preferred_element_type=jnp.float32)
        head_gradient = jnp.einsum("nd,nv->dv", _rows(x), _rows(gradient), preferred_element_type=jnp.float32)
        return x_gradient, (sums, head_gradient.astype(head.dtype))

    x_gradient, (sums, heads_gradient) = jax.lax.scan(
        one, jnp.zeros(x.shape, jnp.float32), (heads, *_by_codebook(targets, mask), normalizer))
    loss = (sums["cross_entropy"] / normalizer).sum()
    return (loss, sums), (x_gradient.astype(x.dtype), heads_gradient)


def _scaled(gradients, cotangents):
    """The gradients by x and heads, of which `_with_gradients` has done all but this."""
    scale = cotangents[0]
    return *(scale.astype(gradient.dtype) * gradient for gradient in gradients), None, None, None


_codebook_sums.defvjp(_with_gradients, _scaled)


def _by_codebook(targets: Array, mask: Array) -> tuple[Array, Array]:
    """[B, S, K] -> [K, B, S]."""
    return jnp.moveaxis(targets, -1, 0), jnp.moveaxis(mask, -1, 0)


def _rows(x: Array) -> Array:
    """[B, S, N] -> [B S, N]: a product over one axis; see `lora.Linear`."""
    return x.reshape(-1, x.shape[-1])


def _logits(x: Array, head: Array) -> Array:
    """float32 [B, S, V]."""
    return jnp.einsum("bsd,dv->bsv", x, head.astype(x.dtype), preferred_element_type=jnp.float32)


def _of_codebook(logits: Array, target: Array, counts: Array) -> tuple[Sums, Array, Array]:
    """The sums of one codebook, its probabilities [B, S, V] and where in them the targets are."""
    is_target = jnp.arange(logits.shape[-1]) == target[..., None]
    highest = logits.max(axis=-1)
    exponentials = jnp.exp(logits - highest[..., None])
    total = exponentials.sum(axis=-1)
    of_target = jnp.where(is_target, logits, 0).sum(axis=-1)
    every = {"cross_entropy": jnp.log(total) + highest - of_target, "correct": of_target == highest, "count": counts}
    sums = {name: jnp.where(counts, x, 0).sum(dtype=jnp.float32) for name, x in every.items()}
    return sums, exponentials / total[..., None], is_target
