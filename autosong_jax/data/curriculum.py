"""A curriculum of lengths: the windows of the first steps are short, and double until they have their full length.

Whatever is compiled for batches is compiled anew for each length, of which there are few; a step over short windows
takes the less time. Windows follow from the step alone, so a run resumes anywhere.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def frames_at(step: int, frames: int, first: int, steps: int) -> int:
    """How many frames windows have at a step.

    Args:
      step: of training, from 0 on.
      frames: of a full window.
      first: of one at step 0.
      steps: from this step on windows are full; before it each length has as many steps. 0 for full ones always.
    """
    if step >= steps or first >= frames:
        return frames
    return first * 2 ** (step * math.ceil(math.log2(frames / first)) // steps)


def shortened(batch: Mapping[str, Any], frames: int) -> dict[str, Any]:
    """A batch of `data.dataset` without sources, of windows that end after so many frames, or as they do."""
    num_frames = np.minimum(batch["num_frames"], frames)
    return {**batch, "frames": batch["frames"][:, :frames], "num_frames": num_frames,
            "song_ends": batch["song_ends"] & (batch["num_frames"] < frames)}
