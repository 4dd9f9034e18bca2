"""Records of the dataset and the files that hold them, as workers make them."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from autosong_jax import inputs
from autosong_jax.codecs.codec import Codec
from autosong_jax.data import schema, tfrecord
from autosong_jax.sources.base import Arrays, SourceSpec
from autosong_jax.sources.spec import record_specs, recordings_of
from autosong_jax.sources.text.encoders import TextEncoderInfo
from data_prep import tasks, texts
from data_prep.songs import Song
from data_prep.work import Results, unfinished_name

_RECORD_LIMIT = 2**31  # bytes: what a protocol buffer may have


@dataclasses.dataclass(frozen=True)
class Job:
    """A record to be made: of a song and its group, to be kept as the result `key`.

    Attributes:
      files: its audio, and then its other recordings, each as long as that.
    """

    song: Song
    files: tuple[tasks.AudioFile, ...]
    group: str
    key: str


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Makes records, which it keeps as results of kind `records`, and as `notes` the warnings that texts gave.

    Its methods are for workers: they return what can come from another machine, JSON, but for `audio` and `frames`.

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

    def audio(self, job: Job) -> list[np.ndarray] | str:
        """A song's recordings, float32 [channels, samples] each, or the reason why one cannot be read."""
        return _all(tasks.read(file) for file in job.files)

    def frames(self, job: Job) -> list[np.ndarray] | str:
        """Their frames, as the codec has them, or the reason why there are none."""
        return _all(tasks.encode(file, self.codec) for file in job.files)

    def make(self, job: Job) -> dict[str, Any]:
        """Makes a record; returns its `notes`, or the `reason` why there is none."""
        frames = self.frames(job)
        if isinstance(frames, str):
            return {"reason": frames}
        return self.write(job, frames, tasks.codec(self.codec), _text_encoder(self.text, self.text_directory))

    def write(self, job: Job, frames: Sequence[np.ndarray], codec: Codec, encoder) -> dict[str, Any]:
        """Makes the record of a song whose frames there are already, of each of its files; returns as `make` does.
        """
        specs = record_specs(self.text, codec.info, self.sources)
        others = dict(zip(recordings_of(self.sources), frames[1:], strict=True))
        encoded = tasks.attempt(
            lambda: encode(specs, encoder, job.song, lambda: tasks.reread(job.files[0]), others))
        if isinstance(encoded, str):
            return {"reason": encoded}
        arrays, notes = encoded
        record = {"id": job.song.id, "group": job.group, codec.info.frames.feature: frames[0],
                  "frame_rate": codec.info.frame_rate, "lyrics": job.song.lyrics, "genre": job.song.genre,
                  "description": job.song.description, "text_encoder": self.text.name,
                  "text_encoder_revision": self.text.revision, **arrays}
        self.results.write("notes", job.key, json.dumps(notes).encode())
        features = schema.song_features(codec.info, self.text, self.sources)
        self.results.write("records", job.key, schema.serialize(features, record))
        return {"notes": notes}


def _all(results: Iterable[np.ndarray | str]) -> list[np.ndarray] | str:
    """All results, or the first that is a reason why there is none."""
    found = []
    for result in results:
        if isinstance(result, str):
            return result
        found.append(result)
    return found


_text_encoder = functools.cache(texts.load)


def encode(specs: Iterable[SourceSpec], encoder, song: Song, audio: Callable[[], np.ndarray],
           recordings: Mapping[str, np.ndarray]) -> tuple[Arrays, list[str]]:
    """What a song's record holds of its sources, and the warnings that making it gave.

    Args:
      specs: the sources.
      encoder: of texts.
      song: the song.
      audio: gives its audio, float32 [channels, samples].
      recordings: its other recordings by name, as frames of the codec.
    """
    given = dataclasses.asdict(song)
    with texts.noting() as notes:
        arrays = {}
        for spec in specs:
            arrays |= spec.export(given, audio, recordings, encoder)
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
