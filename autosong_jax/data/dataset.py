"""An exported dataset at training time: whole songs by number, and batches of windows by step.

Batch `step` is a function of (seed, step) alone: which songs it holds and where their windows start are drawn from the
place of each example in one endless stream. So a run resumes at any step with nothing saved, and any number of hosts
reads the same batches, each its own rows.

Letters: B batch, T frames of a window, L slots of a source.
"""

import bisect
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autosong_jax.cli import log
from autosong_jax.codecs.info import CodecInfo, Frames
from autosong_jax.data import schema, tfrecord
from autosong_jax.errors import UserError
from autosong_jax.sources.base import ArraySpec, SourceSpec, Span
from autosong_jax.sources.spec import IN_RECORDS, SOURCES, source_specs
from autosong_jax.sources.text.encoders import TextEncoderInfo

if TYPE_CHECKING:  # at run time inside functions: grain imports jax, and whoever only reads songs needs neither
    import grain

Batch = dict[str, Any]


class SongDataset:
    """The songs of one split, in the order of the shards; `dataset[i]` reads one from the disk. Threads may share it.

    Attributes:
      path: the dataset's directory.
      codec: what its songs are coded by.
      frame_rate: frames a second.
      features: of one record, see `schema.song_features`.
      text: the encoder that the texts went through.
    """

    def __init__(self, path: str | pathlib.Path, split: str):
        """Reads the descriptions and finds where each song is.

        Raises:
          UserError: no dataset is there, it is damaged, its parts contradict each other, its format is another one, or
            the split is missing or empty.
        """
        self.path = pathlib.Path(path)
        self.features, shard_lengths = schema.read_dataset_info(self.path)
        if not sum(shard_lengths.get(split, ())):
            others = ", ".join(f"{name} ({sum(lengths)} songs)" for name, lengths in shard_lengths.items())
            raise UserError(f"{self.path} has no songs in the split {split!r}, but these splits: {others or 'none'}")
        self.text = TextEncoderInfo.load(self.path)
        self.codec = CodecInfo.load(self.path / "codec")
        self.frame_rate, frames = self.codec.frame_rate, self.codec.frames
        self._check_features()
        if (width := self.features[frames.feature].shape[1]) != frames.width:
            raise UserError(f"the songs in {self.path} have frames of {width} {frames.noun}, but its codec has "
                            f"{frames}: export the songs again")
        self._codes = [] if frames.size is None else [
            name for name, feature in self.features.items() if feature.np_dtype == frames.dtype]
        self._shards, self._offsets = [], []
        for i, length in enumerate(shard_lengths[split]):
            shard = schema.shard_path(self.path, split, i, len(shard_lengths[split]))
            offsets = tfrecord.record_offsets(shard)
            if len(offsets) != length:
                raise UserError(f"{shard} holds {len(offsets)} songs, but dataset_info.json says {length}: copy the "
                                "dataset again from where it came from, or export again")
            self._shards.append(shard)
            self._offsets.append(offsets)
        self._ends = list(itertools.accumulate(shard_lengths[split]))  # songs in a shard and all shards before it

    def _check_features(self) -> None:
        """Raises UserError unless records hold what the text encoder's kind says, and what else they may hold, in its
        shapes and dtypes."""
        known, always = dict(self.features.items()), schema.song_features(self.codec, self.text)
        for name, expected in schema.song_features(self.codec, self.text, SOURCES).items():
            found = known.get(name)
            if found is None and name not in always:
                continue
            same = found is not None and found.np_dtype == expected.np_dtype and len(found.shape) == len(expected.shape)
            if not same or (name != self.codec.frames.feature and found.shape != expected.shape):
                raise UserError(f"{self.path}/features.json does not describe {name!r} as {self.text.name} texts have "
                                "it: copy the dataset again from where it came from, or export again")

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Song `index` as a record, see `schema.song_features`; what its codec's frames are is under `frames`.

        Raises:
          UserError: the record is damaged, or holds codes that the codec does not have.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"song {index} of {len(self)}")
        shard = bisect.bisect_right(self._ends, index)
        offset, length = self._offsets[shard][index - self._ends[shard]]  # counted from the shard's end
        record = schema.deserialize(self.features, tfrecord.read_record(self._shards[shard], int(offset), int(length)))
        frames = self.codec.frames
        for name in self._codes:
            # An embedding would clip what is no code and train on without a word.
            if (largest := record[name].max(initial=0)) >= frames.size:
                raise UserError(f"song {record['id']!r} in {self.path} holds the code {largest}, but its codec has "
                                f"{frames.size} per codebook: export the songs again")
        record["frames"] = record.pop(frames.feature)
        return record


