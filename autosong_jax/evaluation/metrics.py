"""What can be said of a song that was sung: one table of metrics, each of which says what it needs and how it is read.

To add one: a function from a `Song` to sums, one that makes numbers of added sums, and a line in `METRICS`; everything
else (songs, intervals over songs, resuming, the report) follows. One that listens with something that has to be given,
such as a trained model, is made by a function of that in a file of its own, and `evaluate.py` adds it to the table; if
all songs are asked together, its function is one of songs.

Letters: T frames, K codebooks, V codebook size.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from autosong_jax.audio.loudness import Meter
from autosong_jax.evaluation import accompaniment, notes, sound
from autosong_jax.evaluation.intervals import Sums

NGRAM = 8
"""Frames that make a repetition."""
SMOOTHING = 0.5
"""What is added to how often each code occurs before distributions are compared (Krichevsky and Trofimov 1981)."""
QUIET, FRAME = -50.0, 0.05
"""dB, as `sound.levels` has them, below which a frame is silent; seconds of a frame."""


@dataclasses.dataclass(frozen=True)
class Song:
    """A song to be judged, and what is known of it. What is made when it is asked for is kept.

    Attributes:
      id: of the song, in its dataset or among the files that were given.
      sample_rate: Hz.
      frame_rate: frames a second.
      size: V; None where frames are no codes.
      get_frames: gives them, [T, K]; None for a song that has none.
      get_audio: gives it, float32 [channels, samples]; None likewise.
      truth: the song of the dataset that it should be; None for none.
      lyrics: that it should have; "" for none.
      forced: int [T, K], what the model would take at each frame of `truth` after all that is before it there.
      limit: frames that it could have had at most; None where nothing ended it but itself.
      description: of it; "" for none.
      get_backing: gives what it goes with, float32 [channels, samples]; None where it goes with nothing.
    """

    id: str
    sample_rate: int
    frame_rate: float
    size: int | None = None
    get_frames: Callable[[], np.ndarray] | None = None
    get_audio: Callable[[], np.ndarray] | None = None
    truth: "Song | None" = None
    lyrics: str = ""
    forced: np.ndarray | None = None
    limit: int | None = None
    description: str = ""
    get_backing: Callable[[], np.ndarray] | None = None

    @functools.cached_property
    def frames(self) -> np.ndarray:
        """[T, K]."""
        return self.get_frames()

    @functools.cached_property
    def audio(self) -> np.ndarray:
        """float32 [channels, samples]."""
        return self.get_audio()

    @property
    def mono(self) -> np.ndarray:
        """float32 [samples]."""
        return self.audio.mean(axis=0)

    @property
    def seconds(self) -> float:
        """How long it is: by its frames where there are some."""
        return len(self.frames) / self.frame_rate if self.get_frames else self.audio.shape[1] / self.sample_rate

    def anew(self) -> "Song":
        """The same without what is kept of its sound, nor of that of the truth: songs may be many and long."""
        return dataclasses.replace(self, truth=self.truth and dataclasses.replace(self.truth))

    @property
    def has(self) -> set[str]:
        """What a metric may need and this song has."""
        found = {"frames": self.get_frames, "codes": self.get_frames and self.size, "audio": self.get_audio,
                 "truth": self.truth, "lyrics": self.lyrics, "description": self.description,
                 "forced": self.forced is not None, "limit": self.limit is not None, "backing": self.get_backing,
                 "syllables": notes.lyric_notes(self.lyrics) and not notes.other_words(self.lyrics) and (
                     self.sample_rate >= notes.LEAST_RATE)}
        return {name for name, there in found.items() if there}


def means(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of every sum the mean: over "count" where there is one, else over "NAME count"; NaN of none."""
    totals = {name: total for name, total in sums.items() if name != "count" and not name.endswith(" count")}
    counts = {name: sums.get(f"{name} count", sums.get("count")) for name in totals}
    return {name: float(total / counts[name]) if counts[name] else math.nan for name, total in totals.items()}


