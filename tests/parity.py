"""Codes that two programs gave of the same audio, judged in float64.

Programs that add up in another order, or for another processor, do not give the same float32. Where two entries of a
codebook are about as near, rounding decides which of them is taken, and with it what is left for the codebooks after.
"""

import copy

import numpy as np

ROUNDING = 2.0**-17  # of a length, allowed: 64 units in the last place. Of PyTorch's encoders, 6 were seen.


def not_nearest(codes, vectors, codebooks):
    """Where a code is not the nearest entry to what the codes before it have left, by more than rounding.

    An error of `ROUNDING` of |x| moves the difference of two squared distances, |x - a|^2 - |x - b|^2, by at most
    2 ROUNDING |x| |a - b|, which is less than ROUNDING (|x| + max(|a|, |b|))^2.

    Args:
      codes: integers [N, K].
      vectors: what is coded, [N, D].
      codebooks: [K or more, V, D].

    Returns:
      bool [N, K].
    """
    left = np.asarray(vectors, np.float64)
    lengths, found = np.linalg.norm(left, axis=1), []
    for code, entries in zip(np.asarray(codes, int).T, np.asarray(codebooks, np.float64), strict=False):
        distances = np.stack([np.square(vector - entries).sum(axis=1) for vector in left])
        best, rows = distances.argmin(axis=1), np.arange(len(code))
        lengths = np.maximum(lengths, np.linalg.norm(left, axis=1))
        longest = np.linalg.norm(np.stack([entries[code], entries[best]]), axis=2).max(axis=0)
        found.append(distances[rows, code] - distances[rows, best] > ROUNDING * (lengths + longest)**2)
        left = left - entries[code]
    return np.stack(found, axis=1)


def not_nearest_direction(codes, vectors, levels):
    """The same of DAC, whose codebooks code the direction of what is left, made narrow.

    An error of `ROUNDING` of |x| turns the direction of W x + b by at most ROUNDING |W| |x| / |W x + b|, and moves the
    difference of two squared distances of directions by at most four times that, beside the rounding of 1.

    Args:
      codes, vectors: as of `not_nearest`.
      levels: for each codebook its entries [V, W], the kernel [W, D] and bias [W] that make narrow, and those, [D, W]
        and [D], that lead back.

    Returns:
      bool [N, K].
    """
    left = np.asarray(vectors, np.float64)
    lengths, found = np.linalg.norm(left, axis=1), []
    for code, (entries, kernel, bias, back, back_bias) in zip(np.asarray(codes, int).T, levels, strict=True):
        narrow = left @ kernel.T + bias
        width = np.linalg.norm(narrow, axis=1)
        directions = entries / np.linalg.norm(entries, axis=1, keepdims=True)
        distances = 2 - 2 * (narrow / width[:, None]) @ directions.T
        best, rows = distances.min(axis=1), np.arange(len(code))
        lengths = np.maximum(lengths, np.linalg.norm(left, axis=1))
        allowed = 4 * ROUNDING * (1 + np.linalg.norm(kernel, 2) * lengths / width)
        found.append(distances[rows, code] - best > allowed)
        left = left - (entries[code] @ back.T + back_bias)
    return np.stack(found, axis=1)


def check_codes(codes, expected, vectors, codebooks, not_nearest=not_nearest):
    """Asserts that codes [N, K] are those expected [N, K], but for ties, in at most 1 % of frames or one of them.

    Each of both must be nearest, within rounding, to what the codes before it have left of `vectors` [N, D] (float64),
    as `not_nearest(codes, vectors, codebooks)` judges.

    Returns:
      How many of the N frames differ.
    """
    codes, expected = np.asarray(codes, int), np.asarray(expected, int)
    assert codes.shape == expected.shape == (len(vectors), codes.shape[1])
    for name, given in [("codes", codes), ("expected", expected)]:
        wrong = np.argwhere(not_nearest(given, vectors, codebooks))
        assert not len(wrong), f"{name}: {len(wrong)} are not the nearest, first of frame and codebook {wrong[0]}"
    differ = int((codes != expected).any(axis=1).sum())
    assert differ <= max(1, len(codes) // 100), f"{differ} of {len(codes)} frames differ"
    return differ


class Exact:
    """An EnCodec, of transformers or of the encodec package, in float64."""

    def __init__(self, model):
        self.model = copy.deepcopy(model).double()

    @property
    def codebooks(self):
        """[K, V, D]."""
        buffers = self.model.quantizer.state_dict()
        return np.stack([value.numpy() for name, value in buffers.items() if name.endswith(".embed")])

    def vectors(self, encode):
        """What comes before the quantizer while `encode(model)` runs: float64 [B, T, D] each time that it is asked."""
        import torch

        quantizer, seen = self.model.quantizer, []
        asked = quantizer.encode
        quantizer.encode = lambda x, *args, **kwargs: seen.append(x.mT.numpy()) or asked(x, *args, **kwargs)
        try:
            with torch.inference_mode():
                encode(self.model)
        finally:
            del quantizer.encode
        return seen
