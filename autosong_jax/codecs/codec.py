"""What a codec is, and how one is opened.

A codec turns audio into frames of integers and back: codes of codebooks, or values. Its directory holds `codec.json`,
see `CodecInfo`, beside files of its own.
"""

import importlib
import pathlib
import types
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from autosong_jax import inputs
from autosong_jax.audio import io, spectrum
from autosong_jax.codecs.info import FILE, CodecInfo, Frames
from autosong_jax.codecs.table import CODECS, plain_info
from autosong_jax.errors import UserError
from autosong_jax.weights import files


class Codec:
    """Audio <-> frames: the base of every codec. T frames of a width and a dtype that `info.frames` says.

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

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """float32 [channels, samples] -> frames [T, width]."""
        return np.concatenate([self.info.frames.none, *self.encode_blocks([audio], self.loudness([audio]))])

    def decode(self, frames: np.ndarray) -> np.ndarray:
        """Frames, integers [T, width] within their bounds -> float32 [channels, samples]."""
        return np.concatenate([np.zeros((self.channels, 0), np.float32), *self.decode_blocks([frames])], axis=1)

    def loudness(self, blocks: Iterable[np.ndarray]) -> float | None:
        """The loudness of a song, float32 [channels, any] in blocks of any length, if frames do not hold it; else None.

        Where it is a number, `encode_blocks` needs it, and `decode_blocks` takes it.
        """
        return None

    def encode_blocks(self, blocks: Iterable[np.ndarray], loudness: float | None = None) -> Iterator[np.ndarray]:
        """What `encode` does, of a song in blocks of any length.

        Args:
          blocks: float32 [channels, any].
          loudness: of the whole song, as `loudness` gives it.

        Yields:
          Frames [any, width].
        """
        yield self.encode(np.concatenate(list(blocks), axis=1))

    def decode_blocks(self, blocks: Iterable[np.ndarray], block_frames: int | None = None,
                      loudness: float | None = None) -> Iterator[np.ndarray]:
        """What `decode` does, of frames in blocks of any length.

        Args:
          blocks: integers [any, width] within their bounds.
          block_frames: how many frames are decoded at a time: few come soon, many take less time in all.
          loudness: what the song shall have, as `loudness` gives it; by default the codec's own.

        Yields:
          float32 [channels, samples], as soon as it can.

        Raises:
          ValueError: a block has another shape, or a number is out of range.
        """
        yield self.decode(np.concatenate(list(blocks)))

    def latents(self, frames: np.ndarray) -> np.ndarray:
        """What frames stand for before they are sound, float32 [T, D]; by default they themselves."""
        return self.checked(frames).astype(np.float32)

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes into `directory`, made if need be, all that `load_codec` needs: `codec.json`, and for some more."""
        pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
        self.info.save(directory)

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
            if self.loudness([audio]) is not None:  # frames carry none
                decoded *= np.sqrt(np.mean(audio**2) / max(float(np.mean(decoded**2)), 1e-12))
            ours, theirs = decibels(audio), decibels(decoded)
            errors.append(np.abs(ours - theirs)[np.maximum(ours, theirs) > -60])
            samples += audio.shape[1]
        errors = np.concatenate(errors)
        return {"seconds": samples / self.sample_rate, "round_trip_db": float(errors.mean()) if errors.size else 0.0}

    def checked_audio(self, audio: np.ndarray) -> np.ndarray:
        """Audio as it was given, float32. Raises ValueError where it is not [channels, samples] of this codec's."""
        audio = np.asarray(audio, np.float32)
        if audio.ndim != 2 or len(audio) != self.channels:
            raise ValueError(f"audio has the shape {audio.shape}, expected [{self.channels}, samples]")
        return audio

    def checked(self, frames: np.ndarray) -> np.ndarray:
        """Frames [T, width] as they were given, in the dtype that batches have. Raises ValueError where they are not
        this codec's."""
        expected, frames = self.info.frames, np.asarray(frames)
        low, high = expected.bounds
        if frames.ndim != 2 or frames.shape[1] != expected.width:
            raise ValueError(f"{expected.noun} have the shape {frames.shape}, expected [frames, {expected.width}]")
        if frames.size and not low <= frames.min() <= frames.max() <= high:
            raise ValueError(f"{expected.noun} go from {frames.min()} to {frames.max()}, expected {low} to {high}")
        return frames.astype(expected.batch_dtype)


