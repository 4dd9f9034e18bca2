"""What went into a dataset and what was left out: `report.json`, and the summary that an export ends with."""

import dataclasses
import json
import pathlib
import shlex
from typing import TYPE_CHECKING, Any

from autosong_jax import inputs
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.codecs.table import CODECS
from data_prep import splits
from data_prep.songs import LeftOut

if TYPE_CHECKING:
    from data_prep.pipeline import Item

FILE = "report.json"
_NAMED = 5  # songs named in the summary for each kind of news


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast songs were encoded: `songs` of `audio_seconds` in `seconds`; `earlier` more were there already."""

    songs: int
    earlier: int
    audio_seconds: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Split:
    songs: int
    groups: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Song:
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class _Quality:
    songs: int
    held_out: bool
    round_trip_db: float


@dataclasses.dataclass(frozen=True)
class _Codec:
    name: str
    sample_rate: int
    channels: int
    frame_rate: float
    quality: _Quality


@dataclasses.dataclass(frozen=True)
class _TextEncoder:
    name: str


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is read of the `report.json` of a dataset."""

    fingerprint: str
    splits: dict[str, _Split]
    songs: dict[str, _Song]
    left_out: list[LeftOut]
    codec: _Codec
    text_encoder: _TextEncoder


def read(path: pathlib.Path, limit: int) -> dict:
    """What `build` gave, of a file of at most so many bytes. Raises UserError where `summary` could not tell of it."""
    report = inputs.read_json(path, dict[str, Any], "the report", limit=limit)
    inputs.check(report, Contents, "the report")
    CodecInfo.parse(json.dumps(report["codec"]), "the report")
    return report


def build(items: list["Item"], left_out: list[LeftOut], made_with: dict) -> dict:
    """The contents of `report.json`: `made_with`, `splits` (what each holds), `songs` by id, and `left_out`.

    Nothing in it depends on when or how often the export was started.
    """
    by_split = {split: [item for item in items if item.split == split] for split in splits.SPLITS}
    return made_with | {
        "splits": {split: {"songs": len(members), "groups": len({item.group for item in members}),
                           "seconds": round(sum(item.seconds for item in members), 3)}
                   for split, members in by_split.items()},
        "songs": {item.song.id: {"split": item.split, "group": item.group, "seconds": round(item.seconds, 3),
                                 "notes": item.notes} for item in items},
        "left_out": [dataclasses.asdict(song) for song in sorted(left_out, key=lambda song: (song.song, song.reason))],
    }


def summary(report: dict, output: str, speed: Speed | None) -> str:
    """The closing words of an export: several lines of text."""
    lines = [*_songs(report, output, speed), *_codec(report["codec"]), f"text      {report['text_encoder']['name']}"]
    if speed and speed.songs:
        lines.append(f"speed     {plural(speed.songs, 'song')} encoded in {speed.seconds:.1f} s: "
                     f"{speed.audio_seconds / speed.seconds:.0f} x real time")
    if speed and speed.earlier:
        lines.append(f"          {plural(speed.earlier, 'song')} had been encoded before")
    noted = [f"{name}: {note}" for name, song in report["songs"].items() for note in song["notes"]]
    left_out = [f"{song['song']}: {song['reason']}" for song in report["left_out"]]
    lines += [*named("noted", noted, output), *named("left out", left_out, output)]
    with_backing = "backing" in report["options"].get("sources", ())
    config = "accompaniment" if with_backing else CODECS[report["codec"]["name"]].first_config
    command = shlex.join(["python", "-m", "autosong_jax.train", f"--config=configs/{config}.py",
                          f"--config.data.path={output}",
                          f"--workdir=runs/{'lead' if with_backing else 'mine'}"])
    return "\n".join([*lines, "", "Next, train on it:", f"  {command}"])


def _songs(report: dict, output: str, speed: Speed | None) -> list[str]:
    members = report["splits"].values()
    head = "dataset   " if speed else "nothing to do, the dataset is already there: "
    lines = [f"{head}{output}: {plural(sum(split['songs'] for split in members), 'song')}, "
             f"{duration(sum(split['seconds'] for split in members))}"]
    for name, split in report["splits"].items():
        if split["songs"]:
            groups = f" in {plural(split['groups'], 'group')}" if split["groups"] != split["songs"] else ""
            lines.append(f"  {name:<12}{plural(split['songs'], 'song')}{groups}, {duration(split['seconds'])}")
    return lines


def _codec(codec: dict) -> list[str]:
    quality = codec["quality"]
    channels = {1: "mono", 2: "stereo"}.get(codec["channels"], f"{codec['channels']} channels")
    measured = f"{plural(quality['songs'], 'song')} it was not fitted to" if quality["held_out"] else (
        f"{plural(quality['songs'], 'song')} of the dataset")
    frames = CodecInfo.parse(json.dumps(codec), FILE).frames
    return [f"codec     {codec['name']}: {codec['sample_rate']} Hz {channels}, {codec['frame_rate']:g} frames/s of "
            f"{frames}",
            f"          there and back, spectra are {quality['round_trip_db']:.1f} dB off (mean error on {measured})"]


def named(title: str, news: list[str], output: str) -> list[str]:
    """The first few pieces of news, and how many there are."""
    if not news:
        return []
    more = [f"  ... all of them in {pathlib.Path(output) / FILE}"] if len(news) > _NAMED else []
    return [f"{title:<10}{len(news)}:", *(f"  {line}" for line in news[:_NAMED]), *more]


def plural(count: int, noun: str, several: str = "") -> str:
    """"1 song", "2 songs"."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def duration(seconds: float) -> str:
    """In hours or minutes, for people."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
