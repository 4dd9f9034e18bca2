"""Songs while they are made, on the host, and which window of them is made next.

Letters: B songs, T frames, D numbers in a frame: one of each codebook, where frames are codes.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass
class Draft:
    """B songs while they are made.

    Attributes:
      frames: [B, T, D].
      given: bool [T], the frames that stand.
      num_frames: int [B], the length of each song, as far as is known.
    """

    frames: np.ndarray
    given: np.ndarray
    num_frames: np.ndarray

    @classmethod
    def of(cls, frames: np.ndarray, given: np.ndarray, count: int) -> "Draft":
        """`count` songs that begin as one draft, frames [T, D] of which those `given`, bool [T], stand."""
        return cls(np.tile(frames[None], (count, 1, 1)), given.copy(), np.full(count, len(frames)))

    @property
    def standing(self) -> int:
        """How many frames stand from the beginning on."""
        return len(self.given) if self.given.all() else int(np.argmin(self.given))

    def lengthened(self, total: int) -> "Draft":
        """These songs, all of whose frames stand, made longer; those that are over stay as long as they are."""
        length = len(self.given)
        if total == length:
            return self
        frames = np.zeros((len(self.frames), total, self.frames.shape[2]), self.frames.dtype)
        for song, begun in zip(frames, self.songs(), strict=True):
            song[:len(begun)] = begun
        return Draft(frames, np.arange(total) < length, np.where(self.num_frames < length, self.num_frames, total))

    def cut(self, start: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A window of `length` frames: they [B, length, D], given bool [B, length], num_frames int32 [B]."""
        count, total, width = self.frames.shape
        inside = min(start + length, total) - start
        frames, given = np.zeros((count, length, width), self.frames.dtype), np.zeros((count, length), bool)
        frames[:, :inside] = self.frames[:, start:start + inside]
        given[:, :inside] = self.given[start:start + inside]
        return frames, given, np.clip(self.num_frames - start, 0, inside).astype(np.int32)

    def add(self, frames: np.ndarray, start: int, ends: np.ndarray) -> None:
        """Takes over frames [B, n, D] from frame `start` on where none stands yet.

        Args:
          ends: int [B], the frame at which each song is over; what is beyond these frames is not taken for sure.
        """
        stop = min(start + frames.shape[1], len(self.given))
        stands = self.given[start:stop, None]
        self.frames[:, start:stop] = np.where(stands, self.frames[:, start:stop], frames)
        self.num_frames = np.where(ends < stop, ends, self.num_frames)
        self.given[start:stop] = True

    def songs(self) -> list[np.ndarray]:
        """[T, D] each."""
        return [song[:length] for song, length in zip(self.frames, self.num_frames, strict=True)]


def next_window(given: np.ndarray, window: int, overlap: int) -> tuple[int, int]:
    """Which frames to take for the first gap of a song, and how many of them then stand.

    A window holds as much of both sides of the gap as it can, but at least `overlap` frames before it. Of a gap that is
    then too long, the first part is filled. What a window would fill of a later gap, but not to its end, is left to the
    next window.

    Args:
      given: bool [frames], with a gap.

    Returns:
      start: the first frame of the window, which ends after `window` frames or with the song; stop: all frames before
      it are given once the window is filled.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[True], given, [True]])))
    first, last = edges[0], edges[1]
    start = first - max(overlap, (window - (last - first)) // 2)
    start = int(np.clip(start, 0, max(len(given) - window, 0)))
    whole = [int(end) for end in edges[1::2] if end <= start + window]
    return start, whole[-1] if whole else min(start + window, len(given))


def laid(given: np.ndarray, window: int, overlap: int) -> Iterator[tuple[int, np.ndarray]]:
    """The windows in which the missing frames of a song are made; arguments as of `next_window`.

    Yields:
      start: the first frame of a window; made: int [n], the frames of the song that are made in it.
    """
    given = given.copy()
    while not given.all():
        start, stop = next_window(given, window, overlap)
        yield start, start + np.flatnonzero(~given[start:stop])
        given[start:stop] = True
