"""What the objectives of the autoencoder and the vocoder have in common: means over the songs that a batch holds, and
the game against the model's discriminator.

Letters: B batch, T frames.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autosong_jax.models.discriminators import game
from autosong_jax.objectives.objective import Batch, Sums, alone


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Examples:
    """What a model is to give back.

    Attributes:
      frames: [B, T, width], as the codec of the songs stores them.
      num_frames: int32 [B], how many of them a song has.
    """

    frames: Array
    num_frames: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shared:
    """What holds for all examples of a batch.

    Attributes:
      total: float32 [], the frames that all its songs have: a song counts by its share of them.
      plays: bool [], whether the model plays against its discriminator; None in validation, where it does not.
    """

    total: Array
    plays: Array | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversarial:
    """The base of objectives whose model may have a discriminator; see `objective.Objective`.

    The loss that is reported is that of the model without the game, in training as in validation: of the two sides of a
    game no sum says anything.

    Attributes:
      generator_weight, feature_weight: of `Game.generator` and `Game.features` in the loss.
      adversarial_start: the step of training from which on there is a game. Before it the discriminator learns nothing.
    """

    generator_weight: float = 0.0
    feature_weight: float = 0.0
    adversarial_start: int = 0
    stages = 1
    causal = False
    sampler = None
    passes = 1
    judging, choices = alone, None

    def examples(self, batch: Batch, stage: Array, keys: Array, step: Array | None) -> tuple[Examples, Shared]:
        """See `objective.Objective`."""
        del stage, keys
        num_frames = batch["num_frames"]
        total = jnp.maximum(num_frames.sum(), 1).astype(jnp.float32)
        plays = None if step is None else step >= self.adversarial_start
        return Examples(batch["frames"], num_frames), Shared(total, plays)

    def summed(self, model: Any, own: Array, terms: Mapping[str, Array], real: Array, made: Array, examples: Examples,
               shared: Shared) -> tuple[Array, Sums]:
        """The loss of a batch and its sums.

        Args:
          model: the model.
          own: float32 [B], the loss of each song without a game.
          terms: float32 [B] each, numbers of each song to report.
          real, made: [B, time, ...], what the discriminator is to tell apart, which are equal where no song is.
          examples, shared: of the objective.
        """
        num_frames = examples.num_frames.astype(jnp.float32)
        terms, loss = {"loss": own, **terms}, own
        if model.discriminator is not None and shared.plays is not None:
            # Before it begins it is computed, too: inside of a condition, XLA on a CPU takes 15 times as long for it.
            played = jax.tree.map(lambda term: jnp.where(shared.plays, term, 0),
                                  game(model.discriminator, real, made, share_of(examples)))
            loss = (loss + self.generator_weight * played.generator + self.feature_weight * played.features
                    + played.discriminator)
            terms |= {"generator": played.generator, "features": played.features,
                      "discriminator": played.discriminator}
        sums = {f"{name}_sum": (num_frames * term).sum() for name, term in terms.items()}
        return (num_frames / shared.total * loss).sum(), sums | {"frames": num_frames.sum()}

    def summarize(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The means over all frames of what `summed` was given; of the game 0 as long as there is none."""
        frames = float(sums["frames"])
        means = {name.removesuffix("_sum"): float(total) / max(frames, 1.0)
                 for name, total in sums.items() if name.endswith("_sum")}
        return means | {"targets": frames}


def share_of(examples: Examples) -> Array:
    """float32 [B], how much of the window a song has."""
    return examples.num_frames.astype(jnp.float32) / examples.frames.shape[1]


def inside(examples: Examples) -> Array:
    """bool [B, T], which frames songs have."""
    return jnp.arange(examples.frames.shape[1]) < examples.num_frames[:, None]
