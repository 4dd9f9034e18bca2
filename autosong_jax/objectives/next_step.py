"""Autoregression: every step of a pattern from the steps before it."""

import dataclasses

import jax.numpy as jnp
from jax import Array

from autosong_jax.codebooks.patterns import Pattern
from autosong_jax.objectives.codes import CodeObjective, Examples, Shared, normalizer, with_end
from autosong_jax.objectives.objective import Batch


@dataclasses.dataclass(frozen=True)
class NextStep(CodeObjective):
    """The objective of MusicGen (Copet et al. 2023); see `objective.Objective`. Nothing in it is random.

    Attributes:
      pattern: of T frames.
      special: V.
    """

    pattern: Pattern
    special: int
    parts = 1
    causal = True
    sampler = "autoregressive"

    def examples(self, batch: Batch, part: Array, keys: Array) -> tuple[Examples, Shared]:
        """At step s the model reads what stands at step s of the pattern and must predict what stands at step s + 1."""
        del part, keys
        codes, num_frames = with_end(batch, self.special)
        valid = self.pattern.valid(num_frames)
        # What stands in padding is never a target; as input it is the special id, as after the end of a song.
        steps = jnp.where(valid, self.pattern.interleave(codes, self.special), self.special)
        return Examples(steps[:, :-1], steps[:, 1:], valid[:, 1:]), Shared(normalizer(valid[:, 1:]), None)
