"""What songs were made of which recording, and what was left out: `report.json`, and the summary at the end."""

import contextlib
import dataclasses
import os
import pathlib
import shlex
from typing import Any

from autosong_jax import inputs
from autosong_jax.errors import UserError
from data_prep import output
from data_prep.report import duration, named, plural
from data_prep.stems.options import Options
from data_prep.stems.recordings import LeftOut
from data_prep.stems.stages import Stages

FILE = "report.json"
_LIMIT = 2**30  # bytes


@dataclasses.dataclass(frozen=True)
class New:
    """What this start did: recordings of so many `audio_seconds` in `seconds`."""

    recordings: int
    audio_seconds: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Entry:
    """A recording, by the key of all that its songs are made from: what it was, and its songs.

    `loudness` is that of the recording as it came, in LUFS; `windows` are seconds, one for each clip; `songs` are the
    clips and their copies.
    """

    key: str
    name: str
    group: str
    seconds: float
    loudness: float
    windows: list[list[float]]
    songs: list[str]
    notes: list[str]

    @classmethod
    def of(cls, stages: Stages, songs: list[str]) -> "Entry":
        found, rate = stages.found(), stages.options.sample_rate
        return cls(stages.key, stages.recording.name, stages.recording.group, round(found.samples / rate, 3),
                   round(found.loudness, 2), [[round(at / rate, 3) for at in span] for span in found.spans], songs,
                   list(found.notes))


@dataclasses.dataclass(frozen=True)
class Report:
    """The contents of `report.json`. Nothing in it depends on when or how often the command was started."""

    made_with: dict[str, Any]
    recordings: list[Entry]
    left_out: list[LeftOut]

    def write(self, target: pathlib.Path) -> None:
        """Writes it, all at once."""
        unfinished = target / f".unfinished-{FILE}"
        output.write_json(unfinished, dataclasses.asdict(self))
        os.replace(unfinished, target / FILE)


def read(target: pathlib.Path) -> Report | None:
    """The report of an output; None if it has none."""
    with contextlib.suppress(UserError):
        return inputs.read_json(target / FILE, Report, "", limit=_LIMIT)
    return None


def is_ours(target: pathlib.Path) -> bool:
    """Whether the command has been at work in a directory."""
    return (target / ".partial" / "lock").is_file() or read(target) is not None


def build(options: Options, entries: list[Entry], left_out: list[LeftOut]) -> Report:
    """The report, in an order that hangs on names alone."""
    return Report(options.that_decide(), sorted(entries, key=lambda entry: (entry.name, entry.key)),
                  sorted(left_out, key=lambda one: (one.recording, one.reason)))


def summary(report: Report, target: str, new: New | None) -> str:
    """The closing words: several lines of text."""
    clips = [stop - start for entry in report.recordings for start, stop in entry.windows]
    songs = sum(len(entry.songs) for entry in report.recordings)
    copies = f", each with {plural(songs // len(clips) - 1, 'copy', 'copies')}" if songs > len(clips) > 0 else ""
    head = "songs     " if new else "nothing to do, the songs are already there: "
    lines = [f"{head}{target}: {plural(songs, 'song')} of {plural(len(report.recordings), 'recording')}",
             f"          {plural(len(clips), 'clip')}, {duration(sum(clips))}{copies}"]
    if new:
        lines.append(f"speed     {plural(new.recordings, 'recording')} of {duration(new.audio_seconds)} in "
                     f"{new.seconds:.1f} s: {new.audio_seconds / new.seconds:.1f} x real time")
    lines += named("noted", [f"{entry.name}: {note}" for entry in report.recordings for note in entry.notes], target)
    lines += named("left out", [f"{one.recording}: {one.reason}" for one in report.left_out], target)
    command = shlex.join(["python", "-m", "data_prep.export", f"--input={target}", "--output=dataset",
                          "--sources=text,backing", "--norequire_lyrics"])
    return "\n".join([*lines, "", "Next, make a dataset of them:", f"  {command}"])
