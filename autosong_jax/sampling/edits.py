"""Edits of songs: which frames of a clip, or of several in a row, stay and which are made anew.

Letters: T frames, D numbers in a frame: one of each codebook, where frames are codes.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from autosong_jax.errors import UserError
from autosong_jax.sampling.options import MAX_SECONDS


@dataclasses.dataclass(frozen=True)
class Edit:
    """Clips in a row, what is made anew of them, and what is added to them.

    Attributes:
      clips: frames, integer [any, D]; to `Singer.edit` also audio, float32 [channels, samples] at the codec's rate.
      spans: seconds (from, to) to make anew, in the row of clips, with what is between them and without what is before.
        Every frame that a span touches is made anew.
      before, between, after: seconds to make before the first clip, between two of them, and after the last.
    """

    clips: Sequence[np.ndarray]
    spans: Sequence[tuple[float, float]] = ()
    before: float = 0.0
    between: float = 0.0
    after: float = 0.0

    def timeline(self, frame_rate: float) -> tuple[np.ndarray, np.ndarray]:
        """Lays the clips, which are frames, out in a row and marks what stays of them.

        Returns:
          frames [T, D] of the clips' dtype, zeros where there is none; given bool [T].

        Raises:
          UserError: a span is empty, outside the row or overlaps another; a time is negative; or there is nothing to
            make.
        """
        for name in ("before", "between", "after"):
            if not 0 <= getattr(self, name) <= MAX_SECONDS:
                raise UserError(f"{getattr(self, name)} s {name} a clip: expected at least 0, and at most "
                                f"{MAX_SECONDS}")
        gap = np.zeros((round(self.between * frame_rate), self.clips[0].shape[1]), self.clips[0].dtype)
        pieces = [piece for clip in self.clips for piece in (gap, clip)][1:]
        frames = np.concatenate(pieces)
        given = np.concatenate([np.full(len(piece), piece is not gap) for piece in pieces])
        _check_spans(self.spans, len(frames) / frame_rate)
        for start, stop in self.spans:
            # A frame is touched by a span only by more than what binary fractions of a second are wrong by.
            given[math.floor(start * frame_rate + 1e-6):math.ceil(stop * frame_rate - 1e-6)] = False
        around = round(self.before * frame_rate), round(self.after * frame_rate)
        frames, given = np.pad(frames, (around, (0, 0))), np.pad(given, around)
        if given.all():
            raise UserError("nothing to edit: expected a span (from, to), or seconds before, between or after")
        return frames, given


def _check_spans(spans: Sequence[tuple[float, float]], seconds: float) -> None:
    last = None
    for start, stop in sorted(spans):
        if not start < stop:
            raise UserError(f"the span from {start} s to {stop} s is empty: expected its end after its start")
        if start < 0 or stop > seconds + 1e-6:
            raise UserError(f"the span from {start} s to {stop} s is outside of the song: expected it within 0 to "
                            f"{seconds:.2f} s; to make more, ask for seconds before or after it")
        if last is not None and start < last[1]:
            raise UserError(f"the spans from {last[0]} s to {last[1]} s and from {start} s to {stop} s overlap: make "
                            "them one")
        last = start, stop
