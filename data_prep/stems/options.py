"""The options of `data_prep.stems`: one table, which flags, config files and checks are made from."""

import dataclasses
import difflib
import json
import math
import os
import pathlib
import shlex
from typing import Any

from autosong_jax import inputs
from autosong_jax.audio.io import RATES
from autosong_jax.errors import UserError

UNITTEST = "demucs_unittest"
_WORKERS_A_CORE = 8  # more would be no faster and take the memory


def _option(default: Any, help: str, least: float = -math.inf, most: float = math.inf) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "least": least, "most": most})


@dataclasses.dataclass(frozen=True)
class Options:
    """What songs are made of and how. Numbers have bounds; of a tuple, each has."""

    input: tuple[str, ...] = _option((), (
        "A folder of recordings (with all folders in it), a recording, or a playlist: .m3u, .m3u8 or .txt with a path "
        "or URL a line. May be given several times."))
    output: str = _option("", "Folder of songs, to be made, for data_prep.export.")
    fetch: str = _option("", (
        "A command that fetches a URL of a playlist, such as 'curl --location --output {output} {url}'. It may add a "
        "suffix to {output}. No shell sees it. By default URLs are left out."))
    separator: str = _option("hf://htdemucs_6s", (
        "The Demucs model that takes recordings apart: hf://NAME is fetched from the hub. demucs_unittest, with random "
        "weights, is for tests."))
    segment: float | None = _option(None, (
        "Seconds that the separator hears at once. By default as many as it was made for."), 0.1, 600)
    overlap: float = _option(0.25, "Share of a segment that is faded over into the next.", 0, 0.9)
    lead: tuple[str, ...] = _option(("vocals", "other"), (
        "Stems that are the lead; all others are the backing."))
    loudness: float = _option(-14.0, "LUFS (ITU-R BS.1770-4) that lead and backing together are brought to.", -70, 0)
    peak: float = _option(-1.0, (
        "dB below full scale that no sample is beyond; what would be is brought to less than --loudness."), -60, 0)
    sample_rate: int = _option(32_000, "Hz of the songs: best that of the codec.", *RATES)
    channels: int = _option(1, "Of the songs: 1, or 2 for stereo.", 1, 2)
    rms_frame: float = _option(10.0, "Seconds over which the lead's RMS is taken.", 0.01, 3600)
    rms_stride: float = _option(0.2, "Seconds from one such frame to the next.", 0.001, 3600)
    rms_threshold: float = _option(0.05, "RMS from which on the lead plays; full scale is 1.", 0, 1)
    min_seconds: float = _option(30.0, "Shorter windows, in which the lead plays, are left out.", 0.5, 36_000)
    max_seconds: float = _option(300.0, (
        "Longer windows are cut into equal parts. At least twice --min_seconds."), 1, 36_000)
    pitch: tuple[float, ...] = _option((-2.0, 2.0), "Semitones by which copies are moved; empty for none.", -24, 24)
    tempo: tuple[float, ...] = _option((0.9, 1.1), "Times the speed at which copies are played; empty for none.",
                                       0.25, 4)
    n_fft: int = _option(4096, "Samples of a frame of the phase vocoder that makes the copies.", 16, 2**16)
    hop: int = _option(512, "Samples from one such frame to the next: at most a quarter of --n_fft.", 1, 2**14)
    max_minutes: float = _option(600.0, "Longer recordings are left out.", 0, 10_000)
    workers: int | None = _option(None, (
        "Processes that do the work; each has the separator. By default one per core. The songs are the same."),
        1, _WORKERS_A_CORE * (os.cpu_count() or 1))
    keep: bool = _option(False, (
        "Keep what was made on the way (OUTPUT/.partial, which is large), so that other options need only what they "
        "change."))
    overwrite: bool = _option(False, "Remove songs that were made from other recordings or with other options.")

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else [value]:
                least, most = field.metadata["least"], field.metadata["most"]
                if isinstance(number, (int, float)) and not least <= number <= most:  # which NaN is not either
                    raise UserError(f"--{field.name}={number:g}: expected {least:g} to {most:g}")
        for name in ("input", "output", "lead"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing: {_FIELDS[name].metadata['help']}")
        for name, nothing in (("pitch", 0), ("tempo", 1)):
            values = getattr(self, name)
            if nothing in values or len(set(values)) < len(values):
                raise UserError(f"--{name}={','.join(f'{value:g}' for value in values)}: expected numbers that differ "
                                f"from each other and from {nothing}, which would copy the song as it is")
        if self.max_seconds < 2 * self.min_seconds:
            raise UserError(f"--max_seconds={self.max_seconds:g}: expected at least twice --min_seconds="
                            f"{self.min_seconds:g}, so that no part of a long window is too short")
        if self.hop > self.n_fft // 4:
            raise UserError(f"--hop={self.hop}: expected at most a quarter of --n_fft={self.n_fft}")
        if not self.separator.startswith("hf://") and self.separator != UNITTEST:
            # Other names make Demucs fall back to pickles from a web server.
            raise UserError(f"--separator={self.separator}: expected hf://NAME, such as hf://htdemucs")
        if self.fetch and not ("{url}" in self.fetch and "{output}" in self.fetch):
            raise UserError(f"--fetch={self.fetch}: expected a command with {{url}} and {{output}} in it")
        try:
            shlex.split(self.fetch)
        except ValueError as error:
            raise UserError(f"--fetch={self.fetch}: {str(error).lower()}") from error

    def that_decide(self) -> dict[str, Any]:
        """The options that songs depend on, besides the recordings."""
        values = dataclasses.asdict(self)
        for name in ("input", "output", "fetch", "max_minutes", "workers", "keep", "overwrite"):
            del values[name]
        return values


_FIELDS = {field.name: field for field in dataclasses.fields(Options)}
OPTIONS = tuple(_FIELDS.values())
NUMBERS = ("pitch", "tempo")
"""Options that are several numbers, which flags have as text."""


def parse_numbers(name: str, texts: list[str]) -> tuple[float, ...]:
    """The numbers of a flag. Raises UserError for what is none."""
    try:
        return tuple(float(text) for text in texts)
    except ValueError as error:
        raise UserError(f"--{name}={','.join(texts)}: expected numbers with commas between them") from error


def read_config(path: str) -> dict[str, Any]:
    """Options by name, from a YAML file.

    Raises:
      UserError: the file cannot be read, is no YAML, names an option that there is not, or gives one a value of the
        wrong type.
    """
    import yaml

    what = f"--config={path}"
    text = inputs.read_text(pathlib.Path(path), "--config")
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{what} is not YAML: {' '.join(str(error).split())[:200]}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{what} holds {str(values)[:60]!r}, expected a line NAME: VALUE for each option")
    for name in values:
        if name not in _FIELDS:
            near = difflib.get_close_matches(str(name), _FIELDS, 1)
            raise UserError(f"{what} has no option {str(name)[:60]!r}{f': did you mean {near[0]}?' if near else ''}; "
                            "--help lists all")
    if isinstance(values.get("input"), str):
        values["input"] = [values["input"]]
    try:
        data = json.dumps(values)
    except (TypeError, ValueError) as error:  # of dates, sets, ...
        raise UserError(f"{what}: {error}: expected numbers, texts and lists") from error
    parsed = inputs.parse_json(data, _Values, what)
    return {name: getattr(parsed, name) for name in values}


_Values = dataclasses.make_dataclass("_Values", [(field.name, field.type, dataclasses.field(default=field.default))
                                                 for field in OPTIONS])
"""The types alone: what the values must be is checked once the flags are known, too."""