def load_codec(directory: str | pathlib.Path) -> Codec:
    """Loads the codec saved in `directory`.

    Raises:
      UserError: there is no readable `codec.json`, or it names a codec that cannot be loaded here.
    """
    return _load(CodecInfo.load(directory).name, directory)


def open_codec(source: str, bandwidth: float | None = None, flag: str = "--codec") -> Codec:
    """The codec that a user names.

    Args:
      source: a name in the `hub_ids` of a kind; one that `plain_info` knows; a directory of a codec, or of a dataset or
        a workdir, which has one in codec/; or a directory or a hub id of a released checkpoint.
      bandwidth: kbit/s, of a kind that has several.
      flag: what `source` was given by, for errors.

    Raises:
      UserError: there is none, or it has no such bandwidth.
    """
    if not pathlib.Path(source).is_dir():
        if plain := plain_info(source, flag):
            _check_bandwidth(bandwidth, plain.name, f"{flag}={source} is")
            return _module(plain.name).of(plain)
        if source in CODECS:
            released = ", ".join(CODECS[source].hub_ids)
            what, expected = ("a kind of codec", released) if released else (
                "fitted to the songs of a dataset", "DATASET/codec")
            raise UserError(f"{flag}={source} is {what}: expected {expected}")
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
    _check_bandwidth(bandwidth, kind, f"{directory} holds")
    return _load(kind, directory) if bandwidth is None else _load(kind, directory, bandwidth)


def _check_bandwidth(bandwidth: float | None, kind: str, found: str) -> None:
    if bandwidth is not None and not CODECS[kind].has_bandwidths:
        raise UserError(f"--bandwidth={bandwidth:g} is of a codec that has several, but {found} a {kind}: leave it out")


def _load(kind: str, directory: str | pathlib.Path, *options) -> Codec:
    return _module(kind).load(directory, *options)


def _module(kind: str) -> types.ModuleType:
    """`codecs/KIND/codec.py`, which may import JAX: nothing else here does."""
    return importlib.import_module(f"autosong_jax.codecs.{kind}.codec")


def frames_of(name: str, clip: np.ndarray, info: CodecInfo, load: Callable[[], Codec]) -> np.ndarray:
    """The frames of a caller's clip, integer [T, width].

    Args:
      name: what the caller calls it, for errors.
      clip: audio, float32 [channels, samples] at the codec's rate, or frames, integer [T, width].
      info: what the codec is.
      load: gives it, where the clip is audio.

    Raises:
      UserError: it is neither, or holds what is no number, or none of the codec's.
    """
    clip, frames = np.asarray(clip), info.frames
    if clip.dtype.kind not in "iu" or clip.ndim != 2 or clip.shape[1] != frames.width:
        return load().encode(io.checked(name, clip, info.sample_rate, info.channels))
    low, high = frames.bounds
    if clip.size and not low <= clip.min() <= clip.max() <= high:
        raise UserError(f"{name} holds {frames.noun} from {clip.min()} to {clip.max()}, expected {low} to {high}: they "
                        "are another codec's")
    return clip


def read_frames(path: str | pathlib.Path, frames: Frames) -> np.ndarray:
    """The frames in a .npy file, integer [T, width], mapped from the file rather than read into memory.

    Raises:
      UserError: it holds something else, nothing, or numbers that such frames do not have.
    """
    low, high = frames.bounds
    expected = f"expected integers [frames, {frames.width}] in [{low}, {high + 1})"
    inputs.stat_regular(path, f"{frames.noun} file")
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # its header is a literal of Python's, of which the parser has errors of its own
        raise UserError(f"{path} is not a .npy file of {frames.noun} ({_short(error)}): {expected}") from error
    if found.dtype.kind not in "iu" or found.ndim != 2 or found.shape[1] != frames.width:
        hint = "" if frames.size is None else "; an EnCodec's bandwidth decides the number of codebooks"
        raise UserError(f"{path} holds {found.dtype} {list(found.shape)}: {expected}{hint}")
    if not found.size:
        raise UserError(f"{path} holds no {frames.noun}")
    if not low <= found.min() <= found.max() <= high:
        raise UserError(f"{path} holds {frames.noun} from {found.min()} to {found.max()}: {expected}; they are another "
                        "codec's")
    return found


def _short(error: Exception) -> str:
    """What NumPy found, without the header itself, which may be as long as it likes."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    return text if len(text) <= 100 else f"{text[:97]}..."
