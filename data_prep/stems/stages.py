"""The way of one recording: what each stage makes of it, what it is called, and what is to be done next.

    loaded    a file of the recording as a track at the separator's rate, with what was measured on the way
    pieces    what the separator makes of it, unless there are stems
    mixed     lead and backing, of one loudness, as a track at the songs' rate
    windows   where the lead plays
    songs     a clip and its copies, as folders

Each result is named by all that it is made from, so the work directory alone says what is done. Everything is read and
written block by block.
"""

import dataclasses
import functools
import io
import itertools
import json
import math
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

import numpy as np

from autosong_jax.audio import io as audio_io
from autosong_jax.audio.loudness import Meter, gain
from data_prep import tasks
from data_prep.stems.copies import copies, copy_names
from data_prep.stems.options import Options
from data_prep.stems.recordings import MIX, LeftOut, Recording
from data_prep.stems.separation import CHANNELS, SAMPLE_RATE, Layout, separator
from data_prep.stems.tracks import BLOCK, Track, TrackWriter, resampled
from data_prep.stems.windows import cut, find_windows
from data_prep.work import Results, digest

_QUIETEST = -70.0  # LUFS: the absolute gate; quieter audio has no loudness
_NOTICED = 0.05  # LU
_UNEVEN = 1.0  # seconds by which stems may differ in length without a word
_EPSILON = 1e-8  # as in demucs.api
_NAME_BYTES = 100  # of a recording's name in the names of its songs
_HEARD, _TRACK = "heard.json", "track.f32"


