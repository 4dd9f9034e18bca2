"""From songs to a dataset: the stages of an export, each of which picks up what an earlier start finished.

find songs -> digest their files -> check their audio -> split -> make the codec -> encode -> write and install

The dataset depends on the songs and the options alone: not on the number of workers, on the order in which they finish,
or on how often the export was stopped and started again.
"""

import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from autosong_jax.audio import io
from autosong_jax.cli import progress
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.data import schema
from autosong_jax.errors import UserError
from autosong_jax.sources.spec import IN_RECORDS, STORABLE, recordings_of
from autosong_jax.weights import files
from data_prep import beam, codecs, output, report, splits, tasks, texts
from data_prep.records import Job, Recorder
from data_prep.songs import LeftOut, Song, find_songs
from data_prep.work import Results, WorkDirectory, digest, location
from data_prep.workers import WorkerDied, Workers

_FIT_SONGS = 100  # a codec is fitted to at most so many songs
_QUALITY_SONGS, _QUALITY_SECONDS = 4, 10.0  # what the codec's quality is measured on
_SHARDS = 99_999  # files have numbers of five digits
_WORKERS_A_CORE = 8  # more would be no faster and take the memory
_OFF = 0.1  # seconds by which a recording may be longer or shorter than its song without a word
_KILLED = "the process that read it was killed (not enough memory?)"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to export and how; the flags of `data_prep.export` say what each one is."""

    input: str
    output: str
    codec: str = "melrvq"
    codec_backend: str = codecs.BACKENDS[0]
    bandwidth: float | None = None
    text_encoder: str = "bytes"
    text_states: str = "stored"
    sources: tuple[str, ...] = IN_RECORDS
    validation_fraction: float = 0.05
    test_fraction: float = 0.0
    shards: int | None = None
    max_minutes: float = 30.0
    require_lyrics: bool = True
    runner: str = "local"
    beam_options: tuple[str, ...] = ()
    workers: int = 1
    strict: bool = False
    overwrite: bool = False

    def __post_init__(self):
        most = _WORKERS_A_CORE * (os.cpu_count() or 1)
        numbers = {"bandwidth": (0, 1e6), "max_minutes": (0, 1e4), "shards": (1, _SHARDS), "workers": (1, most)}
        for name, (least, largest) in numbers.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= largest:  # which NaN is not either
                raise UserError(f"--{name}={value:g}: expected {least} to {largest:g}")
        if not (0 <= self.validation_fraction < 1 and 0 <= self.test_fraction < 1
                and self.validation_fraction + self.test_fraction < 1):
            raise UserError(f"--validation_fraction={self.validation_fraction:g} and --test_fraction="
                            f"{self.test_fraction:g} must not be negative and must leave songs to train on")
        if not set(IN_RECORDS) <= set(self.sources) <= set(STORABLE):
            raise UserError(f"--sources={','.join(self.sources)}: expected {','.join(IN_RECORDS)} and what else is "
                            f"wanted of {','.join(STORABLE)}")
        if self.beam_options and self.runner != "beam":
            raise UserError(f"{beam.FLAG}={' '.join(self.beam_options)} is for --runner=beam, but --runner is "
                            f"{self.runner}: leave it out, or give --runner=beam")

    def that_decide(self) -> dict:
        """The options that the dataset depends on; where songs and models lie is not among them, what they hold is."""
        values = dataclasses.asdict(self)
        for name in ("input", "output", "runner", "beam_options", "workers", "strict", "overwrite"):
            del values[name]
        if self.codec_backend == codecs.BACKENDS[0]:  # as in datasets made before there was a choice
            del values["codec_backend"]
        if set(self.sources) == set(IN_RECORDS):
            del values["sources"]
        return values | {"codec": codecs.made_from(self.codec), "text_encoder": texts.made_from(self.text_encoder)}


@dataclasses.dataclass
class Item:
    """A song on its way through the stages, each of which fills in more."""

    song: Song
    digests: dict[str, str]  # of its files: "audio", and other recordings by name
    seconds: float = 0.0
    notes: list[str] = dataclasses.field(default_factory=list)  # what was unusual about it and how it was handled
    silent: set[str] = dataclasses.field(default_factory=set)  # those of its files that nothing is heard of
    group: str = ""
    split: str = ""
    record: pathlib.Path | None = None  # its record as serialised, in the work directory

    def made_from(self) -> list[str]:
        """JSON of all that the user gave: texts, and what files hold."""
        return [*(value for value in dataclasses.astuple(self.song) if isinstance(value, str)), *self.digests.values()]


def export(options: Options) -> tuple[dict, report.Speed | None]:
    """Makes the dataset `options.output`, unless it is there already.

    Returns:
      What `report.json` holds, and how fast this start was; None if there was nothing to do.

    Raises:
      UserError: an option is wrong, no song can be used, one cannot and `strict` is set, or the output holds something
        else.
    """
    target = output.check(options.output, options.input)
    with _workers(options, target) as workers:
        recordings = recordings_of(options.sources)
        songs, left_out = find_songs(options.input, require_lyrics=options.require_lyrics, recordings=recordings)
        items = _digest_files(songs, left_out, workers, options.max_minutes, recordings)
        decided = options.that_decide()
        fingerprint = digest(decided, [item.made_from() for item in items],
                             [dataclasses.astuple(song) for song in left_out])
        finished = output.finished_report(target, fingerprint, overwrite=options.overwrite)
        if finished:
            return finished, None
        encoder = texts.get_text_encoder(options.text_encoder, options.text_states)
        source = codecs.get_codec(options.codec, options.bandwidth, options.codec_backend)
        work = WorkDirectory(target)
        run = _Run(source, encoder, work, workers, left_out)
        items = run.check(items, options.max_minutes)
        _refuse(items, left_out, options, target)
        _split(items, options)
        codec, directory = run.make_codec(items)
        recorder = Recorder(Results(work.path), directory, encoder.info, run.save_text_encoder(decided["text_encoder"]),
                            options.sources)
        items, speed = run.encode(items, codec, recorder)
        _refuse([item for item in items if item.split == "train"], left_out, options, target)
        made_with = {"fingerprint": fingerprint, "options": decided, **run.encoders(items, codec, directory)}
        finished = report.build(items, left_out, made_with)
        features = schema.song_features(codec.info, encoder.info, options.sources)
        output.write(target, work, workers, items, features, recorder, finished, options.shards)
    return finished, speed


def _workers(options: Options, target: pathlib.Path) -> Workers | beam.BeamWorkers:
    if options.runner == "local":
        return Workers(options.workers)
    return beam.BeamWorkers(options.workers, options.beam_options, location(target))


def _digest_files(songs: list[Song], left_out: list[LeftOut], workers: Workers | beam.BeamWorkers,
                  max_minutes: float, recordings: Sequence[str]) -> list[Item]:
    """Digests of the files of songs and their other recordings; songs without are added to `left_out`."""
    names = ("audio", *recordings)
    paths = list(dict.fromkeys(getattr(song, name).absolute() for song in songs for name in names))
    function = functools.partial(tasks.file_digest, max_minutes=max_minutes)
    digests = dict(progress(workers.map_reading(function, paths), total=len(paths), desc="finding", unit="song"))
    items = []
    for song in songs:
        results = {name: digests[getattr(song, name).absolute()] for name in names}
        reasons = [_KILLED if isinstance(result, WorkerDied) else f"its {name} file {result[1]}"
                   for name, result in results.items() if isinstance(result, WorkerDied) or not result[0]]
        if reasons:
            left_out.append(LeftOut(song.id, reasons[0]))
        else:
            items.append(Item(song, {name: found for name, (found, _) in results.items()}))
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
    groups = {item.song.id: item.song.group for item in items}
    for name in ("audio", *recordings_of(options.sources)):
        # One silence is like another.
        digests = {item.song.id: item.song.id if name in item.silent else item.digests[name] for item in items}
        groups = splits.join_same_audio(groups, digests)
        first: dict[str, str] = {}
        for item in items:
            same = first.setdefault(digests[item.song.id], item.song.id)
            if same != item.song.id:
                item.notes.append(f"the same {name} as {same}, so kept in the same split")
    split_of = splits.assign_splits(groups, options.validation_fraction, options.test_fraction)
    for item in items:
        item.group, item.split = groups[item.song.id], split_of[item.song.id]


def _unusable(checks: Mapping[str, tasks.Check]) -> str:
    """Why a song whose files by name turned out so is left out; "" if it is not."""
    reasons = {name: check.reason for name, check in checks.items() if check.reason}
    if "audio" in reasons:
        return reasons["audio"]
    return next((f"its {name}: {reason}" for name, reason in reasons.items() if reason != tasks.SILENT), "")


def _notes(name: str, check: tasks.Check, seconds: float) -> list[str]:
    """What is noted of a file by name of a song of so many seconds."""
    if name == "audio":
        return list(check.notes)
    notes = [f"its {name}: {note}" for note in check.notes]
    if abs(check.seconds - seconds) > _OFF:
        what = "is cut" if check.seconds > seconds else "is followed by silence"
        notes.append(f"its {name} lasts {check.seconds:.2f} s, the song {seconds:.2f} s: it {what}")
    if check.reason == tasks.SILENT:
        notes.append(f"its {name} is silent")
    return notes


def _encoded(codec, recordings: Iterable[np.ndarray]) -> list[np.ndarray]:
    return [codec.encode(audio) for audio in recordings]


class _Run:
    """The stages that read audio. They add to `left_out` what turns out to be unusable."""

    def __init__(self, source: codecs.CodecSource, encoder, work: WorkDirectory, workers: Workers | beam.BeamWorkers,
                 left_out: list[LeftOut]):
        self.source, self.encoder, self.work, self.workers, self.left_out = source, encoder, work, workers, left_out

    def _files(self, item: Item, **how) -> dict[str, tasks.AudioFile]:
        """Its files by name, as `Item.digests` has them."""
        return {name: tasks.AudioFile(item.song.id, getattr(item.song, name).absolute(), self.source.sample_rate,
                                      self.source.channels, **how) for name in item.digests}

    def _map(self, function: Callable[[Any], Any], songs: Collection[Any], doing: str) -> Iterable[tuple[Any, Any]]:
        """(song, function(song)) for each song, in any order, done by the workers under a progress bar."""
        return progress(self.workers.map(function, songs), show=bool(songs), total=len(songs), desc=doing, unit="song")

    def check(self, items: list[Item], max_minutes: float) -> list[Item]:
        """The items whose audio can be used, with `seconds` and `notes` filled in."""
        wanted = [self.source.sample_rate, self.source.channels, max_minutes]
        keys = {file: digest(*wanted, item.digests[name])
                for item in items for name, file in self._files(item).items()}
        earlier = self.work.keys("checks")
        todo = [(file, key) for file, key in keys.items() if key not in earlier]
        checks = {}
        function = functools.partial(tasks.keep_check, max_minutes=max_minutes, results=Results(self.work.path))
        for (file, _), result in self._map(function, todo, "checking"):
            # A death is not kept: there may be more memory next time.
            checks[file] = {"reason": _KILLED} if isinstance(result, WorkerDied) else result
        usable = []
        for item in items:
            found = {name: tasks.Check(**checks[file]) if file in checks else (
                self.work.read_json("checks", keys[file], tasks.Check)) for name, file in self._files(item).items()}
            if reason := _unusable(found):
                self.left_out.append(LeftOut(item.song.id, reason))
            else:
                item.seconds = found["audio"].seconds
                item.notes += [note for name, check in found.items() for note in _notes(name, check, item.seconds)]
                item.silent = {name for name, check in found.items() if check.reason == tasks.SILENT}
                usable.append(item)
        return usable

    def make_codec(self, items: list[Item]):
        """The codec, fitted to training songs if it is of that kind, and the directory it is saved in."""
        chosen = self._sample(items, ("train",), _FIT_SONGS) if self.source.wants_songs else []
        key = digest(self.source.made_from(), [item.digests["audio"] for item in chosen])

        def make(path: pathlib.Path) -> None:
            songs = (self._read(item) for item in chosen)
            self.source.make(progress(songs, show=bool(chosen), total=len(chosen), desc="fitting", unit="song"), path)

        directory = self.work.directory("codec", key, make)
        return self.source.load(directory), directory

    def save_text_encoder(self, made_from: str) -> pathlib.Path | None:
        """The directory that the text encoder is saved in, if it is a frozen one."""
        if not self.encoder.info.frozen:
            return None
        key = digest(made_from, dataclasses.asdict(self.encoder.info))
        return self.work.directory("text_encoder", key, self.encoder.save)

    def encode(self, items: list[Item], codec, recorder: Recorder) -> tuple[list[Item], report.Speed]:
        """The items whose records are made, with `record` and further `notes` filled in."""
        start = time.monotonic()
        saved = filter(None, (recorder.codec, recorder.text_directory))
        made_with = [*map(files.digest, saved), dataclasses.asdict(self.encoder.info),
                     *(kind for kind in recorder.sources if kind not in IN_RECORDS)]
        earlier = self.work.keys("records")
        todo, notes = [], {}
        for item in items:
            key = digest(*made_with, item.made_from(), item.group)
            item.record = self.work.file("records", key)
            if key in earlier:
                notes[item.song.id] = self.work.read_json("notes", key, list[str])
            else:
                samples = round(item.seconds * self.source.sample_rate)
                todo.append(Job(item.song, tuple(self._files(item, samples=samples).values()), item.group, key))
        for job, result in self._make_records(todo, codec, recorder):
            if isinstance(result, WorkerDied):
                result = {"reason": _KILLED}
            if "reason" in result:  # it could be read when it was checked
                self.left_out.append(LeftOut(job.song.id, result["reason"]))
            else:
                notes[job.song.id] = result["notes"]
        done = [item for item in items if item.song.id in notes]
        for item in done:
            item.notes += notes[item.song.id]
        jobs = {job.song.id for job in todo}
        encoded = [item for item in done if item.song.id in jobs]
        return done, report.Speed(len(encoded), len(done) - len(encoded), sum(item.seconds for item in encoded),
                                  time.monotonic() - start)

    def _make_records(self, jobs: list[Job], codec, recorder: Recorder) -> Iterator[tuple[Job, dict | WorkerDied]]:
        """(job, what `Recorder.make` returns) for each job, in any order."""
        if self.workers.remote or (self.source.in_workers and texts.in_workers(self.encoder)):
            yield from self._map(recorder.make, jobs, "encoding")
            return
        # A GPU belongs to this process alone, which does what is to be done there and all that comes after.
        function = recorder.frames if self.source.in_workers else recorder.audio
        for job, result in self._map(function, jobs, "encoding"):
            if isinstance(result, list) and not self.source.in_workers:
                result = tasks.attempt(functools.partial(_encoded, codec, result))
            if isinstance(result, list):
                yield job, recorder.write(job, result, codec, self.encoder)
            else:
                yield job, result if isinstance(result, WorkerDied) else {"reason": result}

    def encoders(self, items: list[Item], codec, directory: pathlib.Path) -> dict:
        """For the report: what the codec and the text encoder are, and how well the codec does on a few songs."""
        held_out = any(item.split == "validation" for item in items)
        measured = self._sample(items, ("validation",) if held_out else splits.SPLITS, _QUALITY_SONGS)
        quality = codec.quality(self._excerpt(item) for item in measured)
        quality |= {"songs": len(measured), "held_out": held_out}
        return {"codec": CodecInfo.load(directory).contents() | {"quality": quality},
                "text_encoder": dataclasses.asdict(self.encoder.info)}

    def _sample(self, items: Iterable[Item], wanted: Iterable[str], count: int) -> list[Item]:
        """At most `count` items of these splits, drawn by their digests."""
        return sorted((item for item in items if item.split in wanted), key=lambda item: item.digests["audio"])[:count]

    def _read(self, item: Item) -> np.ndarray:
        return io.read(item.song.audio, self.source.sample_rate, self.source.channels)[0]

    def _excerpt(self, item: Item) -> np.ndarray:
        """The middle of a song."""
        audio, length = self._read(item), round(_QUALITY_SECONDS * self.source.sample_rate)
        start = max(0, (audio.shape[1] - length) // 2)
        return audio[:, start:start + length]

