"""Embeddings of frames of codes. Letters: B batch, S steps, K codebooks, V ids, D width."""

from jax import Array

from autosong_jax.parallel.sharding import split_by_song, whole


def summed(tables: Array, ids: Array) -> Array:
    """A vector of each codebook's table, summed over the codebooks: [K, V, D] and int [B, S, K] -> [B, S, D]."""
    tables = whole(tables)
    return split_by_song(sum(tables[k][ids[..., k]] for k in range(len(tables))))