def train_batches(dataset: SongDataset, *, batch_size: int, frames: int, sources: Mapping[str, Any], end_of_song: bool,
                  seed: int, rows: Sequence[int] | None = None, beginnings: bool = False) -> "grain.MapDataset[Batch]":
    """Batches for training without end: `batches[step]` for any step, or one after another with `iterate`.

    Every epoch has all songs, one window of each, in a new order; a batch may hold the end of one epoch and the start
    of the next. A song is its frames and, with `end_of_song`, its end, which takes the place of one frame more. The
    window of a song longer than `frames` lies within the song, each start as likely as any other; that of a shorter one
    is all of it.

    Args:
      batch_size: B of all hosts together.
      frames: T.
      sources: those of a config, of each of which `kind` and `max_length`, L, are read; of one that is longer the end
        is cut off, with a warning for the first such song of each source.
      seed: in [0, 2**32).
      rows: which rows of the global batch to read, as `parallel.sharding.batch_rows` names those of a host; None for
        all. No other song is read.
      beginnings: windows are those at the beginnings of songs, not anywhere.

    Returns:
      Batches of those rows, with
        `frames`: [B, T, width], int32 codes, or values as they are stored, see `codecs.info.Frames`; 0 as padding;
        `num_frames`: int32 [B], how many frames of the song are in the window, at most T;
        `song_ends`: bool [B], whether the end of the song is in it, too, at frame `num_frames`;
        `sources`: for each source what its `SourceSpec.layout` says: `length` int32 [B], 0 if the song has none, and
          its arrays [B, L, ...]; 0 as padding.

    Raises:
      UserError: a source that records do not hold, a batch of no rows, or a seed out of range.
    """
    import grain

    if not 0 <= seed < 2**32:
        raise UserError(f"the seed is {seed}, expected 0 to {2**32 - 1}")
    rows = _rows(batch_size, rows)
    windows = _Windows(dataset, frames, sources, end_of_song, seed, beginnings)
    # As good as without end, whose length would not fit an integer in batches of one.
    stream = grain.MapDataset.range(len(dataset)).shuffle(seed=seed).repeat(2**31)
    # Global batches of song numbers, which cost nothing; then only this host's songs are read.
    batches = stream.map_with_index(lambda example, song: (example, song)).batch(batch_size, batch_fn=list)
    return batches.map(lambda examples: windows.batch([examples[row] for row in rows]))


