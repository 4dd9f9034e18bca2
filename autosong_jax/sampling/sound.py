"""What singing gives: whole songs, or sound as it is made. T frames, K codebooks."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from autosong_jax.audio import io
from autosong_jax.codecs.codec import Codec


@dataclasses.dataclass(frozen=True)
class GeneratedSong:
    """A generated song.

    Attributes:
      codes: uint16 [T, K].
      sample_rate: Hz.
      decode: of the codec.
      samples: how long the audio is to be; None for what the codec makes of the codes.
    """

    codes: np.ndarray
    sample_rate: int
    decode: Callable[[np.ndarray], np.ndarray] = dataclasses.field(repr=False)
    samples: int | None = None

    @functools.cached_property
    def audio(self) -> np.ndarray:
        """float32 [channels, samples], decoded when it is first asked for."""
        audio = self.decode(self.codes)
        return audio if self.samples is None else io.lasting(audio, self.samples)


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


def decoded(codec: Codec, pieces: Iterable[np.ndarray], block_frames: int, samples: int | None = None
            ) -> Iterator[AudioChunk]:
    """Chunks of a song.

    Args:
      codec: decodes them, `block_frames` frames at a time.
      pieces: uint16 [any, K] each.
      samples: how long they are to be together; None for what the codec makes of the codes.
    """
    waiting = []

    def taken() -> Iterator[np.ndarray]:
        for piece in pieces:
            waiting.append(piece)
            yield piece

    sent = 0
    for audio in codec.decode_blocks(taken(), block_frames):
        codes = np.concatenate(waiting) if waiting else np.zeros((0, codec.num_codebooks), np.uint16)
        waiting.clear()
        audio = audio[:, :None if samples is None else samples - sent]
        yield AudioChunk(audio, codec.sample_rate, codes, sent / codec.sample_rate)
        sent += audio.shape[1]
    if samples is not None and sent < samples:  # the song is over
        silence = np.zeros((codec.channels, samples - sent), np.float32)
        yield AudioChunk(silence, codec.sample_rate, np.zeros((0, codec.num_codebooks), np.uint16),
                         sent / codec.sample_rate)


def mixed(song: np.ndarray, backing: np.ndarray) -> np.ndarray:
    """Both together, float32 [channels, samples], as long as the longer of them: softer as a whole where it would clip.
    """
    samples = max(song.shape[1], backing.shape[1])
    both = io.lasting(song, samples) + io.lasting(backing, samples)
    return both / max(1.0, float(np.abs(both).max(initial=0)))
