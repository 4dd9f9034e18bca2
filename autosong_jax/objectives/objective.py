"""What a model is trained for: the seam between the trainer and everything that it does not know.

The trainer draws a stage and keys, lets the objective make examples of a batch for the step that it is at, cuts those
into the parts of gradient accumulation, encodes the conditions, and asks the objective for the loss of each part.
Cross-entropy, codebooks and what a number in the log is called are the objective's own business.

Letters: B batch, T frames.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jax import Array

from autosong_jax.models.song import SongModel
from autosong_jax.sources.memory import Memory

Batch = Mapping[str, Any]
Sums = dict[str, Array]


class Objective(Protocol):
    """What a model is trained for.

    Attributes:
      stages: into how many tasks it falls: a training step takes one of them by chance, validation takes all.
      causal: whether a model reads steps of a pattern, of which each sees those before it, or frames that see all.
      sampler: the name of what samples a model that is trained for it, in `sampling.samplers`; None where nothing does.
      passes: how often a step of training goes through the decoder forward; once, where nothing of the model's own is
        asked for first.
      headline: the names in `summarize` that a run reports at a glance, the loss first.
      choices: (model, examples, memory) -> the frames [B, T, ...] that the model holds for the most probable, each
        after what the examples have before it; None for an objective that has no such thing.
    """

    stages: int
    causal: bool
    sampler: str | None
    passes: int
    headline: tuple[str, ...]
    choices: Callable[[SongModel, Any, Memory], Array] | None

    def examples(self, batch: Batch, stage: Array, keys: Array, step: Array | None) -> tuple[Any, Any]:
        """What a model reads and must predict in one stage.

        Args:
          batch: `frames` [B, T, ...], `num_frames` int32 [B] and `song_ends` bool [B] as `data.dataset` has them.
          stage: int [], in [0, stages).
          keys: PRNG keys [B], one a song.
          step: int32 [], the steps of training done before; None in validation, for which it does not matter when.

        Returns:
          The examples: arrays with the batch in front, which accumulation may cut; and what holds for all of them,
          made of the batch as a whole, so that the losses of its cuts add up to the loss of the whole.
        """

    def loss(self, model: SongModel, examples: Any, shared: Any, memory: Memory, key: Array | None
             ) -> tuple[Array, Sums]:
        """The loss of some examples of a batch.

        Args:
          model: the model.
          examples, shared: from `examples`; of the former maybe a part of the batch.
          memory: of the same songs.
          key: PRNG key of dropout; None for none.

        Returns:
          float32 [], of which the sum over the parts of a batch is its loss and has a gradient; and sums, which mean
          something when they are added up over any number of parts and batches.
        """

    def summarize(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Numbers to report, from added sums: "loss", "targets" (how many predictions they are of), and its own."""

    def judging(self) -> "dict[str, Objective]":
        """The objectives by whose losses trained models are compared, by what tells them apart; `alone` by default."""


def alone(objective: Objective) -> dict[str, Objective]:
    """`Objective.judging` of one that judges as it trains."""
    return {"": objective}
