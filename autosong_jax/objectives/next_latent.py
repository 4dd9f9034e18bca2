"""Autoregression over continuous frames: the latents of every step from those of the steps before it.

Letters: B batch, T frames, S steps, F values of a step, D width.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from autosong_jax.latents.history import noised
from autosong_jax.models.autoencoder import SCALE
from autosong_jax.models.song import SongModel
from autosong_jax.objectives.objective import Batch, Sums, alone
from autosong_jax.sources.memory import Memory

END_WEIGHT = 0.1
"""Of the cross-entropy of where a song ends, beside the loss of the head."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Examples:
    """What of some songs is learned from.

    Attributes:
      frames: as the dataset has them, [B, T, M].
      num_frames: int32 [B].
      song_ends: bool [B].
      keys: PRNG keys [B].
    """

    frames: Array
    num_frames: Array
    song_ends: Array
    keys: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shared:
    """What holds for all examples of a batch.

    Attributes:
      targets: float32 [], how many steps are predicted.
      ends: float32 [], of how many steps it is asked whether the song is over.
      noise: bool [], whether the history is noisy.
    """

    targets: Array
    ends: Array
    noise: Array


@dataclasses.dataclass(frozen=True)
class NextLatent:
    """See the module's docstring and `objective.Objective`. What a head predicts is up to the model's frame adapter.

    Attributes:
      values: from frames as records hold them to what the autoencoder reads, float32 of the same shape.
      per_column: steps that a column of latents takes.
      residual: whether the head predicts the difference from the latent before.
      noise: whether the decoder reads a noisy history in training; see `latents.history`.
    """

    values: Callable[[Array], Array]
    per_column: int
    residual: bool
    noise: bool
    stages = 1
    causal = True
    sampler = "continuous"
    passes = 1
    headline = ("loss",)
    judging, choices = alone, None

    def examples(self, batch: Batch, stage: Array, keys: Array, step: Array | None) -> tuple[Examples, Shared]:
        """See `objective.Objective`."""
        del stage
        examples = Examples(batch["frames"], batch["num_frames"], batch["song_ends"], keys)
        valid, asked, _ = self._masks(examples)
        return examples, Shared(jnp.maximum(valid.sum(), 1).astype(jnp.float32),
                                jnp.maximum(asked.sum(), 1).astype(jnp.float32),
                                jnp.array(self.noise and step is not None))

    def _masks(self, examples: Examples) -> tuple[Array, Array, Array]:
        """bool [B, S] each: the steps that are predicted; those of which it is asked whether the song is over; where it
        is. A column counts that holds any frame of the song."""
        steps = examples.frames.shape[1] // SCALE * self.per_column
        index = jnp.arange(steps)
        count = (-(-examples.num_frames // SCALE) * self.per_column)[:, None]
        over = (index == count) & examples.song_ends[:, None]
        return index < count, (index < count) | over, over

    def loss(self, model: SongModel, examples: Examples, shared: Shared, memory: Memory, key: Array | None
             ) -> tuple[Array, Sums]:
        """The sums are "targets" and, of what each of its steps adds, "head" and the parts that the head names; "ends"
        and "end", the cross-entropy of where songs end."""
        frames = model.frames
        latents = frames.steps(jax.lax.stop_gradient(frames.latents.encode(self.values(examples.frames))))
        valid, asked, over = self._masks(examples)
        latents = jnp.where(valid[..., None], latents, 0)
        of_history, of_head = jax.vmap(lambda key: tuple(jax.random.split(key)))(examples.keys)
        history = jnp.where(shared.noise, noised(latents, of_history), latents) if self.noise else latents
        states = frames.predict(model.hidden(frames.inputs(history), memory, key))
        before = jnp.pad(latents, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        targets = latents - before if self.residual else latents
        losses, parts = jax.vmap(frames.head.loss)(frames.condition(states, before), targets, of_head)
        ended = jnp.zeros(over.shape)
        if frames.end is not None:
            ended = optax.sigmoid_binary_cross_entropy(frames.end(states)[..., 0].astype(jnp.float32), over)

        def summed(x: Array, mask: Array) -> Array:
            return jnp.where(mask, x, 0).sum(dtype=jnp.float32)

        sums = {"head": summed(losses, valid), "targets": summed(1.0, valid), "end": summed(ended, asked),
                "ends": summed(1.0, asked)} | {f"part_{name}": summed(part, valid) for name, part in parts.items()}
        return sums["head"] / shared.targets + END_WEIGHT * sums["end"] / shared.ends, jax.lax.stop_gradient(sums)

    def summarize(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The loss and, a step each, what it is made of."""
        targets, ends = (max(float(sums[name]), 1.0) for name in ("targets", "ends"))
        head, end = float(sums["head"]) / targets, float(sums["end"]) / ends
        parts = {name.removeprefix("part_"): float(value) / targets for name, value in sums.items()
                 if name.startswith("part_")}
        return {"loss": head + END_WEIGHT * end, "targets": float(sums["targets"]), "head": head, "end": end} | parts
