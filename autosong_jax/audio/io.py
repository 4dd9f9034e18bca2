"""Audio files in and out: whatever libsndfile reads, at the rate and with the channels asked for."""

import contextlib
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from autosong_jax import inputs
from autosong_jax.errors import UserError

if TYPE_CHECKING:
    import soundfile

_BLOCK_SECONDS = 60
_BLOCK_SAMPLES = 2**24  # of all channels, at most
RATES = (100, 768_000)  # Hz, of files
_LARGEST = 2**32  # bytes that `read` returns: twelve hours at 24 kHz
_SUFFIXES = (".wav", ".flac")


def read(path: str | pathlib.Path, sample_rate: int | None = None,
         channels: int | None = None) -> tuple[np.ndarray, int]:
    """Reads an audio file (wav, flac, ogg, mp3, ...).

    It is mixed and resampled block by block, so an hour of 48 kHz stereo needs little more memory than what is
    returned.

    Args:
      path: the file.
      sample_rate: the rate wanted, in Hz; None keeps the file's own.
      channels: the number of channels wanted; None keeps the file's own. Where they differ, each channel wanted is the
        mean of all of the file's.

    Returns:
      (float32 [channels, samples], its rate in Hz), full scale at +-1.

    Raises:
      UserError: the file is missing, is not readable audio, ends early, holds no samples, or holds NaN or infinity.
    """
    with _open(path) as file:
        rate, width = sample_rate or file.samplerate, channels or file.channels
        size = 4 * width * rate * file.frames / file.samplerate
        if size > _LARGEST:
            raise UserError(f"audio file {path} lasts {file.frames / file.samplerate:.0f} s, {size / 2**30:.1f} GiB at "
                            f"{rate} Hz: expected at most {_LARGEST / 2**30:g} GiB; cut it")
    return np.concatenate(list(read_blocks(path, rate, width)), axis=1), rate


