"""From logits to ids: temperature, top-k, nucleus and greedy choice, one key a song."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

FEW = 64  # distributions that an accelerator sorts for top-k and nucleus; more are bisected


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
    wanted = (top_k > 0) | (top_p < 1)
    top_k = jnp.where(top_k > 0, top_k, size)
    top_p = jnp.where(top_p < 1, top_p, jnp.inf)  # the rounded sum of nearly all probabilities may be 1 already

    def kept(edge: Array) -> Array:
        return jnp.where(logits >= edge, logits, -jnp.inf)

    # A bisection is 32 rounds, which an accelerator must start one by one, so there the few distributions of a step are
    # sorted, whether anything is left out or not: a branch takes as long. To sort those of all frames at once would
    # take longer than the forward pass that made them. A CPU takes ten times as long to sort.
    if logits.size // size < FEW and jax.default_backend() != "cpu":
        return kept(_sorted_edge(logits, top_k, top_p))
    return jax.lax.cond(wanted, lambda: kept(_bisected_edge(logits, top_k, top_p)), lambda: logits)


def _sorted_edge(logits: Array, top_k: Array, top_p: Array) -> Array:
    """[..., 1], the smallest logit that is kept."""
    ranked = -jnp.sort(-logits, axis=-1)
    probabilities = jax.nn.softmax(ranked, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = (jnp.arange(logits.shape[-1]) < top_k) & (before < top_p)
    kept = kept.at[..., 0].set(True)
    return jnp.min(jnp.where(kept, ranked, jnp.inf), axis=-1, keepdims=True)


def _bisected_edge(logits: Array, top_k: Array, top_p: Array) -> Array:
    """As `_sorted_edge`, without a sort: the smallest number above which there are few and improbable enough logits.

    It is found exactly, over the 32 bits of a float.
    """
    logits = logits.astype(jnp.float32)
    probabilities = jax.nn.softmax(logits, axis=-1)

    def halve(_, bounds):
        below, kept = bounds
        middle = (below & kept) + ((below ^ kept) >> 1)  # their mean, rounded down, which cannot overflow
        before = logits > _float(middle)
        mass = jnp.where(before, probabilities, 0).sum(axis=-1, keepdims=True)
        keep = (before.sum(axis=-1, keepdims=True) < top_k) & (mass < top_p)
        return jnp.where(keep, below, middle), jnp.where(keep, middle, kept)

    highest = _integer(logits.max(axis=-1, keepdims=True))
    bounds = jnp.full_like(highest, _integer(jnp.float32(-jnp.inf))), highest
    return _float(jax.lax.fori_loop(0, 32, halve, bounds)[1])


def _integer(x: Array) -> Array:
    """float32 -> int32 in the same order."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _float(x: Array) -> Array:
    """The inverse of `_integer`."""
    return jax.lax.bitcast_convert_type(x ^ ((x >> 31) & 0x7FFFFFFF), jnp.float32)


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
    filtered = keep_likely(scaled, choice.top_k, choice.top_p)
    drawn = jax.vmap(jax.random.categorical)(keys, filtered)
    return jnp.where(choice.temperature > 0, drawn, jnp.argmax(logits, axis=-1)).astype(jnp.int32)


def log_probability(logits: Array, ids: Array) -> Array:
    """That of ids [...] by logits [..., V]; of an id that has no logit it means nothing."""
    known = jnp.minimum(ids, logits.shape[-1] - 1)[..., None]
    return jnp.take_along_axis(jax.nn.log_softmax(logits), known, axis=-1)[..., 0]
