"""Taking a recording apart by Demucs, piece by piece, as if it had been taken apart whole.

Demucs itself cuts audio into overlapping segments and adds up what its model makes of each, weighted by a triangle.
What it makes of one depends on no other, nor on how many there are. So segments can be computed anywhere and at any
time: a piece is a few of them, added up, and what neighbouring pieces hold of the samples between them is added when
they are joined. The sums are those of `demucs.apply.apply_model` over the whole recording; with an overlap of at most a
half, to the last bit.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from autosong_jax.errors import UserError

SAMPLE_RATE, CHANNELS = 44_100, 2
"""Of all models of Demucs, and so of recordings that are taken apart."""

PIECE_SECONDS = 60.0
"""About so long is a piece: in memory, and lost when work is stopped."""

_REACH = 1  # segments around one, of which a model may hear a part where the recording's end cuts it short


class Separator:
    """A model of Demucs.

    Attributes:
      stems: the names of what it gives.
    """

    def __init__(self, name: str, segment: float | None, overlap: float):
        """Loads it. Raises UserError if there is none of that name, or if it is of no use here."""
        self._model = _load(name)
        if (self._model.samplerate, self._model.audio_channels) != (SAMPLE_RATE, CHANNELS):
            raise UserError(f"--separator={name} is for {self._model.audio_channels} channels at "
                            f"{self._model.samplerate} Hz, expected {CHANNELS} at {SAMPLE_RATE}")
        self.stems: tuple[str, ...] = tuple(self._model.sources)
        longest = min(model.segment for model in getattr(self._model, "models", [self._model]))
        if segment is not None and segment > longest:
            raise UserError(f"--segment={segment:g}: --separator={name} hears at most {float(longest):g} s")
        self._segment = segment or longest
        self.layout = Layout.of(self._segment, overlap)

    def piece(self, read: Callable[[int, int], np.ndarray], samples: int, index: int) -> np.ndarray:
        """What the model makes of the segments of a piece, weighted and added up, float32 [stems, channels, samples].

        Args:
          read: (start, stop) -> these samples of the recording, float32 [channels, samples].
          samples: the recording's length.
          index: of the piece.
        """
        import torch
        from demucs.apply import TensorChunk, apply_model

        layout = self.layout
        start, stop = layout.span(samples, index)
        reach = _REACH * layout.segment
        around = max(0, start - reach), min(samples, stop + reach)
        audio = torch.from_numpy(np.ascontiguousarray(read(*around)))[None]
        total = torch.zeros(len(self.stems), CHANNELS, stop - start)
        weight, device = torch.from_numpy(layout.weight()), next(self._model.parameters()).device
        for offset, length in layout.segments(samples, index):
            chunk = TensorChunk(audio, offset - around[0], length)
            stems = apply_model(self._model, chunk, shifts=0, split=False, segment=self._segment, device=device)
            total[..., offset - start:offset - start + length] += weight[:length] * stems[0].cpu()
        return total.numpy()


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where segments and pieces lie: `segment` samples each, from one to the next `stride`, `count` in a piece."""

    segment: int
    stride: int
    count: int

    @classmethod
    def of(cls, segment: float, overlap: float) -> "Layout":
        """For segments of so many seconds, and the share of one that the next lies over."""
        length = int(SAMPLE_RATE * segment)  # both rounded as Demucs does it
        stride = int((1 - overlap) * length)
        return cls(length, stride, max(1, round(PIECE_SECONDS * SAMPLE_RATE / stride)))

    def pieces(self, samples: int) -> int:
        """How many pieces a recording of so many samples has."""
        return -(-samples // (self.stride * self.count))

    def segments(self, samples: int, index: int) -> Iterator[tuple[int, int]]:
        """(start, length) of each segment of a piece."""
        first = index * self.count * self.stride
        for start in range(first, min(first + self.count * self.stride, samples), self.stride):
            yield start, min(self.segment, samples - start)

    def span(self, samples: int, index: int) -> tuple[int, int]:
        """The samples that segments of a piece reach: first, one past the last."""
        segments = list(self.segments(samples, index))
        return segments[0][0], max(start + length for start, length in segments)

    def weight(self) -> np.ndarray:
        """That of a segment's samples, float32: a triangle, as in `demucs.apply.apply_model`."""
        half = self.segment // 2
        weight = np.concatenate([np.arange(1, half + 1), np.arange(self.segment - half, 0, -1)]).astype(np.float32)
        return weight / weight.max()

    def join(self, pieces: Iterator[np.ndarray], samples: int) -> Iterator[np.ndarray]:
        """The stems of the whole recording, float32 [stems, channels, any], of its pieces in order."""
        weight = self.weight()
        rest = total_rest = None
        for index, piece in enumerate(pieces):
            start, stop = self.span(samples, index)
            total = np.zeros(stop - start, np.float32)
            for offset, length in self.segments(samples, index):
                total[offset - start:offset - start + length] += weight[:length]
            if rest is not None:
                piece[..., :rest.shape[-1]] += rest
                total[:len(total_rest)] += total_rest
            done = min(start + self.count * self.stride, samples) - start
            yield piece[..., :done] / total[:done]
            rest, total_rest = piece[..., done:], total[done:]


@functools.cache
def separator(name: str, segment: float | None, overlap: float) -> Separator:
    """The separator, loaded once by each process."""
    return Separator(name, segment, overlap)


def _load(name: str) -> Any:
    try:
        import torch
        from demucs.pretrained import get_model
    except ImportError as error:
        raise UserError(f"--separator={name} needs Demucs, which is not installed here ({error}): pip install -c "
                        "constraints.txt -e '.[stems]', or bring the stems of each recording in a folder") from error
    torch.manual_seed(0)  # demucs_unittest has random weights
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    try:
        return get_model(name).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    except (Exception, SystemExit) as error:  # of the library, of the hub's, of the system
        said = " ".join(str(error).split())[:200] or repr(error)
        raise UserError(f"--separator={name} cannot be loaded ({said}): give hf://NAME, of a model of Demucs that the "
                        "hub has, and see whether there is a network") from error
