"""Where the lead plays: windows of a recording, by the lead's sliding RMS."""

import itertools
from collections.abc import Iterable

import numpy as np


def find_windows(blocks: Iterable[np.ndarray], samples: int, frame: int, stride: int,
                 threshold: float) -> list[tuple[int, int]]:
    """The windows in which audio is loud, in samples.

    The audio is cut into steps of `stride` samples; the last one may be shorter. Around the middle of each lies a frame
    of `frame` samples; of a frame that reaches over the beginning or the end, what lies within counts. A step is loud
    if the RMS of its frame's samples, of all channels, is `threshold` or more. A window is a longest run of loud steps.

    So a lead much louder than the threshold, from second 20 to 80, gives with frames of 10 s nearly 15 to 85; one that
    is only just as loud as the threshold, 20 to 80 less up to half a frame at both ends.

    Args:
      blocks: the audio, float [channels, samples] block by block. Kept is one number for each step.
      samples: how many there are in all.
      frame, stride: samples.
      threshold: RMS; full scale is 1.

    Returns:
      (first sample, one past the last) of each window, in order.
    """
    steps = np.arange(0, samples, stride)
    starts = steps + stride // 2 - frame // 2
    starts, stops = np.clip(starts, 0, samples), np.clip(starts + frame, 0, samples)
    bounds = np.unique(np.concatenate([starts, stops]))
    energy = np.zeros(len(bounds))  # of all samples before each bound
    heard, total, next_bound, channels = 0, 0.0, 0, 1
    for block in blocks:
        channels = len(block)
        sums = total + np.concatenate([[0.0], np.cumsum(np.square(block.astype(np.float64)).sum(0))])
        last = np.searchsorted(bounds, heard + block.shape[1], "right")
        energy[next_bound:last] = sums[bounds[next_bound:last] - heard]
        heard, total, next_bound = heard + block.shape[1], sums[-1], last
    lengths = np.maximum(stops - starts, 1) * channels
    inside = energy[np.searchsorted(bounds, stops)] - energy[np.searchsorted(bounds, starts)]
    loud = np.concatenate([[False], inside >= threshold**2 * lengths, [False]])
    changes = np.flatnonzero(loud[1:] != loud[:-1])
    return [(int(first) * stride, min(int(last) * stride, samples))
            for first, last in zip(changes[::2], changes[1::2], strict=True)]


def cut(windows: Iterable[tuple[int, int]], least: int, most: int) -> list[tuple[int, int]]:
    """The windows of at least `least` samples, each longer than `most` in as few equal parts as are not (a sample more
    or less)."""
    parts = []
    for start, stop in windows:
        if stop - start >= least:
            count = -(-(stop - start) // most)
            bounds = [start + (stop - start) * i // count for i in range(count + 1)]
            parts += itertools.pairwise(bounds)
    return parts
