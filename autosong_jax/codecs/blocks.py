"""Signals of any length in memory that does not grow with them: cuts with context, chunks, and pieces that overlap.

Letters: B batch, C channels.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np


def with_context(blocks: Iterable[np.ndarray], largest: int, before: int, after: int,
                 rate: int) -> Iterator[tuple[np.ndarray, int, int]]:
    """Cuts a signal into cuts of so many frames of their own, and as many more on either side as are asked for.

    Args:
      blocks: the signal [B, any, C], in blocks of any length.
      largest: frames of a cut; the last one has the lowest power of two that suffices.
      before, after: frames to add on either side; where the signal has none, they are zeros.
      rate: positions of the signal in a frame.

    Yields:
      (cut [B, (before + frames + after) * rate, C], frames before its own, positions of the signal from its own on).
    """
    held, seen, full = None, 0, (before + largest + after) * rate
    for block in blocks:
        if held is None:
            held = np.zeros((len(block), before * rate, block.shape[2]), block.dtype)
        held = np.concatenate([held, block], axis=1)
        while held.shape[1] >= full:
            yield held[:, :full], seen, held.shape[1] - before * rate
            held, seen = held[:, largest * rate:], seen + largest
    while held is not None and (rest := held.shape[1] - before * rate) > 0:
        frames = min(largest, max(16, 1 << (math.ceil(rest / rate) - 1).bit_length()))
        length = (before + frames + after) * rate
        padding = max(0, length - held.shape[1])
        yield np.pad(held[:, :length], ((0, 0), (0, padding), (0, 0))), seen, rest
        held, seen = held[:, frames * rate:], seen + frames


def chunks(blocks: Iterable[np.ndarray], length: int, stride: int) -> Iterator[np.ndarray]:
    """Cuts a signal [B, any, C], in blocks of any length, into chunks, until one reaches its end; that may be short."""
    held = None
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=1)
        while held.shape[1] > length:
            yield held[:, :length]
            held = held[:, stride:]
    if held is not None and held.shape[1]:
        yield held


def overlap_add(pieces: Iterable[np.ndarray], length: int, stride: int) -> Iterator[np.ndarray]:
    """Puts pieces [B, up to length, C], each `stride` after the one before, into one signal.

    Where they overlap, each counts by its distance to its nearer end. Yields the signal in blocks.
    """
    weight = 0.5 - np.abs(np.linspace(0, 1, length + 2, dtype=np.float32)[1:-1, None] - 0.5)
    total = weights = None
    for piece in pieces:
        if total is None:
            total, weights = np.zeros_like(piece[:, :0]), weight[:0]
        missing = max(0, piece.shape[1] - total.shape[1])
        total = np.pad(total, ((0, 0), (0, missing), (0, 0)))
        weights = np.pad(weights, ((0, missing), (0, 0)))
        total[:, :piece.shape[1]] += weight[:piece.shape[1]] * piece
        weights[:piece.shape[1]] += weight[:piece.shape[1]]
        yield total[:, :stride] / weights[:stride]
        total, weights = total[:, stride:], weights[stride:]
    if total is not None and total.shape[1]:
        yield total / weights
