"""What the objectives over codes have in common: examples with a mask, their cross-entropy, and what is said of it.

The loss of a codebook is the mean cross-entropy over its valid targets, and the loss is the mean over the codebooks
that have any (MusicGen's rule, and with one codebook at a time MAGNeT's).

Letters: B batch, T frames, S steps, K codebooks, V codebook size.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autosong_jax.models.song import SongModel
from autosong_jax.objectives.loss import codebook_sums
from autosong_jax.objectives.objective import Batch, Sums, alone
from autosong_jax.sources.memory import Memory


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Examples:
    """What a model reads and what it must predict.

    Attributes:
      inputs: int32 [B, S, K], ids in [0, V].
      targets: int32 [B, S, K], ids in [0, V].
      mask: bool [B, S, K], the targets that count.
      drawn: float32 [B, S, K], where the model is to read a code that it draws itself: the share of its distribution
        that lies before that code, in [0, 1), codes in their order; -1 where it reads `inputs`. None for everywhere.
    """

    inputs: Array
    targets: Array
    mask: Array
    drawn: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shared:
    """What holds for all examples of a batch.

    Attributes:
      normalizer: float32 [K], what the summed cross-entropy of each codebook is divided by. It is of the batch as a
        whole, so the parts of gradient accumulation add up to its loss whatever the number of valid targets in each.
      local: as `SongModel` takes it.
    """

    normalizer: Array
    local: Array | None


def with_end(batch: Batch, special: int) -> tuple[Array, Array]:
    """Codes int32 [B, T, K] in which the frame after a song's last, if it is in the window, and all after it are the
    special id; and int32 [B], how many frames count, that one among them.
    """
    frames = batch["frames"].astype(jnp.int32)
    inside = jnp.arange(frames.shape[1]) < batch["num_frames"][:, None]
    return jnp.where(inside[..., None], frames, special), batch["num_frames"] + batch["song_ends"]


def normalizer(mask: Array) -> Array:
    """`Shared.normalizer` of a batch whose targets count where `mask` bool [B, S, K] says so."""
    counts = mask.sum(axis=(0, 1)).astype(jnp.float32)
    return jnp.maximum(counts, 1.0) * jnp.maximum((counts > 0).sum(), 1)


class CodeObjective:
    """The loss and the report of objectives that predict codes; see `objective.Objective`."""

    headline = ("loss", "accuracy")
    judging, choices = alone, None

    def loss(self, model: SongModel, examples: Examples, shared: Shared, memory: Memory, key: Array | None
             ) -> tuple[Array, Sums]:
        """The sums are "cross_entropy", "correct" and "count", float32 [K] each; see `loss.codebook_sums`."""
        x = model.hidden(examples.inputs, memory, key, local=shared.local)
        return codebook_sums(x, model.frames.heads[...], examples.targets, examples.mask, shared.normalizer)

    def summarize(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Loss, accuracy and perplexity, whole and for each codebook.

        The loss is the mean over the codebooks of the mean cross-entropy; a perplexity is the exponential of such a
        mean.
        """
        used = np.asarray(sums["count"]) > 0
        count = np.maximum(sums["count"], 1)
        cross_entropy, accuracy = sums["cross_entropy"] / count, sums["correct"] / count
        loss = cross_entropy[used].mean()
        result = {"loss": loss, "accuracy": accuracy[used].mean(), "perplexity": np.exp(loss),
                  "targets": np.sum(sums["count"])}
        for k in range(len(count)):
            result |= {f"loss_{k}": cross_entropy[k], f"accuracy_{k}": accuracy[k],
                       f"perplexity_{k}": np.exp(cross_entropy[k])}
        return {name: float(value) for name, value in result.items()}
