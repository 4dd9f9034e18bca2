"""How probable a song is under a model that reads it again, window by window as it would be sung.

Letters: T frames of a song, D numbers in a frame.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from autosong_jax.errors import UserError
from autosong_jax.latents.table import HEADS
from autosong_jax.sampling.drafts import laid
from autosong_jax.sampling.samplers import Autoregressive, Continuous, Masked, SampledModel, encode
from autosong_jax.sources.user import UserConditions


class Likelihood:
    """Reads songs with one model, without guidance.

    Args:
      model: the model.
      sampler: which sings with it.
      conditions: what encoded those of songs.
      rate: how many frames, as the sampler takes them, a second has.
    """

    def __init__(self, model: SampledModel, sampler: Autoregressive | Masked | Continuous, conditions: UserConditions,
                 rate: float):
        self._model, self._sampler, self._conditions, self._rate = model, sampler, conditions, rate
        self._read = jax.jit(functools.partial(_read, model.graph, sampler))

    def check(self) -> None:
        """Raises UserError where this model says of no song how probable it is."""
        head = self._model.config.latents.head
        if isinstance(self._sampler, Continuous) and not HEADS[head].exact:
            exact = " or ".join(name for name, known in HEADS.items() if known.exact)
            raise UserError(f"likelihood: a model of latents with the head {head!r} has none that can be computed; "
                            f"expected one that was trained with latents.head {exact}")

    def __call__(self, params: Any, song: np.ndarray, given: np.ndarray, sources: Mapping[str, Any]) -> float | None:
        """The mean log probability, in nats, of a code in the frames that were made; of latents, of a value.

        Of codes it is that among codes: where a song ends is not judged. None where nothing was made.

        Args:
          params: of the model.
          song: [T, D], as a medium has it; it may be over early.
          given: bool [at least T], the frames that stood before it was sung.
          sources: of one song, as `UserConditions.encode` gives them.
        """
        length, total, count = self._sampler.window(len(given)), 0.0, 0
        for start, made in laid(given, length, self._model.overlap(length)):
            made = made[made < len(song)]
            if not len(made):
                break
            window = song[start:start + length]
            padded = np.pad(window, ((0, length - len(window)), (0, 0)))
            found = self._read(params, self._conditions.at(sources, start / self._rate), padded[None], len(window))
            total += np.asarray(found, np.float64)[0, made - start].sum()
            count += len(made)
        return total / count if count else None


def _read(graph, sampler, params, sources, frames, num_frames):
    model = nnx.merge(graph, params)
    memory = encode(model, sources, np.ones((1, len(model.source_names)), bool), len(frames))
    return sampler.log_probabilities(model, memory, frames, num_frames)
