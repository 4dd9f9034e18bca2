"""From songs to a dataset: the stages of an export, each of which picks up what an earlier start finished.

find songs -> digest their files -> check their audio -> split -> make the codec -> encode -> write and install

The dataset depends on the songs and the options alone: not on the number of workers, on the order in which they finish,
or on how often the export was stopped and started again.
"""

import concurrent.futures
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np

from autosong_jax.audio import io
from autosong_jax.cli import progress
from autosong_jax.data import schema
from autosong_jax.errors import UserError
from autosong_jax.pretrained import files
from data_prep import codecs, output, report, splits, tasks, texts
from data_prep.songs import LeftOut, Song, find_songs
from data_prep.work import WorkDirectory, digest
from data_prep.workers import WorkerDied, Workers

_FIT_SONGS = 100  # a codec is fitted to at most so many songs
_QUALITY_SONGS, _QUALITY_SECONDS = 4, 10.0  # what the codec's quality is measured on
_KILLED = "the process that read it was killed (not enough memory?)"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to export and how; the flags of `data_prep.export` say what each one is."""

    input: str
    output: str
    codec: str = "melrvq"
    bandwidth: float | None = None
    text_encoder: str = "bytes"
    text_states: str = "stored"
    validation_fraction: float = 0.05
    test_fraction: float = 0.0
    shards: int | None = None
    max_minutes: float = 30.0
    require_lyrics: bool = True
    workers: int = 1
    strict: bool = False
    overwrite: bool = False

    def __post_init__(self):
        if not (0 <= self.validation_fraction < 1 and 0 <= self.test_fraction < 1
                and self.validation_fraction + self.test_fraction < 1):
            raise UserError(f"--validation_fraction={self.validation_fraction:g} and --test_fraction="
                            f"{self.test_fraction:g} must not be negative and must leave songs to train on")

    def that_decide(self) -> dict:
        """The options that the dataset depends on; where songs and models lie is not among them, what they hold is."""
        values = dataclasses.asdict(self)
        for name in ("input", "output", "workers", "strict", "overwrite"):
            del values[name]
        return values | {"codec": codecs.made_from(self.codec), "text_encoder": texts.made_from(self.text_encoder)}


@dataclasses.dataclass
class Item:
    """A song on its way through the stages, each of which fills in more."""

    song: Song
    digest: str  # of the audio file
    seconds: float = 0.0
    notes: list[str] = dataclasses.field(default_factory=list)  # what was unusual about it and how it was handled
    group: str = ""
    split: str = ""
    record: pathlib.Path | None = None  # its record as serialised, in the work directory

    def made_from(self) -> list[str]:
        """JSON of all that the user gave."""
        return [*(value for key, value in dataclasses.asdict(self.song).items() if key != "audio"), self.digest]


def export(options: Options) -> tuple[dict, report.Speed | None]:
    """Makes the dataset `options.output`, unless it is there already.

    Returns:
      What `report.json` holds, and how fast this start was; None if there was nothing to do.

    Raises:
      UserError: an option is wrong, no song can be used, one cannot and `strict` is set, or the output holds something
        else.
    """
    target = output.check(options.output, options.input)
    songs, left_out = find_songs(options.input, require_lyrics=options.require_lyrics)
    items = _digest_files(songs, left_out)
    decided = options.that_decide()
    fingerprint = digest(decided, [item.made_from() for item in items],
                         [dataclasses.astuple(song) for song in left_out])
    finished = output.finished_report(target, fingerprint, overwrite=options.overwrite)
    if finished:
        return finished, None
    encoder = texts.get_text_encoder(options.text_encoder, options.text_states)
    source = codecs.get_codec(options.codec, options.bandwidth)
    work = WorkDirectory(target)
    with Workers(options.workers) as workers:
        run = _Run(source, encoder, work, workers, left_out)
        items = run.check(items, options.max_minutes)
        _refuse(items, left_out, options, target)
        _split(items, options)
        codec, directory = run.make_codec(items)
        items, speed = run.encode(items, codec, directory)
        _refuse([item for item in items if item.split == "train"], left_out, options, target)
    facts = {"fingerprint": fingerprint, "options": decided, **run.facts(items, codec, directory)}
    finished = report.build(items, left_out, facts)
    features = schema.song_features(codec.num_codebooks, encoder.info)
    output.write(target, work, items, features, encoder, directory, finished, options.shards)
    return finished, speed


def _digest_files(songs: list[Song], left_out: list[LeftOut]) -> list[Item]:
    """Digests of the audio files; songs without are added to `left_out`."""

    def of_file(song: Song) -> str | None:
        try:
            return files.file_digest(song.audio) if song.audio.is_file() else None
        except OSError:
            return None

    items = []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        results = progress(pool.map(of_file, songs), total=len(songs), desc="finding", unit="song")
        for song, result in zip(songs, results, strict=True):
            if result:
                items.append(Item(song, result))
            else:
                left_out.append(LeftOut(song.id, f"its audio file {song.audio.name} is missing or cannot be opened"))
    return items


def _refuse(trainable: list[Item], left_out: list[LeftOut], options: Options, target: pathlib.Path) -> None:
    """Raises UserError, and leaves a report, where no song is left to train on or `strict` forbids to leave any out."""
    if trainable and not (options.strict and left_out):
        return
    output.write_report(target, report.build(trainable, left_out, {}))
    reasons = "; ".join(f"{song.song}: {song.reason}" for song in left_out[:3])
    what = f"--strict is set and {len(left_out)} cannot be used" if trainable else "none can be used"
    raise UserError(f"of the songs in --input={options.input} {what}: {reasons or 'it holds none'}"
                    f"{'; ...' if len(left_out) > 3 else ''}; {target / report.FILE} names all")


def _split(items: list[Item], options: Options) -> None:
    """Fills in groups and splits."""
    groups = splits.join_same_audio({item.song.id: item.song.group for item in items},
                                    {item.song.id: item.digest for item in items})
    split_of = splits.assign_splits(groups, options.validation_fraction, options.test_fraction)
    first: dict[str, str] = {}
    for item in items:
        item.group, item.split = groups[item.song.id], split_of[item.song.id]
        if first.setdefault(item.digest, item.song.id) != item.song.id:
            item.notes.append(f"the same audio as {first[item.digest]}, so kept in the same split")


class _Run:
    """The stages that read audio. They add to `left_out` what turns out to be unusable."""

    def __init__(self, source: codecs.CodecSource, encoder, work: WorkDirectory, workers: Workers,
                 left_out: list[LeftOut]):
        self.source, self.encoder, self.work, self.workers, self.left_out = source, encoder, work, workers, left_out

    def _file(self, item: Item) -> tasks.AudioFile:
        return tasks.AudioFile(item.song.id, item.song.audio, self.source.sample_rate, self.source.channels)

    def _map(self, function: Callable[[tasks.AudioFile], Any], files: Collection[tasks.AudioFile], doing: str):
        """(file, function(file)) for each file, in any order, done by the workers under a progress bar."""
        return progress(self.workers.map(function, files), show=bool(files), total=len(files), desc=doing, unit="song")

    def check(self, items: list[Item], max_minutes: float) -> list[Item]:
        """The items whose audio can be used, with `seconds` and `notes` filled in."""
        wanted = [self.source.sample_rate, self.source.channels, max_minutes]
        keys = {self._file(item): digest(*wanted, item.digest) for item in items}
        todo = [file for file, key in keys.items() if not self.work.read("checks", key)]
        checks = {}
        function = functools.partial(tasks.check, max_minutes=max_minutes)
        for file, result in self._map(function, todo, "checking"):
            if isinstance(result, WorkerDied):  # not kept: there may be more memory next time
                checks[file] = tasks.Check(reason=_KILLED)
            else:
                self.work.write("checks", keys[file], json.dumps(dataclasses.asdict(result)).encode())
        usable = []
        for item in items:
            file = self._file(item)
            check = checks.get(file) or tasks.Check(**json.loads(self.work.read("checks", keys[file])))
            if check.reason:
                self.left_out.append(LeftOut(item.song.id, check.reason))
            else:
                item.seconds, item.notes = check.seconds, [*item.notes, *check.notes]
                usable.append(item)
        return usable

    def make_codec(self, items: list[Item]):
        """The codec, fitted to training songs if it is of that kind, and the directory it is saved in."""
        chosen = self._sample(items, ("train",), _FIT_SONGS) if self.source.wants_songs else []
        key = digest(self.source.made_from(), [item.digest for item in chosen])

        def make(path: pathlib.Path) -> None:
            songs = (self._read(item) for item in chosen)
            self.source.make(progress(songs, show=bool(chosen), total=len(chosen), desc="fitting", unit="song"), path)

        directory = self.work.directory("codec", key, make)
        return self.source.load(directory), directory

    def encode(self, items: list[Item], codec, directory: pathlib.Path) -> tuple[list[Item], report.Speed]:
        """The items whose records are made, with `record` and further `notes` filled in."""
        start = time.monotonic()
        made_with = [files.digest(str(directory)), dataclasses.asdict(self.encoder.info)]
        todo = {}
        for item in items:
            item.record = self.work.file("records", digest(*made_with, item.made_from(), item.group))
            if not item.record.exists():
                todo[self._file(item)] = item
        function = functools.partial(tasks.encode, codec_directory=directory) if self.source.in_workers else tasks.read
        failed = set()
        for file, result in self._map(function, todo, "encoding"):
            item = todo[file]
            if isinstance(result, np.ndarray):
                self._write_record(item, codec, result if self.source.in_workers else codec.encode(result))
            else:  # it could be read when it was checked
                failed.add(item.song.id)
                self.left_out.append(LeftOut(item.song.id, _KILLED if isinstance(result, WorkerDied) else result))
        done = [item for item in items if item.song.id not in failed]
        for item in done:
            item.notes += json.loads(self.work.read("notes", item.record.name))
        encoded = [item for item in todo.values() if item.song.id not in failed]
        return done, report.Speed(len(encoded), len(done) - len(encoded), sum(item.seconds for item in encoded),
                                  time.monotonic() - start)

    def _write_record(self, item: Item, codec, codes: np.ndarray) -> None:
        song, text = item.song, self.encoder.info
        arrays, notes = texts.encode(self.encoder, song)
        record = {"id": song.id, "group": item.group, "codes": codes, "frame_rate": codec.frame_rate,
                  "lyrics": song.lyrics, "genre": song.genre, "description": song.description,
                  "text_encoder": text.name, "text_encoder_revision": text.revision, **arrays}
        self.work.write("notes", item.record.name, json.dumps(notes).encode())
        self.work.write("records", item.record.name,
                        schema.serialize(schema.song_features(codec.num_codebooks, text), record))

    def facts(self, items: list[Item], codec, directory: pathlib.Path) -> dict:
        """For the report: what the codec and the text encoder are, and how well the codec does on a few songs."""
        held_out = any(item.split == "validation" for item in items)
        measured = self._sample(items, ("validation",) if held_out else splits.SPLITS, _QUALITY_SONGS)
        quality = codec.quality(self._excerpt(item) for item in measured)
        description = json.loads((directory / "codec.json").read_text(encoding="utf-8"))
        return {"codec": description | {"quality": quality | {"songs": len(measured), "held_out": held_out}},
                "text_encoder": dataclasses.asdict(self.encoder.info)}

    def _sample(self, items: Iterable[Item], wanted: Iterable[str], count: int) -> list[Item]:
        """At most `count` items of these splits, drawn by their digests."""
        return sorted((item for item in items if item.split in wanted), key=lambda item: item.digest)[:count]

    def _read(self, item: Item) -> np.ndarray:
        return io.read(item.song.audio, self.source.sample_rate, self.source.channels)[0]

    def _excerpt(self, item: Item) -> np.ndarray:
        """The middle of a song."""
        audio, length = self._read(item), round(_QUALITY_SECONDS * self.source.sample_rate)
        start = max(0, (audio.shape[1] - length) // 2)
        return audio[:, start:start + length]

