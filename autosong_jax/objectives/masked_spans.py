"""Filling in: the masked frames of one codebook from its other frames and from the codebooks before it."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from autosong_jax.codebooks.masking import mask_rate, random_mask
from autosong_jax.objectives.codes import CodeObjective, Examples, Shared, normalizer, with_end
from autosong_jax.objectives.objective import Batch, Objective

JUDGED_RATES = (0.25, 0.5, 0.75, 1.0)


@dataclasses.dataclass(frozen=True)
class MaskedSpans(CodeObjective):
    """The objective of MAGNeT (Ziv et al. 2024); see `objective.Objective`.

    Stage k is to fill in codebook k. Codebooks before it are given, those after it are hidden, and of its own
    frames a random share is, in spans; the hidden ones are to be predicted. The first stage sees the whole song, the
    others what is within the model's window.

    Attributes:
      stages: K.
      special: V, which stands for what is hidden.
      span_length: in frames.
      rate: the share of the frames that is hidden; None for one that is drawn for each song.
    """

    stages: int
    special: int
    span_length: int
    rate: float | None = None
    causal = False
    passes = 1
    sampler = "masked"

    def examples(self, batch: Batch, stage: Array, keys: Array, step: Array | None) -> tuple[Examples, Shared]:
        """At frame t the model reads frame t, or V where it is hidden, and must predict what stands there."""
        del step
        codes, num_frames = with_end(batch, self.special)
        frames, codebooks = jnp.arange(codes.shape[1]), jnp.arange(codes.shape[2])
        inside = (frames < num_frames[:, None])[..., None]
        hidden = jax.vmap(self._hide, (0, None))(keys, codes.shape[1])[..., None]
        inputs = jnp.where(inside & ((codebooks < stage) | (codebooks == stage) & ~hidden), codes, self.special)
        # Of the frame after a song's last, which is V, the first codebook alone is a target, as in sampling.
        counts = inside & ((codes != self.special) | (codebooks == 0))
        mask = counts & hidden & (codebooks == stage)
        return Examples(inputs, codes, mask), Shared(normalizer(mask), stage > 0)

    def judging(self) -> dict[str, Objective]:
        """At fixed shares, so that chance has no part in how much of a song is seen."""
        return {f"{rate:.0%} masked": dataclasses.replace(self, rate=rate) for rate in JUDGED_RATES}

    def _hide(self, key: Array, num_frames: int) -> Array:
        """bool [T], the hidden frames of one song."""
        time_key, span_key = jax.random.split(key)
        rate = mask_rate(jax.random.uniform(time_key)) if self.rate is None else jnp.float32(self.rate)
        return random_mask(span_key, rate, num_frames, self.span_length)