@dataclasses.dataclass(frozen=True)
class SeparatorInfo:
    """What is to be known of a separator without loading it."""

    stems: tuple[str, ...]
    layout: Layout


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Of a file's audio as loaded: its loudness in LUFS, its largest sample, and mean and standard deviation of its
    channels' mean. Or `reason`, why it cannot be used."""

    loudness: float = _QUIETEST
    peak: float = 0.0
    mean: float = 0.0
    std: float = 0.0
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Of lead and backing as one track: the recording's loudness as it came, and by what the track is to be
    multiplied."""

    loudness: float
    gain: float
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Found:
    """All that is told of a recording: its length in samples of the songs' rate, its loudness as it came, notes, and
    the windows, in samples."""

    samples: int
    loudness: float
    notes: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]

    def is_whole(self) -> bool:
        """Whether the one window is the whole recording."""
        return self.spans == ((0, self.samples),)


@dataclasses.dataclass(frozen=True)
class Job:
    """A piece of work: the result of that kind and number, of a recording."""

    kind: str
    recording: Recording
    index: int = 0


class Refused(Exception):
    """The recording is to be left out; the message is the reason."""


class Stages:
    """The stages of a recording, some of which are done.

    Args:
      recording: with its group and content.
      options: those of the command.
      results: what is done, among it what is known of the separator.
      target: the output, in which finished songs may be already.

    Attributes:
      key: of all that the songs are made from.
      refusal_key: of all that decides whether there are any.
    """

    def __init__(self, recording: Recording, options: Options, results: Results, target: pathlib.Path):
        self.recording, self.options, self.results, self.target = recording, options, results, target
        o = options
        self.is_mix = recording.files[0][0] == MIX
        separated = [recording.content, *([o.separator, o.segment, o.overlap] if self.is_mix else [])]
        self._loaded = [digest("loaded", recording.content, stem, o.max_minutes) for stem, _ in recording.files]
        self._pieces = f"pieces/{digest('pieces', separated)}"
        self._mixed = digest("mixed", separated, sorted(o.lead), o.loudness, o.peak, o.sample_rate, o.channels)
        self._windows = digest("windows", self._mixed, o.rms_frame, o.rms_stride, o.rms_threshold, o.min_seconds,
                               o.max_seconds)
        texts = [recording.lyrics, recording.genre, recording.description, recording.group]
        self.key = digest("songs", self._windows, o.pitch, o.tempo, o.n_fft, o.hop, recording.name, texts)
        self.refusal_key = digest("refused", self.key, o.max_minutes)

    @staticmethod
    def separator_key(options: Options) -> str:
        """What `SeparatorInfo` is kept by."""
        return digest("separators", options.separator, options.segment, options.overlap)

    @classmethod
    def read_separator(cls, options: Options, results: Results) -> SeparatorInfo:
        """What is known of the separator."""
        return results.read_json("separators", cls.separator_key(options), SeparatorInfo)

    @functools.cached_property
    def info(self) -> SeparatorInfo:
        """Of the separator."""
        return self.read_separator(self.options, self.results)

    def left_out(self, refused: Refused) -> LeftOut:
        """The recording, which it is no use to ask again."""
        return LeftOut(self.recording.name, str(refused), self.refusal_key)

    def todo(self) -> list[Job]:
        """What can be done now, at once; nothing once the songs are there. Raises Refused."""
        found = self.found()
        songs = [self._job("songs", i) for i in range(len(found.spans)) if not self._has_song(i)] if found else []
        if found and not songs:
            return []
        if self.results.file("mixed", self._mixed).exists():
            return songs or [self._job("windows")]
        loads = [self._job("loaded", i) for i, key in enumerate(self._loaded)
                 if not self.results.file("loaded", key).exists()]
        if loads:
            return loads
        tracks = [self._load(i)[1] for i in range(len(self._loaded))]
        pieces = self.info.layout.pieces(tracks[0].samples) if self.is_mix else 0
        there = self.results.keys(self._pieces)
        return [self._job("pieces", i) for i in range(pieces) if str(i) not in there] or [self._job("mixed")]

    def found(self) -> Found | None:
        """What is told of the recording, once its windows are known. Raises Refused where there are none."""
        if not self.results.file("windows", self._windows).exists():
            return None
        found = self.results.read_json("windows", self._windows, Found)
        if not found.spans:
            raise Refused(f"its lead plays nowhere for {self.options.min_seconds:g} s (--min_seconds), at an RMS of "
                          f"{self.options.rms_threshold:g} (--rms_threshold)")
        return found

    def perform(self, job: Job) -> None:
        """Does a job. Raises Refused."""
        {"loaded": self._make_loaded, "pieces": self._make_piece, "mixed": self._make_mixed,
         "windows": self._make_windows, "songs": self._make_songs}[job.kind](job.index)

    def remove_read(self) -> None:
        """Removes what nothing reads that is still to be done."""
        if self.results.file("mixed", self._mixed).exists():
            for key in self._loaded:
                self._remove("loaded", key)
            self._remove(self._pieces)
            if not self.todo():
                self._remove("mixed", self._mixed)

    def install(self) -> list[str]:
        """Moves finished songs to the output, those that are not there already. Gives the names of all."""
        names = []
        for index in range(len(self.found().spans)):
            directory = self.results.file("songs", self._song(index))
            for name in self._names(index):
                if (directory / name).exists():
                    os.replace(directory / name, self.target / name)
                names.append(name)
            if directory.exists():
                directory.rmdir()
        return names

    def _job(self, kind: str, index: int = 0) -> Job:
        return Job(kind, self.recording, index)

    def _song(self, index: int) -> str:
        return f"{self.key}-{index + 1:03d}"

    def _names(self, index: int) -> list[str]:
        """The folders of a clip and its copies. Whatever a song is made from decides its name, so there are never two
        that differ under one."""
        stem = pathlib.PurePath(self.recording.name).stem
        stem = re.sub(r"[^\w.+-]+", "_", stem).strip("._").encode()[:_NAME_BYTES].decode(errors="ignore")
        clip = f"{stem or 'recording'}-{self.key[:10]}-{index + 1:03d}"
        return [clip, *(f"{clip}-{name}" for name in copy_names(self.options))]

    def _has_song(self, index: int) -> bool:
        return self.results.file("songs", self._song(index)).exists() or all(
            (self.target / name).exists() for name in self._names(index))

    def _remove(self, kind: str, key: str = "") -> None:
        shutil.rmtree(self.results.file(kind, key), ignore_errors=True)

    def _load(self, index: int) -> tuple[Loaded, Track]:
        """What was loaded of a file. Raises Refused if it was of no use."""
        key = self._loaded[index]
        loaded = self.results.read_json("loaded", f"{key}/{_HEARD}", Loaded)
        if loaded.reason:
            raise Refused(loaded.reason)
        return loaded, Track(self.results.file("loaded", key) / _TRACK, CHANNELS)

    def _read_mixed(self) -> tuple[Mixed, Track]:
        mixed = self.results.read_json("mixed", f"{self._mixed}/{_HEARD}", Mixed)
        return mixed, Track(self.results.file("mixed", self._mixed) / _TRACK, 2 * self.options.channels)

    def _make_loaded(self, index: int) -> None:
        stem, path = self.recording.files[index]
        meter, sums = Meter(SAMPLE_RATE, CHANNELS), _Sums()

        def fill(directory: pathlib.Path) -> None:
            with TrackWriter(directory / _TRACK) as track:
                def hear(block: np.ndarray) -> None:
                    track.append(block)
                    meter.add(block)
                    sums.add(block)

                file = tasks.AudioFile(self.recording.name, path, SAMPLE_RATE, CHANNELS)
                check = tasks.check(file, self.options.max_minutes, hear)
            if check.reason and (self.is_mix or check.reason != tasks.SILENT):  # a stem may be silent
                (directory / _TRACK).unlink()
                heard = Loaded(reason=f"{stem}: {check.reason}" if stem else check.reason)
            else:
                heard = Loaded(max(meter.loudness(), _QUIETEST), sums.peak, sums.mean(), sums.std())
            _write_heard(directory, heard)

        self.results.make_directory("loaded", self._loaded[index], fill)

    def _make_piece(self, index: int) -> None:
        loaded, track = self._load(0)
        model = separator(self.options.separator, self.options.segment, self.options.overlap)
        mean, std = _normalisation(loaded)
        piece = model.piece(lambda start, stop: (track.read(start, stop) - mean) / std, track.samples, index)
        data = io.BytesIO()
        np.save(data, piece)
        self.results.write(self._pieces, str(index), data.getbuffer())

    def _stems(self) -> tuple[list[str], Iterator[np.ndarray], list[str]]:
        """The names of the stems, all of them as float32 [stems, CHANNELS, samples] block by block, and notes."""
        if self.is_mix:
            loaded, track = self._load(0)
            layout = self.info.layout
            pieces = (np.load(self.results.file(self._pieces, str(i))) for i in range(layout.pieces(track.samples)))
            mean, std = _normalisation(loaded)
            factor = self._gain(loaded.loudness, loaded.peak)
            joined = (factor * (block * std + mean) for block in layout.join(pieces, track.samples))
            return list(self.info.stems), joined, []
        tracks = [self._load(i)[1] for i in range(len(self._loaded))]
        samples = max(track.samples for track in tracks)
        uneven = (samples - min(track.samples for track in tracks)) / SAMPLE_RATE
        notes = [f"its stems differ in length by up to {uneven:.1f} s: after their ends they are silent"
                 ] if uneven > _UNEVEN else []
        length = BLOCK // (CHANNELS * len(tracks))
        blocks = (np.stack([track.read(start, min(start + length, samples)) for track in tracks])
                  for start in range(0, samples, length))
        return [stem for stem, _ in self.recording.files], blocks, notes

    def _gain(self, loudness: float, peak: float) -> float:
        return gain(loudness, peak, self.options.loudness, self.options.peak)

    def _make_mixed(self, _: int) -> None:
        names, stems, notes = self._stems()
        is_lead = np.array([name in self.options.lead for name in names])
        channels = self.options.channels
        meter, sums = Meter(SAMPLE_RATE, CHANNELS), _Sums()

        def pairs() -> Iterator[np.ndarray]:
            for block in stems:
                lead, backing = block[is_lead].sum(0), block[~is_lead].sum(0)
                meter.add(lead + backing)
                yield np.concatenate([_mixed_down(lead, channels), _mixed_down(backing, channels)])

        def fill(directory: pathlib.Path) -> None:
            with TrackWriter(directory / _TRACK) as track:
                for pair in resampled(pairs(), 2 * channels, SAMPLE_RATE, self.options.sample_rate):
                    track.append(pair)
                    for heard in (pair, pair[:channels] + pair[channels:]):
                        sums.add(heard)
            loudness = max(meter.loudness(), _QUIETEST)
            factor = self._gain(loudness, sums.peak)
            reached = loudness + 20 * math.log10(factor)
            if reached < self.options.loudness - _NOTICED:
                notes.append(f"{reached:.1f} LUFS in place of {self.options.loudness:g}: if it were louder, its peaks "
                             f"would pass --peak={self.options.peak:g}")
            came = self._load(0)[0].loudness if self.is_mix else loudness
            _write_heard(directory, Mixed(came, factor, tuple(notes)))

        self.results.make_directory("mixed", self._mixed, fill)

    def _make_windows(self, _: int) -> None:
        o = self.options
        mixed, track = self._read_mixed()
        lead = (mixed.gain * block[:o.channels] for block in track.blocks())
        windows = find_windows(lead, track.samples, round(o.rms_frame * o.sample_rate),
                               round(o.rms_stride * o.sample_rate), o.rms_threshold)
        spans = cut(windows, round(o.min_seconds * o.sample_rate), round(o.max_seconds * o.sample_rate))
        found = Found(track.samples, mixed.loudness, mixed.notes, tuple(spans))
        self.results.write("windows", self._windows, json.dumps(dataclasses.asdict(found)).encode())

    def _make_songs(self, index: int) -> None:
        o, recording = self.options, self.recording
        found, (mixed, track) = self.found(), self._read_mixed()
        audio = mixed.gain * track.read(*found.spans[index])
        texts = {"group": recording.group, "genre": recording.genre, "description": recording.description,
                 "lyrics": recording.lyrics if found.is_whole() else ""}

        def fill(directory: pathlib.Path) -> None:
            for name, copy in zip(self._names(index), itertools.chain([audio], copies(audio, o)), strict=True):
                folder = directory / name
                folder.mkdir()
                peak = np.abs(copy).max()
                if peak > 1:  # of a copy: other phases, other peaks
                    copy = copy * np.float32(10 ** (o.peak / 20) / peak)
                audio_io.write(folder / "audio.flac", copy[:o.channels], o.sample_rate)
                audio_io.write(folder / "backing.flac", copy[o.channels:], o.sample_rate)
                for kind, text in texts.items():
                    if text:
                        (folder / f"{kind}.txt").write_text(text + "\n", encoding="utf-8")

        self.results.make_directory("songs", self._song(index), fill)


class _Sums:
    """The largest sample of audio in blocks, and mean and standard deviation of the mean of its channels."""

    def __init__(self):
        self.peak, self._count, self._sum, self._squares = 0.0, 0, 0.0, 0.0

    def add(self, block: np.ndarray) -> None:
        self.peak = max(self.peak, float(np.abs(block).max(initial=0)))
        mean = block.mean(0, dtype=np.float64)
        self._count += len(mean)
        self._sum += float(mean.sum())
        self._squares += float(np.square(mean).sum())

    def mean(self) -> float:
        return self._sum / self._count

    def std(self) -> float:
        """As PyTorch has it: with one less than the count."""
        return math.sqrt(max(0.0, self._squares - self._sum**2 / self._count) / max(1, self._count - 1))


def _normalisation(loaded: Loaded) -> tuple[float, float]:
    """What the separator's input is made of a recording by, (x - mean) / std, as `demucs.api` does it: it hears all
    recordings at one level, so their loudness makes no difference before."""
    return loaded.mean, loaded.std + _EPSILON


def _mixed_down(block: np.ndarray, channels: int) -> np.ndarray:
    """float32 [CHANNELS, samples] -> [channels, samples]."""
    return block if channels == CHANNELS else block.mean(0, keepdims=True)


def _write_heard(directory: pathlib.Path, heard: Loaded | Mixed) -> None:
    (directory / _HEARD).write_text(json.dumps(dataclasses.asdict(heard)), encoding="utf-8")
