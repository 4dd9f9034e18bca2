"""Audio on its way through the stages: raw float32 files of any length, written from the start, read anywhere."""

import os
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

BLOCK = 2**20  # samples of all channels that are read at once, where the length does not matter
_DTYPE = np.dtype("<f4")


class TrackWriter:
    """Writes a track: float32, channels side by side."""

    def __init__(self, path: pathlib.Path):
        self._file = open(path, "wb")  # noqa: SIM115 (closed at the end of the with statement)

    def __enter__(self) -> "TrackWriter":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def append(self, block: np.ndarray) -> None:
        """Adds float [channels, samples]."""
        self._file.write(np.ascontiguousarray(block.T, _DTYPE))


class Track:
    """A track that has been written."""

    def __init__(self, path: pathlib.Path, channels: int):
        self.path, self.channels = path, channels
        self.samples = os.path.getsize(path) // (channels * _DTYPE.itemsize)

    def read(self, start: int, stop: int) -> np.ndarray:
        """float32 [channels, stop - start]; before the beginning and after the end there is silence."""
        block = np.zeros((max(0, stop - start), self.channels), np.float32)
        first, last = max(start, 0), min(stop, self.samples)
        if first < last:
            width = self.channels * _DTYPE.itemsize
            block[first - start:last - start] = np.fromfile(
                self.path, _DTYPE, (last - first) * self.channels, offset=first * width).reshape(-1, self.channels)
        return block.T

    def blocks(self) -> Iterator[np.ndarray]:
        """All of it, float32 [channels, samples] block by block."""
        length = BLOCK // self.channels
        for start in range(0, self.samples, length):
            yield self.read(start, min(start + length, self.samples))


def resampled(blocks: Iterable[np.ndarray], channels: int, rate: int, wanted: int) -> Iterator[np.ndarray]:
    """Blocks, float32 [channels, samples], at another rate: one continuous resampling, whatever their lengths."""
    import soxr

    if rate == wanted:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate, wanted, channels)
    for block in blocks:
        yield resampler.resample_chunk(np.ascontiguousarray(block.T)).T
    yield resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True).T