@dataclasses.dataclass(frozen=True)
class Metric:
    """Something that can be said of songs.

    Attributes:
      name: of it; those of its numbers are "NAME" and "NAME.DETAIL".
      about: what it is, with its unit, in a line.
      needs: of a song: "frames", "codes" (frames that are codes), "audio", "truth" (the song of the dataset), "lyrics",
        "syllables" (lyrics that are sung by the rule of `notes`), "description", "backing", "forced" (what teacher
        forcing takes) or "limit".
      of_song: a song that has these -> sums: numbers or arrays, as of every other song.
      summarize: of added sums, the numbers by their details, "" for that of the metric itself. By default the mean over
        songs of what `of_song` gives, which then has "count" or, for each name, "NAME count".
      better: "more", "less", or "" where neither is: compare with the true songs.
      made_from: what decides its sums beside the song, such as the digest of a trained model.
      of_songs: the sums of several songs, in place of `of_song`, where they are found together.
    """

    name: str
    about: str
    needs: tuple[str, ...]
    of_song: Callable[[Song], Sums] | None
    summarize: Callable[[Mapping[str, np.ndarray]], dict[str, float]] = means
    better: str = ""
    made_from: str = ""
    of_songs: Callable[[Sequence[Song]], Sequence[Sums]] | None = None

    @property
    def kept_as(self) -> str:
        """The name of its sums among what is kept of a song."""
        return f"{self.name} {self.made_from}".strip()

    def applies(self, song: Song) -> bool:
        """Whether it can be asked of a song."""
        return song.has >= set(self.needs)

    def label(self, detail: str) -> str:
        """The name of a number."""
        return f"{self.name}.{detail}" if detail else self.name


# Codes.

def _hits(codes: np.ndarray, wanted: np.ndarray) -> Sums:
    """Frames of `wanted` [T, K] that are met; those that are not there are not."""
    both = min(len(codes), len(wanted))
    return {"hits": (codes[:both] == wanted[:both]).sum(axis=0), "frames": len(wanted)}


