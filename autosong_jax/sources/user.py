"""What a user gives of songs, as the sources that a model reads: texts through its text encoder, a melody as chroma."""

import functools
from collections.abc import Callable, Mapping, Sequence

import ml_collections
import numpy as np

from autosong_jax.errors import UserError
from autosong_jax.sources.base import Arrays
from autosong_jax.sources.spec import source_specs
from autosong_jax.sources.text.encoders import TextEncoder, TextEncoderInfo
from autosong_jax.sources.text.frozen import FrozenTextEncoder


class UserConditions:
    """What a user gives of songs -> the sources of a batch.

    Args:
      config: of the model.
      text: which text encoder it was trained with.
      load_text_encoder: gives it; called when a text first needs it.
      sample_rate: Hz, of the audio that is given.
    """

    def __init__(self, config: ml_collections.ConfigDict, text: TextEncoderInfo,
                 load_text_encoder: Callable[[], TextEncoder | FrozenTextEncoder], sample_rate: int):
        self._specs = source_specs(config.sources, text, sample_rate, config.model.dropped)
        self._encoder = functools.cache(load_text_encoder)

    @property
    def arguments(self) -> list[str]:
        """What can be given of a song."""
        return sorted(spec.argument for spec in self._specs.values() if spec.argument)

    def encode(self, songs: Sequence[Mapping[str, str | np.ndarray]]) -> dict[str, Arrays]:
        """The sources of a batch; `at` makes windows of them.

        Args:
          songs: for each song what is given, by what it is given as (`arguments`): a text, or for a melody audio,
            float32 [channels, samples].

        Raises:
          UserError: if something is given that the model does not read, or the text encoder is not there.
        """
        for name in sorted({name for song in songs for name in song} - set(self.arguments)):
            raise UserError(f"{name} was given, but the model was not trained with it: expected "
                            f"{', '.join(self.arguments) or 'no condition'}")
        rows = {name: [spec.from_user(song.get(spec.argument), self._encoder) for song in songs]
                for name, spec in self._specs.items()}
        return {name: {key: np.stack([row[key] for row in source]) for key in source[0]}
                for name, source in rows.items()}

    def at(self, sources: Mapping[str, Arrays], seconds: float) -> dict[str, Arrays]:
        """The sources of windows that begin so far into the songs, from what `encode` gave."""
        return {name: self._specs[name].at(arrays, seconds) for name, arrays in sources.items()}
