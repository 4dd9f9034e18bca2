"""What the mel autoencoder is trained for: to give back what it was given.

Letters: B batch, T frames, M bands.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from autosong_jax.errors import UserError
from autosong_jax.models.autoencoder import SCALE, MelAutoencoder
from autosong_jax.models.discriminators import mean_of_share
from autosong_jax.objectives.adversarial import Adversarial, Examples, Shared, inside, share_of
from autosong_jax.objectives.objective import Batch, Sums


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction(Adversarial):
    """L1 of the mel, and `prior` times the mean square of the latents, beside the game of `Adversarial`.

    The curriculum: windows are cut into parts, each of which goes through the model by itself. Parts have at least
    `first_frames` frames at first and are doubled step by step until they are the window, so that all steps cost about
    the same.

    Attributes:
      values: of what the codec stores, [B, T, M], what the model is to read and write, float32.
      prior: see above.
      first_frames: see above.
      curriculum_steps: from this step on parts are the whole window; 0 for always.
    """

    values: Callable[[Array], Array]
    prior: float = 1e-4
    first_frames: int = 64
    curriculum_steps: int = 0
    headline = ("loss", "l1")

    def examples(self, batch: Batch, stage: Array, keys: Array, step: Array | None) -> tuple[Examples, Shared]:
        """See `objective.Objective`."""
        examples, shared = super().examples(batch, stage, keys, step)
        last = len(self.lengths(batch["frames"].shape[1])) - 1
        if step is not None and self.curriculum_steps:
            shared = dataclasses.replace(shared, crop=jnp.minimum(step * last // self.curriculum_steps, last))
        return examples, shared

    def lengths(self, frames: int) -> list[int]:
        """Of the parts of a window of `frames`, in the order of the curriculum.

        Raises:
          UserError: no whole number of columns makes a window.
        """
        if frames % SCALE:
            raise UserError(f"data.seconds gives windows of {frames} frames: expected a multiple of {SCALE}, such as "
                            f"{max(round(frames / SCALE), 1) * SCALE}")
        lengths = [frames]
        while lengths[0] % (2 * SCALE) == 0 and lengths[0] // 2 >= self.first_frames:
            lengths.insert(0, lengths[0] // 2)
        return lengths

    def loss(self, model: MelAutoencoder, examples: Examples, shared: Shared, memory: None, key: Array | None
             ) -> tuple[Array, Sums]:
        """The sums are those of "loss", "l1", "square" (of the latents) and the game; see `Adversarial.summed`."""
        frames = self.values(examples.frames).astype(jnp.float32)
        through = [functools.partial(_through, model, length) for length in self.lengths(frames.shape[1])]
        latents, made = through[-1](frames) if shared.crop is None else lax.switch(shared.crop, through, frames)
        made = jnp.where(inside(examples)[..., None], made, frames)
        share = share_of(examples)
        l1 = mean_of_share(jnp.abs(made - frames), share)
        square = mean_of_share(jnp.square(latents), share)
        terms = {"l1": l1, "square": square}
        return self.summed(model, l1 + self.prior * square, terms, frames, made, examples, shared)


def _through(model: MelAutoencoder, length: int, frames: Array) -> tuple[Array, Array]:
    """Latents [B, N, R, C] and frames [B, T, M] of frames [B, T, M], in parts of `length` frames."""
    parts = frames.reshape(-1, length, frames.shape[2])
    latents = model.to_latents(parts)
    made = model.decode(latents).reshape(frames.shape)
    return latents.reshape(len(frames), -1, *latents.shape[2:]), made
