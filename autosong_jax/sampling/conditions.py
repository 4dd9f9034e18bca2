"""What a user gives of songs, as the sources that a model reads: texts through its text encoder, a melody as chroma.

Letters: L length of a source.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import ml_collections
import numpy as np

from autosong_jax.audio import io
from autosong_jax.cli import log
from autosong_jax.errors import UserError
from autosong_jax.sources.chroma import pitch_classes as chroma
from autosong_jax.sources.text.encoders import TextEncoder, TextEncoderInfo
from autosong_jax.sources.text.frozen import FrozenTextEncoder

MELODY = "chroma"  # the source that a melody is for
Source = dict[str, np.ndarray]


class Conditions:
    """Texts and melodies -> the sources of a batch.

    Args:
      config: of the model.
      text: which text encoder it was trained with.
      load_text_encoder: gives it; called when a text first needs it.
      sample_rate: Hz, of melodies.
    """

    def __init__(self, config: ml_collections.ConfigDict, text: TextEncoderInfo,
                 load_text_encoder: Callable[[], TextEncoder | FrozenTextEncoder], sample_rate: int):
        self._config, self._text, self._load, self._rate = config, text, load_text_encoder, sample_rate

    @functools.cached_property
    def _encoder(self) -> TextEncoder | FrozenTextEncoder:
        return self._load()

    def encode(self, songs: Sequence[Mapping[str, str | np.ndarray]]) -> dict[str, Source]:
        """The sources of a batch.

        Args:
          songs: for each song what is given, by source: a text, or for the melody audio, float32 [channels, samples].

        Raises:
          UserError: if something is given that is no source of the model, or the text encoder is not there.
        """
        known = sorted(self._config.sources)
        for name in sorted({name for song in songs for name in song} - set(known)):
            raise UserError(f"{'melody' if name == MELODY else name} was given, but the model was not trained with it: "
                            f"expected {', '.join(known) or 'no condition'}")
        rows = {name: [self._encode(name, song.get(name)) for song in songs] for name in known}
        return {name: {key: np.stack([row[key] for row in source]) for key in source[0]}
                for name, source in rows.items()}

    def _encode(self, name: str, given: str | np.ndarray | None) -> Source:
        max_length = self._config.sources[name].max_length
        if self._config.sources[name].kind == "chroma":
            return self._encode_melody(given, max_length)
        if self._text.frozen:
            return self._encoder.source(name, given, max_length) if given else {
                "states": np.zeros((max_length, self._text.width), np.float32), "length": np.int32(0)}
        arrays = dict.fromkeys(("ids", "sections", "lines") if name == "lyrics" else ("ids",), np.zeros(0, np.int32))
        if given and name == "lyrics":
            arrays = dataclasses.asdict(self._encoder.encode_lyrics(given))
        elif given:
            arrays = {"ids": self._encoder.encode(given)}
        length = len(arrays["ids"])
        if length > max_length:
            log.warning("%s of length %d: the model reads the first %d", name, length, max_length)
        padded = {key: np.pad(a[:max_length], (0, max(max_length - length, 0))) for key, a in arrays.items()}
        return {**padded, "length": np.int32(min(length, max_length))}

    def _encode_melody(self, audio: np.ndarray | None, frames: int) -> Source:
        if audio is not None:
            audio = io.checked("the melody", audio, self._rate)
            return {"chroma": chroma.strongest_pitch_class(audio, self._rate), "length": np.int32(frames)}
        # A model for which dropped sources leave empty slots reads pitch class 0 there.
        slots = frames if self._config.model.dropped == "null" else 0
        return {"chroma": np.zeros(frames, np.int32), "length": np.int32(slots)}

    def at(self, sources: Mapping[str, Source], seconds: float) -> dict[str, Source]:
        """The sources of a window that begins so far into the songs: of a melody, the part from there on.

        A melody that is over begins again, as the released models were trained; texts are for whole songs.
        """
        if MELODY not in sources:
            return dict(sources)
        classes, frames = sources[MELODY]["chroma"], self._config.sources[MELODY].max_length
        first = round(seconds * self._rate / chroma.HOP)
        part = np.take(classes, first + np.arange(frames), axis=1, mode="wrap")
        return dict(sources) | {MELODY: {**sources[MELODY], "chroma": part}}
