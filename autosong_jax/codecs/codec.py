"""What a codec is, and how one is opened.

A codec turns audio into K streams of small integers and back. Its directory holds `codec.json`, see `CodecInfo`, beside
files of its own.
"""

import importlib
import pathlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from autosong_jax import inputs
from autosong_jax.audio import io, spectrum
from autosong_jax.codecs.info import FILE, CodecInfo
from autosong_jax.codecs.table import CODECS
from autosong_jax.errors import UserError
from autosong_jax.weights import files


class Codec:
    """Audio <-> codes: the base of every codec. T frames, K codebooks, V entries in each.

    A codec has `info` and `save`. Of `encode` and `encode_blocks` it defines at least one, and so of `decode` and
    `decode_blocks`; here each is made of the other.

    Attributes:
      info: what it is.
      exact_blocks: whether audio decoded in blocks is, but for rounding, that decoded at once, whatever the blocks are.
    """

    info: CodecInfo
    exact_blocks = True

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.info.sample_rate

    @property
    def channels(self) -> int:
        """1 or 2."""
        return self.info.channels

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.info.frame_rate

    @property
    def num_codebooks(self) -> int:
        """K."""
        return self.info.num_codebooks

    @property
    def codebook_size(self) -> int:
        """V."""
        return self.info.codebook_size

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """float32 [channels, samples] -> uint16 [T, K], codes in [0, V)."""
        none = np.zeros((0, self.num_codebooks), np.uint16)
        return np.concatenate([none, *self.encode_blocks([audio], self.loudness([audio]))])

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Integers [T, K] in [0, V) -> float32 [channels, samples]."""
        return np.concatenate([np.zeros((self.channels, 0), np.float32), *self.decode_blocks([codes])], axis=1)

    def loudness(self, blocks: Iterable[np.ndarray]) -> float | None:
        """The loudness of a song, float32 [channels, any] in blocks of any length, if codes do not hold it; else None.

        Where it is a number, `encode_blocks` needs it, and `decode_blocks` takes it.
        """
        return None

    def encode_blocks(self, blocks: Iterable[np.ndarray], loudness: float | None = None) -> Iterator[np.ndarray]:
        """What `encode` does, of a song in blocks of any length.

        Args:
          blocks: float32 [channels, any].
          loudness: of the whole song, as `loudness` gives it.

        Yields:
          uint16 [frames, K].
        """
        yield self.encode(np.concatenate(list(blocks), axis=1))

    def decode_blocks(self, blocks: Iterable[np.ndarray], block_frames: int | None = None,
                      loudness: float | None = None) -> Iterator[np.ndarray]:
        """What `decode` does, of codes in blocks of any length.

        Args:
          blocks: integers [any, K] in [0, V).
          block_frames: how many frames are decoded at a time: few come soon, many take less time in all.
          loudness: what the song shall have, as `loudness` gives it; by default the codec's own.

        Yields:
          float32 [channels, samples], as soon as it can.

        Raises:
          ValueError: a block has another shape, or a code is out of range.
        """
        yield self.decode(np.concatenate(list(blocks)))

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `codec.json` and whatever else `load_codec` needs."""
        raise NotImplementedError

    def quality(self, songs: Iterable[np.ndarray]) -> dict:
        """How well excerpts survive being coded. Takes as long as decoding them.

        Args:
          songs: audio, float32 [channels, samples] each.

        Returns:
          `seconds`: how much was measured; `round_trip_db`: mean absolute error of the magnitudes of 128 bands, where
          either is above -60 dB; a codec may say more.
        """
        window, hop = spectrum.hann(2048), 512
        filters = spectrum.mel_filters(self.sample_rate, 2048, 128)

        def decibels(audio: np.ndarray) -> np.ndarray:
            padded = np.pad(audio, ((0, 0), (0, -audio.shape[1] % hop)))
            bands = np.stack([spectrum.band_magnitudes(channel, window, hop, filters) for channel in padded])
            return 20 * np.log10(np.maximum(bands, 1e-3))

        errors, samples = [], 0
        for audio in songs:
            decoded = self.decode(self.encode(audio))[:, :audio.shape[1]]
            decoded = np.pad(decoded, ((0, 0), (0, audio.shape[1] - decoded.shape[1])))
            if self.loudness([audio]) is not None:  # codes carry none
                decoded *= np.sqrt(np.mean(audio**2) / max(float(np.mean(decoded**2)), 1e-12))
            ours, theirs = decibels(audio), decibels(decoded)
            errors.append(np.abs(ours - theirs)[np.maximum(ours, theirs) > -60])
            samples += audio.shape[1]
        errors = np.concatenate(errors)
        return {"seconds": samples / self.sample_rate, "round_trip_db": float(errors.mean()) if errors.size else 0.0}

    def checked(self, codes: np.ndarray) -> np.ndarray:
        """Codes as they were given, int32 [T, K]. Raises ValueError where they are not this codec's."""
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.shape[1] != self.num_codebooks:
            raise ValueError(f"codes have the shape {codes.shape}, expected [frames, {self.num_codebooks}]")
        if codes.size and not 0 <= codes.min() <= codes.max() < self.codebook_size:
            raise ValueError(f"codes go from {codes.min()} to {codes.max()}, expected 0 to {self.codebook_size - 1}")
        return codes.astype(np.int32)


