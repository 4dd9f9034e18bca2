"""Windows of long signals through convolutions in PyTorch."""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import nn


def convolve(layers: list[nn.Module], x_1xCxN: torch.Tensor, reach: tuple[int, int, int], window: int, batch: int,
             device: torch.device) -> Iterator[torch.Tensor]:
    """Yields convolutional `layers` of `x_1xCxN`, in order, as [windows, C', frames]: the same as in one piece.

    A window sees as much more audio on either side as can reach its frames; those of the surplus, which the layers'
    padding has touched, are dropped. The first and the last window end where the song ends, so its padding is the
    song's own. Windows of one length go through together, at most `batch` of them.
    """
    hop, before, after = reach
    samples = x_1xCxN.shape[-1]
    frames = math.ceil(samples / hop)

    def span(start: int) -> tuple[int, int, int, int]:
        """Of the window whose first frame is `start`: its first sample, its samples, frames to drop and to keep."""
        first = max(0, start - before)
        stop = min(samples, (start + window + after) * hop)
        return first * hop, stop - first * hop, start - first, min(window, frames - start)

    spans = map(span, range(0, frames, window))
    for (length, drop, keep), group in itertools.groupby(spans, key=lambda span: span[1:]):
        firsts = [first for first, *_ in group]
        for i in range(0, len(firsts), batch):
            x_BxCxN = torch.cat([x_1xCxN[..., first:first + length] for first in firsts[i:i + batch]]).to(device)
            for layer in layers:
                x_BxCxN = layer(x_BxCxN)
            yield x_BxCxN[..., drop:drop + keep]
