"""What the mel autoencoder is trained for: to give back what it was given.

Letters: B batch, T frames, M bands.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array

from autosong_jax.codecs.mel.settings import MelConfig
from autosong_jax.errors import UserError
from autosong_jax.models.autoencoder import SCALE, MelAutoencoder
from autosong_jax.models.discriminators import mean_of_share
from autosong_jax.objectives.adversarial import Adversarial, Examples, Shared, inside, share_of
from autosong_jax.objectives.objective import Batch, Sums


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction(Adversarial):
    """L1 of the mel's values, and `prior` times the mean square of the latents, beside the game of `Adversarial`.

    A batch has frames of codec `mel`.

    Attributes:
      mel: what they stand for.
      prior: see above.
    """

    mel: MelConfig
    prior: float = 1e-4
    headline = ("loss", "l1")

    def examples(self, batch: Batch, stage: Array, keys: Array, step: Array | None) -> tuple[Examples, Shared]:
        """See `objective.Objective`.

        Raises:
          UserError: no whole number of columns makes a window.
        """
        frames = batch["frames"].shape[1]
        if frames % SCALE:
            raise UserError(f"windows of {frames} frames: expected a multiple of {SCALE}, such as "
                            f"{max(round(frames / SCALE), 1) * SCALE}; they are data.seconds long")
        return super().examples(batch, stage, keys, step)

    def loss(self, model: MelAutoencoder, examples: Examples, shared: Shared, memory: None, key: Array | None
             ) -> tuple[Array, Sums]:
        """The sums are those of "loss", "l1", "square" (of the latents) and the game; see `Adversarial.summed`."""
        frames = self.mel.values(examples.frames)
        latents = model.to_latents(frames)
        made = jnp.where(inside(examples)[..., None], model.decode(latents), frames)
        share = share_of(examples)
        l1 = mean_of_share(jnp.abs(made - frames), share)
        square = mean_of_share(jnp.square(latents), share)
        terms = {"l1": l1, "square": square}
        return self.summed(model, l1 + self.prior * square, terms, frames, made, examples, shared)
