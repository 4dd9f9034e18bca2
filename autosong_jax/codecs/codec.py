"""What a codec is, and how one is loaded from a directory.

A codec turns audio into K streams of small integers and back. Its directory holds `codec.json`, which for every codec
has `name`, `sample_rate`, `channels`, `frame_rate`, `num_codebooks` and `codebook_size` beside settings of its own.
"""

import pathlib
from typing import Protocol

import numpy as np

from autosong_jax import inputs
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.codecs.melrvq import codec as melrvq
from autosong_jax.errors import UserError


class Codec(Protocol):
    """Audio <-> codes. T frames, K codebooks, V entries in each."""

    sample_rate: int  # Hz
    channels: int
    frame_rate: float  # frames a second
    num_codebooks: int  # K
    codebook_size: int  # V

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """float32 [channels, samples] -> uint16 [T, K], codes in [0, V)."""

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """integer [T, K] -> float32 [channels, samples]."""

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `codec.json` and whatever else `load_codec` needs."""


def load_codec(directory: str | pathlib.Path) -> Codec:
    """Loads the codec saved in `directory`.

    Raises:
      UserError: there is no readable `codec.json`, or it names a codec that cannot be loaded here.
    """
    return _LOADERS[CodecInfo.load(directory).name](directory)


def _load_encodec(directory: str | pathlib.Path) -> Codec:
    from autosong_jax.codecs.encodec import codec as encodec

    return encodec.load(directory)


_LOADERS = {"melrvq": melrvq.MelRVQ.load, "encodec": _load_encodec}


def read_codes(path: str | pathlib.Path, num_codebooks: int, codebook_size: int) -> np.ndarray:
    """The codes in a .npy file, integer [T, K], mapped from the file rather than read into memory.

    Raises:
      UserError: it holds something else, nothing, or codes that a codec of K codebooks of V entries does not have.
    """
    expected = f"expected integers [frames, {num_codebooks}] in [0, {codebook_size})"
    inputs.stat_regular(path, "codes file")
    try:
        codes = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # its header is a literal of Python's, of which the parser has errors of its own
        raise UserError(f"{path} is not a .npy file of codes ({_short(error)}): {expected}") from error
    if codes.dtype.kind not in "iu" or codes.ndim != 2 or codes.shape[1] != num_codebooks:
        raise UserError(f"{path} holds {codes.dtype} {list(codes.shape)}: {expected}; an EnCodec's bandwidth decides "
                        "the number of codebooks")
    if not codes.size:
        raise UserError(f"{path} holds no codes")
    if not 0 <= codes.min() <= codes.max() < codebook_size:
        raise UserError(f"{path} holds codes from {codes.min()} to {codes.max()}: {expected}; they are another codec's")
    return codes


def _short(error: Exception) -> str:
    """What NumPy found, without the header itself, which may be as long as it likes."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    return text if len(text) <= 100 else f"{text[:97]}..."