def eval_batches(dataset: SongDataset, *, batch_size: int, frames: int, sources: Mapping[str, Any], end_of_song: bool,
                 rows: Sequence[int] | None = None, beginnings: bool = False) -> "grain.MapDataset[Batch]":
    """Batches for evaluation: every song once, in order, always with the same window; otherwise as `train_batches`.

    With `beginnings`, that is the one at the song's beginning. The last batch is filled up with songs of `num_frames`
    0, without any source.
    """
    import grain

    rows = _rows(batch_size, rows)
    windows = _Windows(dataset, frames, sources, end_of_song, seed=0, beginnings=beginnings)
    examples = grain.MapDataset.range(-(-len(dataset) // batch_size) * batch_size)
    batches = examples.batch(batch_size, batch_fn=list)
    return batches.map(lambda songs: windows.batch([
        (songs[row], songs[row] if songs[row] < len(dataset) else None) for row in rows]))


class WholeSongs:
    """Batches of every frame of songs once, in windows as training has them, which follow one another from a song's
    beginning. The last window of a song is what is left, with the song's end; where it is full, the end is in none.

    Args:
      batch_size, frames, sources, end_of_song: as of `train_batches`.
      beginnings: of each song the first window alone.
    """

    def __init__(self, dataset: SongDataset, *, batch_size: int, frames: int, sources: Mapping[str, Any],
                 end_of_song: bool, beginnings: bool = False):
        self._dataset, self._frames, self._beginnings, self._size = dataset, frames, beginnings, batch_size
        self._windows = _Windows(dataset, frames, sources, end_of_song, seed=0)

    def batches(self, songs: Sequence[int]) -> Iterator[tuple[list[tuple[int, int]], Batch]]:
        """(song, window of it) of each row, and the batch, filled up with rows of `num_frames` 0; of songs by number.
        """
        records = {song: self._dataset[song] for song in songs}
        rows = [(song, window) for song, record in records.items()
                for window in range(1 if self._beginnings else max(-(-len(record["frames"]) // self._frames), 1))]
        for first in range(0, len(rows), self._size):
            some = rows[first:first + self._size]
            examples = [(song, records[song], window * self._frames) for song, window in some]
            yield some, self._windows.whole(examples, self._size)


def iterate(batches: "grain.MapDataset[Batch]", start_step: int = 0, *, threads: int = 4,
            prefetch: int = 8) -> Iterator[Batch]:
    """`batches[start_step]` and what follows, read ahead by threads; at most `prefetch` batches wait in memory."""
    import grain

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    return iter(batches[start_step:].to_iter_dataset(options))


def batch_layout(length: int, frames: Frames, specs: Mapping[str, SourceSpec]) -> dict[str, Any]:
    """Shapes and dtypes of a batch, see `train_batches`, as a tree of `ArraySpec`: without the axis B.

    Args:
      length: T.
      frames: of the codec.
      specs: the sources by name.
    """
    return {"frames": ArraySpec((length, frames.width), frames.batch_dtype), "num_frames": ArraySpec((), np.int32),
            "song_ends": ArraySpec((), np.bool_), "sources": {name: spec.layout() for name, spec in specs.items()}}


class _Windows:
    """Cuts one window out of each song and brings its sources to fixed lengths."""

    def __init__(self, dataset: SongDataset, frames: int, sources: Mapping[str, Any], end_of_song: bool, seed: int,
                 beginnings: bool = False):
        self._specs = source_specs(sources, dataset.text, dataset.codec)
        for source, spec in self._specs.items():
            if not spec.features().keys() <= dataset.features.keys():
                raise UserError(f"the songs in {dataset.path} hold nothing for the source {source!r}: export them "
                                f"again with --sources={','.join([*IN_RECORDS, sources[source].kind])}")
        self._dataset, self._frames, self._end, self._seed = dataset, frames, int(end_of_song), seed
        self._beginnings = beginnings
        self._layout = batch_layout(frames, dataset.codec.frames, self._specs)
        self._cut_sources = set()

    def batch(self, examples: Sequence[tuple[int, int | None]]) -> Batch:
        """Windows of (number in the stream, number of the song) each; a song None is only padding."""
        # Every song is written into place once, and memory that padding alone would touch is not touched at all: a
        # batch with the states of a frozen encoder has hundreds of megabytes.
        batch = _zeros(self._layout, len(examples))
        for row, (example, song) in enumerate(examples):
            if song is not None:
                self._cut(batch, row, example, self._dataset[song])
        return batch

    def whole(self, examples: Sequence[tuple[int, Mapping[str, Any], int]], size: int) -> Batch:
        """A batch of `size` of windows of (number in the stream, record, first frame) each, and of padding."""
        batch = _zeros(self._layout, size)
        for row, (example, record, start) in enumerate(examples):
            self._cut(batch, row, example, record, start)
        return batch

    def _cut(self, batch: Batch, row: int, example: int, record: Mapping[str, Any], start: int | None = None) -> None:
        song_frames = len(record["frames"]) + self._end
        generator = np.random.Generator(np.random.Philox(key=[self._seed, example]))
        if start is None:
            latest = 0 if self._beginnings else max(song_frames - self._frames, 0)
            start = int(generator.integers(latest, endpoint=True))
        window = record["frames"][start : start + self._frames]
        batch["frames"][row, : len(window)] = window
        batch["num_frames"][row] = len(window)
        batch["song_ends"][row] = len(window) < min(song_frames - start, self._frames)
        rate = self._dataset.frame_rate
        span = Span(start / rate, (start + len(window)) / rate, generator)
        for source, spec in self._specs.items():
            arrays = spec.cut(record, span)
            length, max_length = len(next(iter(arrays.values()))), spec.max_length
            if length > max_length and source not in self._cut_sources:
                self._cut_sources.add(source)
                log.warning("the %s of song %r has length %d and is cut to %d; so is any other %s longer than that: "
                            "raise the config's length to keep them whole", source, record["id"], length, max_length,
                            source)
            for name, array in arrays.items():
                batch["sources"][source][name][row, :length] = array[:max_length]
            batch["sources"][source]["length"][row] = min(length, max_length)


def _zeros(layout: Any, size: int) -> Any:
    """Arrays of zeros, in a tree like that of the layout."""
    if isinstance(layout, ArraySpec):
        return np.zeros((size, *layout.shape), layout.dtype)
    return {name: _zeros(part, size) for name, part in layout.items()}


def _rows(batch_size: int, rows: Sequence[int] | None) -> Sequence[int]:
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}, expected at least 1")
    return range(batch_size) if rows is None else rows
