"""Autoregression: every step of a pattern from the steps before it."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.codebooks.patterns import Pattern
from autosong_jax.models.song import SongModel
from autosong_jax.objectives.codes import CodeObjective, Examples, Shared, normalizer, with_end
from autosong_jax.objectives.objective import Batch, Sums
from autosong_jax.sources.memory import Memory


@dataclasses.dataclass(frozen=True)
class NextStep(CodeObjective):
    """The objective of MusicGen (Copet et al. 2023); see `objective.Objective`.

    With a share above 0 by scheduled sampling (Bengio et al. 2015), which a transformer does in two passes (Mihaylova
    and Martins 2019): a first one reads the true codes and draws its own; a second one reads those in place of some of
    the true ones, and has the loss. In validation nothing is drawn.

    Attributes:
      pattern: of T frames.
      special: V.
      share: of the codes that are replaced in the end, 0 to 1.
      share_steps: over which the share grows, in a line from 0; 0 for the whole share from the first step on.
    """

    pattern: Pattern
    special: int
    share: float = 0.0
    share_steps: int = 0
    stages = 1
    causal = True
    sampler = "autoregressive"

    @property
    def passes(self) -> int:
        return 2 if self.share else 1

    def examples(self, batch: Batch, stage: Array, keys: Array, step: Array | None) -> tuple[Examples, Shared]:
        """At step s the model reads what stands at step s of the pattern and must predict what stands at step s + 1."""
        del stage
        codes, num_frames = with_end(batch, self.special)
        valid = self.pattern.valid(num_frames)
        # What stands in padding is never a target; as input it is the special id, as after the end of a song.
        steps = jnp.where(valid, self.pattern.interleave(codes, self.special), self.special)
        inputs, drawn = steps[:, :-1], None
        if self.share and step is not None:
            drawn = self._draw(inputs, keys, step)
        return Examples(inputs, steps[:, 1:], valid[:, 1:], drawn), Shared(normalizer(valid[:, 1:]), None)

    def _draw(self, inputs: Array, keys: Array, step: Array) -> Array:
        """`Examples.drawn`: codes of the song are replaced, each with the share of the step as probability."""
        share = self.share * jnp.minimum(step / self.share_steps, 1.0) if self.share_steps else self.share
        chance, place = jax.vmap(lambda key: jax.random.uniform(key, (2, *inputs.shape[1:])), out_axes=1)(keys)
        return jnp.where((inputs < self.special) & (chance < share), place, -1.0)

    def loss(self, model: SongModel, examples: Examples, shared: Shared, memory: Memory, key: Array | None
             ) -> tuple[Array, Sums]:
        """See `CodeObjective.loss`."""
        if examples.drawn is not None:
            examples = dataclasses.replace(examples, inputs=self._mixed(model, examples, memory))
        return super().loss(model, examples, shared, memory, key)

    def choices(self, model: SongModel, examples: Examples, memory: Memory) -> Array:
        """See `objective.Objective`: int32 [B, T, K], V where that is the end of the song."""
        states = model.hidden(examples.inputs, memory)

        def of_codebook(k: Array) -> Array:
            return model.frames.predict(states, k)[:, :, 0].argmax(axis=-1).astype(jnp.int32)

        codes = jnp.moveaxis(jax.lax.map(of_codebook, jnp.arange(examples.inputs.shape[-1])), 0, -1)
        return self.pattern.deinterleave(jnp.pad(codes, ((0, 0), (1, 0), (0, 0))))  # what a step predicts is the next

    def _mixed(self, model: SongModel, examples: Examples, memory: Memory) -> Array:
        """The inputs int32 [B, S, K] of the second pass; nothing of the first has a gradient."""
        graph, params = nnx.split(model)
        model, memory = nnx.merge(graph, jax.lax.stop_gradient(params)), jax.lax.stop_gradient(memory)
        states = model.hidden(examples.inputs, memory)
        # What the model predicts at a step stands at the next one. At step 0 nothing is replaced.
        places = jnp.roll(examples.drawn, -1, axis=1)

        def of_codebook(k: Array) -> Array:
            # A code that is drawn stands within the song, so it is none of those that end it.
            probabilities = jax.nn.softmax(model.frames.predict(states, k)[:, :, 0, :self.special])
            return (jnp.cumsum(probabilities, axis=-1) <= places[..., k, None]).sum(axis=-1, dtype=jnp.int32)

        codes = jax.lax.map(of_codebook, jnp.arange(places.shape[-1]))  # one after another, as in the loss
        codes = jnp.roll(jnp.moveaxis(codes, 0, -1), 1, axis=1)
        return jnp.where(examples.drawn < 0, examples.inputs, jnp.minimum(codes, self.special - 1))