def read_blocks(path: str | pathlib.Path, sample_rate: int, channels: int) -> Iterator[np.ndarray]:
    """What `read` reads, float32 [channels, samples] block by block."""
    import soxr

    with _open(path) as file:
        resampler = None
        if sample_rate != file.samplerate:
            resampler = soxr.ResampleStream(file.samplerate, sample_rate, channels)
        samples = resampled = 0
        most = min(_BLOCK_SECONDS * file.samplerate, max(1, _BLOCK_SAMPLES // file.channels))
        while len(block := _read(file, most)):
            if not np.isfinite(block).all():
                raise UserError(f"audio file {path} holds NaN or infinite samples: repair or replace it")
            samples += len(block)
            block = _mix(block, channels)
            block = resampler.resample_chunk(block) if resampler else block
            resampled += len(block)
            yield np.ascontiguousarray(block.T)
        if not samples:
            raise UserError(f"audio file {path} holds no samples")
        if samples < file.frames - file.samplerate:  # headers of intact mp3 files may be off by less than a second
            raise UserError(f"audio file {path} ends early: {samples} of {file.frames} samples can be read")
        if resampler:
            rest = resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True)
            # Of one sample or two soxr may leave none; what is audio stays audio.
            yield (rest if resampled + len(rest) else np.zeros((1, channels), np.float32)).T


def duration(path: str | pathlib.Path) -> float:
    """Seconds, by the file's header. Raises UserError as `read` does."""
    with _open(path) as file:
        return file.frames / file.samplerate


@contextlib.contextmanager
def _open(path: str | pathlib.Path) -> Iterator["soundfile.SoundFile"]:
    """The open file; what goes wrong inside libsndfile becomes a UserError."""
    import soundfile

    inputs.stat_regular(path, "audio file")
    try:
        with _quiet():
            file = soundfile.SoundFile(os.fsencode(path))  # a name need not be UTF-8
        with file:
            if not RATES[0] <= file.samplerate <= RATES[1]:
                raise UserError(f"audio file {path} has {file.samplerate} samples a second, expected {RATES[0]} to "
                                f"{RATES[1]}")
            yield file
    except soundfile.LibsndfileError as error:
        raise UserError(f"audio file {path} is not readable audio (libsndfile: {error.error_string})") from error


def _read(file: "soundfile.SoundFile", samples: int) -> np.ndarray:
    """float32 [at most samples, channels]."""
    with _quiet():
        return file.read(samples, dtype="float32", always_2d=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what libmpg123 writes to stderr by itself from the terminal; what it means is said by libsndfile's errors.

    It writes to the file descriptor, so that is turned away for as long as one call takes.
    """
    with _TURNING:
        kept = os.dup(2)
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


_TURNING = threading.Lock()  # of two threads, the second would keep the first one's nowhere


def _mix(block: np.ndarray, channels: int) -> np.ndarray:
    """float32 [samples, any] -> float32 [samples, channels]."""
    if block.shape[1] == channels:
        return block
    return np.repeat(block.mean(axis=1, keepdims=True), channels, axis=1)


def lasting(audio: np.ndarray, samples: int) -> np.ndarray:
    """Audio [channels, any] of so many samples: cut, or followed by silence."""
    missing = samples - audio.shape[1]
    return np.pad(audio, ((0, 0), (0, missing))) if missing > 0 else audio[:, :samples]


def checked(name: str, audio: np.ndarray, sample_rate: int, channels: int | None = None) -> np.ndarray:
    """Audio of a caller as float32 [channels, samples].

    Args:
      name: what the caller calls it, for errors.
      sample_rate: Hz, that it must be at, for errors.
      channels: how many it must have; None for any number.

    Raises:
      UserError: if it is something else, or holds values that are no numbers.
    """
    audio = np.asarray(audio)
    if audio.dtype.kind != "f" or audio.ndim != 2 or len(audio) != (channels or max(len(audio), 1)):
        raise UserError(f"{name} is {audio.dtype} of shape {list(audio.shape)}, expected float32 "
                        f"[{channels or 'channels'}, samples] at {sample_rate} Hz, full scale at 1")
    if not np.isfinite(audio).all():
        raise UserError(f"{name} holds NaN or infinite samples")
    return audio.astype(np.float32)


def write(path: str | pathlib.Path, audio: np.ndarray, sample_rate: int) -> int:
    """Writes `audio` (float [channels, samples] or [samples], full scale at +-1) as 16-bit `.wav` or `.flac`.

    Returns:
      How many samples were beyond full scale; they are written as full scale.

    Raises:
      UserError: the suffix is another one, or the file cannot be written.
      ValueError: the samples are not all finite.
    """
    audio = np.atleast_2d(np.asarray(audio, np.float32))
    return write_blocks(path, [audio], sample_rate, len(audio))


def write_blocks(path: str | pathlib.Path, blocks: Iterable[np.ndarray], sample_rate: int, channels: int) -> int:
    """What `write` does, of audio in blocks, float [channels, any]; without all of them there is no file."""
    import soundfile

    path = pathlib.Path(path)
    if not RATES[0] <= sample_rate <= RATES[1]:
        raise UserError(f"cannot write {path}: its rate is {sample_rate} Hz, expected {RATES[0]} to {RATES[1]}")
    if path.suffix.lower() not in _SUFFIXES:
        raise UserError(f"cannot write {path}: its suffix is {path.suffix!r}, expected {' or '.join(_SUFFIXES)}")
    clipped, unfinished = 0, path.with_name(f".unfinished-{path.name}")
    try:
        with soundfile.SoundFile(os.fsencode(unfinished), "w", sample_rate, channels, subtype="PCM_16") as file:
            for block in blocks:
                if not np.isfinite(block).all():
                    raise ValueError(f"{path}: the audio holds NaN or infinite samples")
                clipped += int(np.count_nonzero(np.abs(block) > 1))
                file.write(np.clip(block, -1, 1).T)
        unfinished.replace(path)
    except soundfile.LibsndfileError as error:
        raise UserError(f"cannot write {path} (libsndfile: {error.error_string})") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return clipped
