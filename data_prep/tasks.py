"""The work on one song's audio, as done in a worker process.

What a worker is to keep it writes to the work directory; what it returns is small, and JSON, so that it can come from
another machine.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from autosong_jax import inputs
from autosong_jax.audio import io
from autosong_jax.codecs.codec import Codec
from autosong_jax.errors import UserError
from autosong_jax.weights import files
from data_prep import codecs
from data_prep.work import Results

T = TypeVar("T")

MIN_SECONDS = 0.5
_BYTES_A_MINUTE = 60 * 2**23  # of ten channels at 192 kHz in float32
_LOWEST_RATE = 1000  # Hz; a header that says less is wrong, and minutes at that rate would become days
_SILENCE = 1e-4  # peak; -80 dB below full scale
SILENT = "audio is silent"


@dataclasses.dataclass(frozen=True)
class AudioFile:
    """A recording of a song, the rate (Hz) and number of channels that its codec wants, and how many samples of it are
    taken: it is cut or followed by silence; None for all that there are."""

    song: str
    path: pathlib.Path
    sample_rate: int
    channels: int
    samples: int | None = None


@dataclasses.dataclass(frozen=True)
class Check:
    """What a file's audio turned out to be: `seconds` long and usable, or `reason` says why not.

    `notes` are what a listener of the codec's output might wonder about.
    """

    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    reason: str = ""


def file_digest(path: pathlib.Path, max_minutes: float) -> tuple[str, str]:
    """(a digest of a file's contents, "") or ("", what is wrong with the file)."""
    try:
        size = inputs.stat_regular(path, "audio").st_size
        if size > max_minutes * _BYTES_A_MINUTE:
            return "", f"has {size} bytes, more than --max_minutes={max_minutes:g} of any audio"
        return files.file_digest(path), ""
    except UserError as error:
        return "", str(error).removeprefix(f"audio {path} ")
    except OSError as error:
        return "", f"cannot be read: {inputs.reason(error)}"


def keep_check(item: tuple[AudioFile, str], max_minutes: float, results: Results) -> dict[str, Any]:
    """`check` for (file, key), kept as the result `key` of kind `checks`; returns its fields."""
    file, key = item
    fields = dataclasses.asdict(check(file, max_minutes))
    results.write("checks", key, json.dumps(fields).encode())
    return fields


def check(file: AudioFile, max_minutes: float, hear: Callable[[np.ndarray], None] = lambda block: None) -> Check:
    """Reads the whole file, as broken audio may show anywhere; `hear` is given each block, float32 [channels, any]."""
    import soundfile

    samples, peak = 0, 0.0
    try:
        with soundfile.SoundFile(os.fsencode(file.path)) as header:
            own_rate, own_channels, minutes = header.samplerate, header.channels, header.frames / header.samplerate / 60
            if _is_cut_short(header.extra_info):
                return Check(reason="audio ends early: the file is shorter than its header says")
        if own_rate < _LOWEST_RATE:
            return Check(reason=f"audio is at {own_rate} Hz, expected {_LOWEST_RATE} Hz or more")
        if minutes > max_minutes:
            return Check(reason=f"{minutes:.1f} minutes long (--max_minutes={max_minutes:g})")
        for block in io.read_blocks(file.path, file.sample_rate, file.channels):
            samples, peak = samples + block.shape[1], max(peak, float(np.abs(block).max(initial=0)))
            hear(block)
            if samples > (max_minutes * 60 + 1) * file.sample_rate:
                return Check(reason=f"longer than its header says, and than --max_minutes={max_minutes:g}")
    except UserError as error:
        return Check(reason=_reason(error, file))
    except soundfile.SoundFileError as error:
        return Check(reason=f"audio cannot be read: {error.error_string}")
    seconds = samples / file.sample_rate
    if seconds < MIN_SECONDS:
        return Check(reason=f"audio is only {seconds:.2f} s long, expected {MIN_SECONDS} s or more")
    if peak < _SILENCE:
        return Check(seconds, reason=SILENT)
    notes = []
    if own_rate < file.sample_rate:
        notes.append(f"recorded at {own_rate} Hz, brought to {file.sample_rate} Hz: it holds nothing above "
                     f"{own_rate // 2} Hz")
    if own_channels > 2:
        notes.append(f"{own_channels} channels, mixed down to {file.channels}")
    return Check(seconds, tuple(notes))


def _is_cut_short(libsndfile_log: str) -> bool:
    """Whether a WAV file's header counts more bytes than there are.

    libsndfile only remarks on that, for programs that cannot go back to fill in the number write the largest there is.
    """
    match = re.search(r"data : (\d+) \(should be (\d+)\)", libsndfile_log)
    return bool(match) and int(match[2]) < int(match[1]) < 2**31 - 2**16


def read(file: AudioFile) -> np.ndarray | str:
    """The audio, float32 [channels, samples], or the reason why it cannot be read."""
    try:
        audio = io.read(file.path, file.sample_rate, file.channels)[0]
        return audio if file.samples is None else io.lasting(audio, file.samples)
    except UserError as error:
        return _reason(error, file)


def reread(file: AudioFile) -> np.ndarray:
    """The audio, float32 [channels, samples], of a file that could be read before. Raises RuntimeError otherwise."""
    audio = read(file)
    if isinstance(audio, str):
        raise RuntimeError(audio)
    return audio


def encode(file: AudioFile, codec_directory: pathlib.Path) -> np.ndarray | str:
    """The frames [T, width] of the codec saved in `codec_directory`, or the reason why there are none."""
    audio = read(file)
    return audio if isinstance(audio, str) else attempt(lambda: codec(codec_directory).encode(audio))


def attempt(make: Callable[[], T]) -> T | str:
    """What `make` gives, or the reason why one song is too much for a codec or a text encoder."""
    try:
        return make()
    except MemoryError:
        return "there is not enough memory for it"
    except (RuntimeError, IndexError) as error:  # of PyTorch, which says so of memory, too
        return f"cannot be encoded: {str(error).strip()[:200]}".split("\n")[0]


def _reason(error: UserError, file: AudioFile) -> str:
    """The error without the path: results are shared by all files with the same contents."""
    return str(error).replace(f" file {file.path}", "")


@functools.cache
def codec(directory: pathlib.Path) -> Codec:
    """The codec saved in `directory`, loaded once by each process."""
    return codecs.load(directory)
