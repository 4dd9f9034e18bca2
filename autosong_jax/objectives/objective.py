"""From a batch to what a model reads and must predict, and the loss of its prediction.

An objective turns codes into `Examples`; everything after that is the same for all of them (`loss`). The loss of a
codebook is the mean cross-entropy over its valid targets, and the loss is the mean over the codebooks that have any
(MusicGen's rule, and with one codebook at a time MAGNeT's).

Letters: B batch, T frames, S steps, K codebooks, V codebook size.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Examples:
    """What a model reads and what it must predict.

    Attributes:
      inputs: int32 [B, S, K], ids in [0, V].
      targets: int32 [B, S, K], ids in [0, V].
      mask: bool [B, S, K], the targets that count.
    """

    inputs: Array
    targets: Array
    mask: Array

    def normalizer(self) -> Array:
        """float32 [K]: what the summed cross-entropy of each codebook is divided by, over the batch as a whole.

        It is computed before a batch is cut into the parts of gradient accumulation, so the parts add up to the loss
        of the whole whatever the number of valid targets in each.
        """
        counts = self.mask.sum(axis=(0, 1)).astype(jnp.float32)
        return jnp.maximum(counts, 1.0) * jnp.maximum((counts > 0).sum(), 1)


class Objective(Protocol):
    """What a model is trained for.

    Attributes:
      parts: into how many tasks it falls: a training step takes one of them by chance, validation takes all.
    """

    parts: int

    def examples(self, codes: Array, num_frames: Array, part: Array, keys: Array) -> tuple[Examples, Array | None]:
        """The examples of one part.

        Args:
          codes: int32 [B, T, K], V from the end of a song on.
          num_frames: int32 [B], the frames that count; what is in the rest is neither read nor predicted.
          part: int [], in [0, parts).
          keys: PRNG keys [B], one a song.

        Returns:
          The examples, and `local` as `SongModel` takes it.
        """
