"""Records of the dataset and the files that hold them, as workers make them."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from autosong_jax import inputs
from autosong_jax.codecs.codec import Codec
from autosong_jax.data import schema, tfrecord
from autosong_jax.sources.base import Arrays, SourceSpec
from autosong_jax.sources.spec import record_specs
from autosong_jax.sources.text.encoders import TextEncoderInfo
from data_prep import tasks, texts
from data_prep.songs import Song
from data_prep.work import Results, unfinished_name

_RECORD_LIMIT = 2**31  # bytes: what a protocol buffer may have


@dataclasses.dataclass(frozen=True)
class Job:
    """A record to be made: of a song, its audio and its group, to be kept as the result `key`."""

    song: Song
    file: tasks.AudioFile
    group: str
    key: str


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Makes records, which it keeps as results of kind `records`, and as `notes` the warnings that texts gave.

    Its methods are for workers: they return what can come from another machine, JSON, but for `audio` and `codes`.

    Attributes:
      results: where to keep them.
      codec: the directory that the codec is saved in.
      text: the text encoder.
      text_directory: the directory that it is saved in; None unless it is a frozen one.
      sources: the kinds of sources that records hold.
    """

    results: Results
    codec: pathlib.Path
    text: TextEncoderInfo
    text_directory: pathlib.Path | None
    sources: tuple[str, ...]

    def audio(self, job: Job) -> np.ndarray | str:
        """A song's audio, float32 [channels, samples], or the reason why it cannot be read."""
        return tasks.read(job.file)

    def codes(self, job: Job) -> np.ndarray | str:
        """Its codes, uint16 [T, K], or the reason why there are none."""
        return tasks.encode(job.file, self.codec)

    def make(self, job: Job) -> dict[str, Any]:
        """Makes a record; returns its `notes`, or the `reason` why there is none."""
        codes = self.codes(job)
        if isinstance(codes, str):
            return {"reason": codes}
        return self.write(job, codes, tasks.codec(self.codec), _text_encoder(self.text, self.text_directory))

    def write(self, job: Job, codes: np.ndarray, codec: Codec, encoder) -> dict[str, Any]:
        """Makes the record of a song whose codes there are already; returns as `make` does."""
        specs = record_specs(self.text, self.sources, codec.sample_rate)
        encoded = tasks.attempt(lambda: encode(specs, encoder, job.song, lambda: tasks.reread(job.file)))
        if isinstance(encoded, str):
            return {"reason": encoded}
        arrays, notes = encoded
        record = {"id": job.song.id, "group": job.group, codec.info.frames.feature: codes,
                  "frame_rate": codec.info.frame_rate, "lyrics": job.song.lyrics, "genre": job.song.genre,
                  "description": job.song.description, "text_encoder": self.text.name,
                  "text_encoder_revision": self.text.revision, **arrays}
        self.results.write("notes", job.key, json.dumps(notes).encode())
        features = schema.song_features(codec.info.frames, self.text, self.sources)
        self.results.write("records", job.key, schema.serialize(features, record))
        return {"notes": notes}


_text_encoder = functools.cache(texts.load)


def encode(specs: Iterable[SourceSpec], encoder, song: Song, audio: Callable[[], np.ndarray]
           ) -> tuple[Arrays, list[str]]:
    """What a song's record holds of its sources, and the warnings that making it gave.

    Args:
      specs: the sources.
      encoder: of texts.
      song: the song.
      audio: gives its audio, float32 [channels, samples].
    """
    given = dataclasses.asdict(song)
    with texts.noting() as notes:
        arrays = {name: array for spec in specs for name, array in spec.export(given, audio, encoder).items()}
    return arrays, notes


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of the dataset, and the records, in files of their own, that are to be in it."""

    path: pathlib.Path
    records: tuple[pathlib.Path, ...]

    def write(self) -> int:
        """Writes the file; returns the number of records."""
        unfinished = unfinished_name(self.path)
        count = tfrecord.write_records(unfinished, (
            inputs.read_bytes(record, "the record", _RECORD_LIMIT) for record in self.records))
        os.replace(unfinished, self.path)
        return count
