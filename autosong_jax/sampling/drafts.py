"""Songs while they are made, on the host, and which window of them is made next.

Letters: B songs, T frames, K codebooks.
"""

import dataclasses
from collections.abc import Sequence

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
    def begin(cls, beginnings: Sequence[np.ndarray], total: int, given: int) -> "Draft":
        """Songs of `total` frames, the first `given` of which stand; what is shorter than that is over."""
        codes = np.zeros((len(beginnings), total, beginnings[0].shape[1]), np.int32)
        for song, beginning in zip(codes, beginnings, strict=True):
            song[:len(beginning)] = beginning
        lengths = np.array([len(beginning) for beginning in beginnings])
        return cls(codes, np.arange(total) < given, np.where(lengths < given, lengths, total))

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
