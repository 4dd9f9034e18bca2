"""Audio files in and out: any file that libsndfile reads, at the rate and number of channels asked for."""

import pathlib

import numpy as np

from autosong_jax.errors import UserError

_BLOCK_SECONDS = 60
_SUBTYPES = {".wav": "PCM_16", ".flac": "PCM_16"}


def read(path: str | pathlib.Path, sample_rate: int | None = None,
         channels: int | None = None) -> tuple[np.ndarray, int]:
    """Reads an audio file (wav, flac, ogg, mp3, ...), block by block: memory is bounded by what is returned.

    Args:
      path: the file.
      sample_rate: the rate wanted, in Hz; None keeps the file's own.
      channels: the number of channels wanted; None keeps the file's own. Fewer channels than the file has are each
        the mean of all of its channels; more are copies of a mono file's one.

    Returns:
      (float32 [channels, samples], its rate in Hz), full scale at +-1.

    Raises:
      UserError: the file is missing, is not readable audio, is cut short, holds no samples, or holds NaN or infinity.
    """
    import soundfile
    import soxr

    if not pathlib.Path(path).is_file():
        raise UserError(f"audio file {path} does not exist")
    try:
        with soundfile.SoundFile(path) as file:
            own_rate, own_channels = file.samplerate, file.channels
            rate = sample_rate or own_rate
            width = channels or own_channels
            resampler = None if rate == own_rate else soxr.ResampleStream(own_rate, rate, width, dtype="float32")
            parts = []
            for block in file.blocks(_BLOCK_SECONDS * own_rate, dtype="float32", always_2d=True):
                if not np.isfinite(block).all():
                    raise UserError(f"audio file {path} holds NaN or infinite samples")
                block = _mix(block, width)
                parts.append(block if resampler is None else resampler.resample_chunk(block))
            if not parts:
                raise UserError(f"audio file {path} holds no samples")
            if resampler is not None:
                parts.append(resampler.resample_chunk(np.zeros((0, width), np.float32), last=True))
    except soundfile.SoundFileError as error:
        raise UserError(f"audio file {path} cannot be read: {error}") from error
    return np.ascontiguousarray(np.concatenate(parts).T), rate


def _mix(block: np.ndarray, channels: int) -> np.ndarray:
    """float32 [samples, any] -> float32 [samples, channels]."""
    if block.shape[1] == channels:
        return block
    return np.repeat(block.mean(axis=1, keepdims=True), channels, axis=1)


def write(path: str | pathlib.Path, audio: np.ndarray, sample_rate: int) -> int:
    """Writes `audio` (float [channels, samples] or [samples], full scale at +-1) as 16-bit `.wav` or `.flac`.

    Returns:
      How many samples were beyond full scale; they are written as full scale.

    Raises:
      UserError: the suffix is another one, or the file cannot be written.
      ValueError: the samples are not all finite.
    """
    import soundfile

    path = pathlib.Path(path)
    subtype = _SUBTYPES.get(path.suffix.lower())
    if subtype is None:
        raise UserError(f"cannot write {path}: the suffix is {path.suffix!r}, expected one of {', '.join(_SUBTYPES)}")
    audio = np.atleast_2d(np.asarray(audio, np.float32))
    if not np.isfinite(audio).all():
        raise ValueError(f"{path}: the audio holds NaN or infinite samples")
    try:
        soundfile.write(path, np.clip(audio, -1, 1).T, sample_rate, subtype=subtype)
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"cannot write {path}: {error}") from error
    return int(np.count_nonzero(np.abs(audio) > 1))
