"""Songs while they are made, on the host, and which window of them is made next.

Letters: B songs, T frames, K codebooks.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Draft:
    """B songs while they are made.

    Attributes:
      codes: int32 [B, T, K].
      given: bool [T], the frames that stand.
      num_frames: int [B], the length of each song, as far as is known.
    """

    codes: np.ndarray
    given: np.ndarray
    num_frames: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray, given: np.ndarray, count: int) -> "Draft":
        """`count` songs that begin as one draft, codes integer [T, K] of which the frames `given` bool [T] stand."""
        return cls(np.tile(codes[None].astype(np.int32), (count, 1, 1)), given.copy(), np.full(count, len(codes)))

    @property
    def standing(self) -> int:
        """How many frames stand from the beginning on."""
        return len(self.given) if self.given.all() else int(np.argmin(self.given))

    def lengthened(self, total: int) -> "Draft":
        """These songs, all of whose frames stand, made longer; those that are over stay as long as they are."""
        length = len(self.given)
        if total == length:
            return self
        codes = np.zeros((len(self.codes), total, self.codes.shape[2]), np.int32)
        for song, begun in zip(codes, self.songs(), strict=True):
            song[:len(begun)] = begun
        return Draft(codes, np.arange(total) < length, np.where(self.num_frames < length, self.num_frames, total))

    def cut(self, start: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A window of `length` frames: its codes int32 [B, length, K], given bool [B, length], num_frames int32 [B]."""
        count, total, codebooks = self.codes.shape
        inside = min(start + length, total) - start
        codes, given = np.zeros((count, length, codebooks), np.int32), np.zeros((count, length), bool)
        codes[:, :inside] = self.codes[:, start:start + inside]
        given[:, :inside] = self.given[start:start + inside]
        return codes, given, np.clip(self.num_frames - start, 0, inside).astype(np.int32)

    def add(self, codes: np.ndarray, start: int, ends: np.ndarray) -> None:
        """Takes over codes [B, n, K] from frame `start` on where no frame stands yet.

        Args:
          ends: int [B], the frame at which each song is over; what is beyond these codes is not taken for sure.
        """
        stop = min(start + codes.shape[1], len(self.given))
        stands = self.given[start:stop, None]
        self.codes[:, start:stop] = np.where(stands, self.codes[:, start:stop], codes)
        self.num_frames = np.where(ends < stop, ends, self.num_frames)
        self.given[start:stop] = True

    def songs(self) -> list[np.ndarray]:
        """uint16 [T, K] each."""
        return [song[:length].astype(np.uint16) for song, length in zip(self.codes, self.num_frames, strict=True)]


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