def load_codec(directory: str | pathlib.Path) -> Codec:
    """Loads the codec saved in `directory`.

    Raises:
      UserError: there is no readable `codec.json`, or it names a codec that cannot be loaded here.
    """
    return _load(CodecInfo.load(directory).name, directory)


def open_codec(source: str, bandwidth: float | None = None, flag: str = "--codec") -> Codec:
    """The codec that a user names.

    Args:
      source: a name in the `hub_ids` of a kind; a directory of a codec, or of a dataset or a workdir, which has one in
        codec/; or a directory or a hub id of a released checkpoint.
      bandwidth: kbit/s, of a kind that has several.
      flag: what `source` was given by, for errors.

    Raises:
      UserError: there is none, or it has no such bandwidth.
    """
    if source in CODECS and not pathlib.Path(source).is_dir():
        released = ", ".join(CODECS[source].hub_ids)
        expected = released or "DATASET/codec"
        raise UserError(f"{flag}={source} is {'a kind of codec' if released else 'fitted to the songs of a dataset'}: "
                        f"expected {expected}")
    hub_ids = {name: hub_id for info in CODECS.values() for name, hub_id in info.hub_ids.items()}
    directory = files.locate(hub_ids.get(source, source), flag)
    if (directory / "codec" / FILE).exists():
        directory /= "codec"
    if (directory / FILE).exists():
        kind = CodecInfo.load(directory).name
    else:
        kind = files.read_json(directory / "config.json").get("model_type")
        if not isinstance(kind, str) or kind not in CODECS:
            raise UserError(f"{directory / 'config.json'} is of a {kind!r} model, expected one of {', '.join(CODECS)}")
    if bandwidth is None:
        return _load(kind, directory)
    if not CODECS[kind].has_bandwidths:
        raise UserError(f"--bandwidth={bandwidth:g} is of a codec that has several, but {directory} holds a {kind}: "
                        "leave it out")
    return _load(kind, directory, bandwidth)


def _load(kind: str, directory: str | pathlib.Path, *options) -> Codec:
    """Of `codecs/KIND/codec.py`, which may import JAX: nothing else here does."""
    return importlib.import_module(f"autosong_jax.codecs.{kind}.codec").load(directory, *options)


def codes_of(name: str, clip: np.ndarray, info: CodecInfo, load: Callable[[], Codec]) -> np.ndarray:
    """The codes of a caller's clip, integer [T, K].

    Args:
      name: what the caller calls it, for errors.
      clip: audio, float32 [channels, samples] at the codec's rate, or codes, integer [T, K].
      info: what the codec is.
      load: gives it, where the clip is audio.

    Raises:
      UserError: it is neither, or holds what is no number or no code.
    """
    clip = np.asarray(clip)
    if clip.dtype.kind not in "iu" or clip.ndim != 2 or clip.shape[1] != info.num_codebooks:
        return load().encode(io.checked(name, clip, info.sample_rate, info.channels))
    if clip.size and not 0 <= clip.min() <= clip.max() < info.codebook_size:
        raise UserError(f"{name} holds codes from {clip.min()} to {clip.max()}, expected 0 to "
                        f"{info.codebook_size - 1}: they are another codec's")
    return clip


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
