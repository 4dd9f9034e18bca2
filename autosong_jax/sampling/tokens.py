"""From logits to ids: temperature, top-k, nucleus and greedy choice, one key a song."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Choice:
    """How an id is chosen. Every field is a number that a compiled sampler takes, so changing one compiles nothing.

    Attributes:
      temperature: logits are divided by it; 0 is greedy.
      top_k: only the k most probable ids; 0 for all.
      top_p: only the most probable ids, as long as the probability before each is below p (nucleus sampling, Holtzman
        et al. 2020); 1 for all.
    """

    temperature: float | Array = 1.0
    top_k: int | Array = 0
    top_p: float | Array = 1.0


def keep_likely(logits: Array, top_k: Array, top_p: Array) -> Array:
    """Sets logits [..., V] outside of top-k and the nucleus to -inf; ties at the edge stay in."""
    size = logits.shape[-1]
    ranked = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
    probabilities = jax.nn.softmax(ranked, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = (jnp.arange(size) < jnp.where(top_k > 0, top_k, size)) & (before < top_p)
    kept = kept.at[..., 0].set(True)
    edge = jnp.min(jnp.where(kept, ranked, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= edge, logits, -jnp.inf)


def choose(logits: Array, keys: Array, choice: Choice) -> Array:
    """Draws an id from each distribution.

    Args:
      logits: float32 [B, K, V]; -inf for ids that may not come.
      keys: PRNG keys [B], one a song: what a song gets does not depend on the songs beside it.
      choice: how.

    Returns:
      int32 [B, K].
    """
    scaled = logits / jnp.maximum(choice.temperature, 1e-6)
    filtered = jax.lax.cond((choice.top_k > 0) | (choice.top_p < 1.0),
                            lambda x: keep_likely(x, choice.top_k, choice.top_p), lambda x: x, scaled)
    drawn = jax.vmap(jax.random.categorical)(keys, filtered)
    return jnp.where(choice.temperature > 0, drawn, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
