"""What a user gives of songs, as the sources that a model reads: texts and recordings, through its encoders."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from autosong_jax.codecs.info import CodecInfo
from autosong_jax.errors import UserError
from autosong_jax.sources.base import Arrays, Encoders, SourceSpec
from autosong_jax.sources.spec import source_specs
from autosong_jax.sources.text.encoders import TextEncoderInfo


class UserConditions:
    """What a user gives of songs -> the sources of a batch.

    Args:
      config: of the model.
      text, codec: which text encoder and codec it was trained with.
      encoders: give them; called whenever one is needed.
    """

    def __init__(self, config: ml_collections.ConfigDict, text: TextEncoderInfo, codec: CodecInfo, encoders: Encoders):
        self._specs = source_specs(config.sources, text, codec, config.model.dropped)
        self._encoders = encoders

    @property
    def arguments(self) -> list[str]:
        """What can be given of a song."""
        return sorted(spec.argument for spec in self._specs.values() if spec.argument)

    def given(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What a user would give of a song of a dataset, as of `encode`."""
        given = {spec.argument: spec.given(record) for spec in self._specs.values() if spec.argument}
        return {name: condition for name, condition in given.items() if condition is not None}

    def encode(self, songs: Sequence[Mapping[str, str | np.ndarray]]) -> dict[str, Arrays]:
        """The sources of a batch; `at` makes windows of them.

        Args:
          songs: for each song what is given, by what it is given as (`arguments`): a text; for a melody audio, float32
            [channels, samples]; for a backing or a style audio or codes, integer [frames, K].

        Raises:
          UserError: if something is given that the model does not read, or what encodes it is not there.
        """
        for name in sorted({name for song in songs for name in song} - set(self.arguments)):
            raise UserError(f"{name} was given, but the model was not trained with it: expected "
                            f"{', '.join(self.arguments) or 'no condition'}")
        rows = {name: self._rows(spec, [song.get(spec.argument) for song in songs])
                for name, spec in self._specs.items()}
        return {name: {key: _stacked([row[key] for row in source]) for key in source[0]}
                for name, source in rows.items()}

    def seconds(self, song: Mapping[str, str | np.ndarray]) -> float | None:
        """How long a song lasts that goes with all that is given of it, as of `encode`; None if that does not say."""
        known = [spec.seconds(song[spec.argument]) for spec in self._specs.values() if spec.argument in song]
        return max((seconds for seconds in known if seconds is not None), default=None)

    def _rows(self, spec: SourceSpec, given: Sequence[Any]) -> list[Arrays]:
        """What each of several songs is given; what is one and the same is encoded once."""
        encoded = {id(one): spec.from_user(one, self._encoders) for one in {id(one): one for one in given}.values()}
        return [encoded[id(one)] for one in given]

    def at(self, sources: Mapping[str, Arrays], seconds: float) -> dict[str, Arrays]:
        """The sources of windows that begin so far into the songs, from what `encode` gave."""
        return {name: self._specs[name].at(arrays, seconds) for name, arrays in sources.items()}


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays [any length, ...] or numbers as one array; shorter ones are followed by 0."""
    if not np.ndim(rows[0]):
        return np.stack(rows)
    stacked = np.zeros((len(rows), max(map(len, rows)), *rows[0].shape[1:]), rows[0].dtype)
    for whole, row in zip(stacked, rows, strict=True):
        whole[:len(row)] = row
    return stacked
