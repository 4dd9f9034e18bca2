"""What singing gives: whole songs, or sound as it is made. T frames, K codebooks."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from autosong_jax.codecs.codec import Codec


@dataclasses.dataclass(frozen=True)
class GeneratedSong:
    """A generated song.

    Attributes:
      codes: uint16 [T, K].
      sample_rate: Hz.
      decode: of the codec.
    """

    codes: np.ndarray
    sample_rate: int
    decode: Callable[[np.ndarray], np.ndarray] = dataclasses.field(repr=False)

    @functools.cached_property
    def audio(self) -> np.ndarray:
        """float32 [channels, samples], decoded when it is first asked for."""
        return self.decode(self.codes)


@dataclasses.dataclass(frozen=True)
class AudioChunk:
    """What has been made of a song since its last chunk.

    Attributes:
      audio: float32 [channels, samples], which follows that of the last chunk.
      sample_rate: Hz.
      codes: uint16 [n, K], which follow those of the last chunk. A codec that looks ahead decodes a frame once it has
        some after it, so codes may be ahead of the audio.
      start: where in the song the audio begins, in seconds.
    """

    audio: np.ndarray
    sample_rate: int
    codes: np.ndarray
    start: float


def decoded(codec: Codec, pieces: Iterable[np.ndarray], block_frames: int) -> Iterator[AudioChunk]:
    """Chunks of a song.

    Args:
      codec: decodes them, `block_frames` frames at a time.
      pieces: uint16 [any, K] each.
    """
    waiting = []

    def taken() -> Iterator[np.ndarray]:
        for piece in pieces:
            waiting.append(piece)
            yield piece

    samples = 0
    for audio in codec.decode_blocks(taken(), block_frames):
        codes = np.concatenate(waiting) if waiting else np.zeros((0, codec.num_codebooks), np.uint16)
        waiting.clear()
        yield AudioChunk(audio, codec.sample_rate, codes, samples / codec.sample_rate)
        samples += audio.shape[1]