def _shares(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    return _by_codebook(sums["hits"] / sums["frames"] if sums["frames"] else np.full_like(sums["hits"], math.nan))


def _by_codebook(values: np.ndarray) -> dict[str, float]:
    """The mean over the codebooks, and each codebook's."""
    return {"": float(np.mean(values))} | {f"codebook {k}": float(value) for k, value in enumerate(values)}


def _divergence(song: Song) -> Sums:
    both = min(len(song.frames), len(song.forced))
    differs = (song.frames[:both] != song.forced[:both]).any(axis=1)
    first = int(differs.argmax()) if differs.any() else both
    whole = not differs.any() and len(song.frames) == len(song.forced)
    return {"frame": first, "seconds": first / song.frame_rate, "never": int(whole), "count": 1}


def _counts(codes: np.ndarray, size: int) -> np.ndarray:
    """int [K, V], how often each code occurs."""
    return np.stack([np.bincount(column, minlength=size) for column in codes.T])


def _entropy(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    shares = sums["counts"] / np.maximum(sums["counts"].sum(axis=1, keepdims=True), 1)
    return _by_codebook(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1))


def _coverage(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    return _by_codebook((sums["counts"] > 0).mean(axis=1))


def _divergence_of_unigrams(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    true, ours = (sums[name] + SMOOTHING for name in ("true", "counts"))
    true, ours = (counts / counts.sum(axis=1, keepdims=True) for counts in (true, ours))
    return _by_codebook((true * np.log(true / ours)).sum(axis=1))


def repeated(codes: np.ndarray, length: int = NGRAM) -> tuple[int, int]:
    """Of int [T, K], how many stretches of `length` frames have occurred before in it, and how many there are."""
    seen, again = set(), 0
    codes = np.ascontiguousarray(codes)
    for start in range(len(codes) - length + 1):
        stretch = codes[start:start + length].tobytes()
        again += stretch in seen
        seen.add(stretch)
    return again, max(len(codes) - length + 1, 0)


def _repetition(song: Song) -> Sums:
    (again, of), (coarse, _) = repeated(song.frames), repeated(song.frames[:, :1])
    return {"": again, "codebook 0": coarse, "count": of}


# Sound.

def _length(song: Song) -> Sums:
    return {"": song.seconds, "true": song.truth.seconds, "off by": abs(song.seconds - song.truth.seconds), "count": 1}


def _silence(song: Song) -> Sums:
    frames = sound.levels(song.mono, song.sample_rate, FRAME)
    return {"": (frames < QUIET).sum(), "count": len(frames)}


def _clipping(song: Song) -> Sums:
    return {"": np.count_nonzero(np.abs(song.audio) >= 1), "count": song.audio.size}


def _loudness(song: Song) -> Sums:
    meter = Meter(song.sample_rate, len(song.audio))
    meter.add(song.audio)
    loudness = meter.loudness()
    known = math.isfinite(loudness)
    return {"": loudness if known else 0.0, "count": int(known)}


def _spectral(song: Song) -> Sums:
    samples = min(len(song.mono), len(song.truth.mono))
    distance = sound.stft_distance(song.truth.mono[:samples], song.mono[:samples]) if samples else 0.0
    return {"": distance, "count": int(samples > 0)}


def _onsets(song: Song) -> Sums:
    lead, backing = (accompaniment.onsets(audio.mean(axis=0), song.sample_rate)
                     for audio in (song.audio, song.get_backing()))
    found = accompaniment.onset_agreement(lead, backing, song.seconds)
    return {"near": found.near, "pairs": found.pairs, "stem": len(lead), "context": len(backing),
            "covered": found.covered, "seconds": song.seconds}


def _agreement(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {"": sums["near"] / sums["stem"], "by chance": sums["covered"] / sums["seconds"],
            "F": 2 * sums["pairs"] / (sums["stem"] + sums["context"]), "a second": sums["stem"] / sums["seconds"]}


def _notes(song: Song) -> Sums:
    wanted = notes.lyric_notes(song.lyrics)
    wrong = notes.note_error_rate(wanted, notes.sung_notes(song.mono, song.sample_rate)) * len(wanted)
    return {"": wrong, "count": len(wanted)}


METRICS: tuple[Metric, ...] = (
    Metric("accuracy", "share of the true song's codes that stand at the same place", ("codes", "truth"),
           lambda song: _hits(song.frames, song.truth.frames), _shares, "more"),
    Metric("agreement", "share of the codes that teacher forcing holds for the most probable in the true song and that "
           "are sung", ("codes", "forced"), lambda song: _hits(song.frames, song.forced), _shares, "more"),
    Metric("divergence", "where singing and teacher forcing first differ, or where the song ends: frame and seconds; "
           "share of songs in which they never do", ("codes", "forced"), _divergence, better="more"),
    Metric("entropy", "nats, of the codes of all songs together", ("codes",),
           lambda song: {"counts": _counts(song.frames, song.size)}, _entropy),
    Metric("coverage", "share of the vocabulary that occurs in any of the songs", ("codes",),
           lambda song: {"counts": _counts(song.frames, song.size)}, _coverage),
    Metric("unigram KL", f"nats, of the codes of the true songs from those of these, {SMOOTHING:g} added to each count",
           ("codes", "truth"), lambda song: {"counts": _counts(song.frames, song.size),
                                             "true": _counts(song.truth.frames, song.size)},
           _divergence_of_unigrams, "less"),
    Metric("repetition", f"share of stretches of {NGRAM} frames that occurred before in the song: in all codebooks, "
           "and in the first", ("codes",), _repetition),
    Metric("length", "seconds, those of the true song, and how far they are from each other", ("frames", "truth"),
           _length),
    Metric("ended", "share of songs that ended by themselves", ("frames", "limit"),
           lambda song: {"": int(len(song.frames) < song.limit), "count": 1}),
    Metric("silence", f"share of frames of {FRAME * 1000:g} ms below {QUIET:g} dB", ("audio",), _silence),
    Metric("clipping", "share of samples at full scale or beyond", ("audio",), _clipping, better="less"),
    Metric("loudness", "LUFS (ITU-R BS.1770-4), mean of the songs that are not silent", ("audio",), _loudness),
    Metric("spectral distance", "of short-time magnitudes from those of the true song, at the same time "
           "(`sound.stft_distance`)", ("audio", "truth"), _spectral, better="less"),
    Metric("onsets", f"share of the song's onsets within {accompaniment.TOLERANCE * 1000:g} ms of one of its backing; "
           "what it would be at any time; F-measure of one for one; onsets a second", ("audio", "backing"), _onsets,
           _agreement, "more"),
    Metric("note error rate", "wrong, missing and additional notes, of those that lyrics of a songbook stand for",
           ("audio", "syllables"), _notes, better="less"),
)


def number_name(label: str) -> str:
    """ "note error rate" -> "note_error_rate": a number's label as it stands in a line of metrics."""
    return re.sub(r"\W+", "_", label)


def better_of(name: str) -> str:
    """Which is better of a number in a line of metrics: "more", "less", or "" where neither is or nobody knows it."""
    found = [metric for metric in METRICS if f"{name}_".startswith(f"{number_name(metric.name)}_")]
    return max(found, key=lambda metric: len(metric.name)).better if found else ""
