"""Condition sources: what a song is conditioned on, each encoded by itself, together one memory.

What a source is and what reads it is in the folder of its kind. The memory is all sources one after another, the slots
that count first.

Letters: B batch, M memory length, D width of the decoder.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.errors import UserError
from autosong_jax.layers.declaration import declared
from autosong_jax.parallel.sharding import split_by_song

DROPPED = ("absent", "null")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """What the decoder is conditioned on.

    Attributes:
      states: [B, M, D], zero in slots that do not count.
      lengths: int32 [B]: the first lengths[b] slots of example b count; 0 where every source is absent.
      source: int32 [B, M], the source that a slot is of, its place in `SourceEncoders.names`; -1 where none counts.
      position: int32 [B, M], the slot's place within that source; -1 where none counts.
    """

    states: Array
    lengths: Array
    source: Array
    position: Array


class SourceEncoders(nnx.Module):
    """All sources of a model, by name, and the memory that they make together.

    Args:
      sources: the modules. One may have an attribute `null` [D]; for the others that is zero.
      width: D.
      dropped: what a dropped source leaves in the memory: "absent", nothing; "null", `null` in each of its slots.
    """

    def __init__(self, sources: Mapping[str, nnx.Module], width: int, dropped: str, *, rngs: nnx.Rngs):
        if dropped not in DROPPED:
            raise UserError(f"model dropped {dropped!r}: expected one of {', '.join(DROPPED)}")
        self.dropped = dropped
        self.sources = nnx.Dict(sources)
        init = nnx.initializers.normal(width**-0.5)
        # What tells the sources apart, a vector each: another source leaves the parameters of the others as they are.
        self.types = nnx.Dict({name: nnx.Param(init(rngs.params(), (width,)), **declared("vector"))
                               for name in self.names})

    @property
    def names(self) -> list[str]:
        """The sources in the order in which they stand in the memory: the columns of `keep`."""
        return sorted(self.sources)

    def __call__(self, batch: Mapping[str, Mapping[str, Any]], keep: Array, key: Array | None = None) -> Memory:
        """Encodes every source and puts the slots that count first.

        Args:
          batch: for each source what its module takes; "length" is 0 where an example has none of it.
          keep: bool [B, number of sources], in the order of `names`: False drops the source for that example.
          key: PRNG key of dropout; None for none.
        """
        states, masks, places = [], [], []
        for i, name in enumerate(self.names):
            source, module, kept = batch[name], self.sources[name], keep[:, i, None]
            encoded = module(source, None if key is None else jax.random.fold_in(key, i))
            encoded = encoded + self.types[name][...].astype(encoded.dtype)
            counts = jnp.arange(encoded.shape[1]) < source["length"][:, None]
            if self.dropped == "null":
                encoded = jnp.where(kept[..., None], encoded, getattr(module, "null", 0))
            else:
                counts &= kept
            states.append(encoded)
            masks.append(counts)
            places += [(i, position) for position in range(encoded.shape[1])]
        states, mask = jnp.concatenate(states, axis=1), jnp.concatenate(masks, axis=1)
        # Slots that count go first, in their order: attention is then told lengths instead of a mask, which the fast
        # implementations want, and padding inside the memory cannot change a result.
        order = jnp.argsort(~mask, axis=1, stable=True)
        states = jnp.where(mask[..., None], states, 0)
        lengths = mask.sum(axis=1, dtype=jnp.int32)
        counts = jnp.arange(mask.shape[1]) < lengths[:, None]
        source, position = (jnp.where(counts, column[order], -1) for column in jnp.array(places, jnp.int32).T)
        return Memory(split_by_song(take_slots(states, order)), lengths, source, position)


def take_slots(x: Array, slots: Array) -> Array:
    """x [B, N, D] at slots [B, M] -> [B, M, D], by rows: `take_along_axis` would scatter single numbers back."""
    return jax.vmap(lambda rows, at: rows[at])(x, slots)


def null_memory(batch: int, width: int, dtype: str) -> Memory:
    """The memory of a model without sources: one slot that does not count."""
    nothing = jnp.full((batch, 1), -1, jnp.int32)
    return Memory(jnp.zeros((batch, 1, width), dtype), jnp.zeros(batch, jnp.int32), nothing, nothing)
