"""What singing gives: whole songs, or sound as it is made. T frames of the codec, each of its width."""

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
      frames: [T, width], of a codec of codes uint16 [T, K].
      sample_rate: Hz.
      decode: of the codec.
      samples: how long the audio is to be; None for what the codec makes of the frames.
    """

    frames: np.ndarray
    sample_rate: int
    decode: Callable[[np.ndarray], np.ndarray] = dataclasses.field(repr=False)
    samples: int | None = None

    @property
    def codes(self) -> np.ndarray:
        """The frames, as a codec of codes has them."""
        return self.frames

    @functools.cached_property
    def audio(self) -> np.ndarray:
        """float32 [channels, samples], decoded when it is first asked for."""
        audio = self.decode(self.frames)
        return audio if self.samples is None else io.lasting(audio, self.samples)


@dataclasses.dataclass(frozen=True)
class AudioChunk:
    """What has been made of a song since its last chunk.

    Attributes:
      audio: float32 [channels, samples], which follows that of the last chunk.
      sample_rate: Hz.
      frames: [n, width], which follow those of the last chunk. A codec that looks ahead decodes a frame once it has
        some after it, so frames may be ahead of the audio.
      start: where in the song the audio begins, in seconds.
    """

    audio: np.ndarray
    sample_rate: int
    frames: np.ndarray
    start: float

    @property
    def codes(self) -> np.ndarray:
        """The frames, as a codec of codes has them."""
        return self.frames


def decoded(codec: Codec, pieces: Iterable[np.ndarray], block_frames: int, samples: int | None = None
            ) -> Iterator[AudioChunk]:
    """Chunks of a song.

    Args:
      codec: decodes them, `block_frames` frames at a time.
      pieces: [any, width] each.
      samples: how long they are to be together; None for what the codec makes of the frames.
    """
    none, waiting = codec.info.frames.none, []

    def taken() -> Iterator[np.ndarray]:
        for piece in pieces:
            waiting.append(piece)
            yield piece

    sent = 0
    for audio in codec.decode_blocks(taken(), block_frames):
        frames = np.concatenate([none, *waiting])
        waiting.clear()
        audio = audio[:, :None if samples is None else samples - sent]
        yield AudioChunk(audio, codec.sample_rate, frames, sent / codec.sample_rate)
        sent += audio.shape[1]
    if samples is not None and sent < samples:  # the song is over
        silence = np.zeros((codec.channels, samples - sent), np.float32)
        yield AudioChunk(silence, codec.sample_rate, none, sent / codec.sample_rate)


def mixed(song: np.ndarray, backing: np.ndarray) -> np.ndarray:
    """Both together, float32 [channels, samples], as long as the longer of them: softer as a whole where it would clip.
    """
    samples = max(song.shape[1], backing.shape[1])
    both = io.lasting(song, samples) + io.lasting(backing, samples)
    return both / max(1.0, float(np.abs(both).max(initial=0)))
