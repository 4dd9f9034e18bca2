"""Do two recordings go together? By embeddings of many mixes, and by when the notes of each begin.

The context is what is played to (a backing), the stem what is made for it (a lead, say). `duets.py` knows which notes a
lead should sing; here nothing is known but the sound.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from autosong_jax.audio.loudness import Meter
from autosong_jax.errors import UserError
from autosong_jax.evaluation.distributions import Distance, Gaussian, interval, jackknife, squared_distance

TOLERANCE = 0.05
"""Seconds that onsets may be apart to be one, as in the evaluation of onset detectors (MIREX)."""

_MIX = -20.0  # LUFS of a mix
_HOP = 0.01  # seconds between the frames in which onsets are looked for


@dataclasses.dataclass(frozen=True)
class Adherence(Distance):
    """Accompaniment prompt adherence, see `prompt_adherence`: `value` and its interval lie within 0 and 1, `references`
    are the reference's pairs. It is no distance, but is told in the same way.

    Attributes:
      matched, mismatched: the Frechet distances of what is judged to the reference's pairs, and to its wrong pairs.
      apart: that of the two.
    """

    matched: float
    mismatched: float
    apart: float


def mix(context: np.ndarray, stem: np.ndarray, rate: int) -> np.ndarray:
    """Both together, the stem as loud as its context, and the mix at -20 LUFS: what `prompt_adherence` compares.

    It is the default of the authors' package, apart from their limiter: here peaks may pass full scale. What is silent
    stays so.

    Args:
      context, stem: float [samples], the longer of which is cut.
      rate: Hz.
    """
    samples = min(len(context), len(stem))
    context, stem = np.asarray(context[:samples], np.float64), np.asarray(stem[:samples], np.float64)
    wanted = _loudness(context, rate)
    both = context + stem * _gain(_loudness(stem, rate), wanted)
    return (both * _gain(_loudness(both, rate), _MIX)).astype(np.float32)


def _loudness(audio: np.ndarray, rate: int) -> float:
    meter = Meter(rate, 1)
    meter.add(audio[None])
    return meter.loudness()


def _gain(loudness: float, wanted: float) -> float:
    return 10 ** ((wanted - loudness) / 20) if math.isfinite(loudness) and math.isfinite(wanted) else 1.0


def mismatched(count: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """For each of `count` contexts the number of a stem, int [count]: each stem once, and none its own.

    As the authors do it: a cycle through all pairs in random order. The same each time without `rng`.

    Raises:
      UserError: there are fewer than 2 pairs.
    """
    if count < 2:
        raise UserError(f"{count} pairs of recordings: expected 2 or more, to have wrong ones")
    order = (rng or np.random.default_rng(0)).permutation(count)
    stems = np.empty(count, int)
    stems[order] = np.roll(order, -1)
    return stems


def prompt_adherence(reference: np.ndarray, wrong: np.ndarray, songs: np.ndarray, components: int | None = None,
                     rng: np.random.Generator | None = None) -> Adherence:
    """Accompaniment prompt adherence (Grachten & Nistal 2025, arXiv 2503.06346, formerly 2404.00775).

    With R embeddings of mixes of true pairs, R' of wrong pairs of the same recordings, C of mixes to be judged, and F
    the Frechet distance of the Gaussians fitted to two sets, it is

        1/2 + (F(C, R') - F(C, R)) / (2 F(R, R')),  at least 0 and at most 1:

    1 where what is judged is as the true pairs, 0 where it is as wrong ones, 1/2 where it is as far from both. It says
    nothing of a single song. The authors' embeddings are those of CLAP, of 5 s each. As F grows where N is small, so
    does F(R, R') where it should be small: with fewer songs than dimensions the value is pulled towards 1/2.

    Args:
      reference: float [N, D], R; of recordings that are not judged.
      wrong: float [N, D], R', of the mixes that `mismatched` names.
      songs: float [M, D], C.
      components: project all on so many principal components of R, as the authors do where there are few songs.
      rng: deals out the tenths of the jackknife; the same ones each time without it.

    Raises:
      UserError: there are fewer than 3 of them, of other widths, or R and R' are the same.
    """
    sets = [np.asarray(vectors, np.float64) for vectors in (reference, wrong, songs)]
    for name, vectors in zip(("reference", "wrong pairs", "songs"), sets, strict=True):
        if vectors.ndim != 2 or len(vectors) < 3 or vectors.shape[1] != sets[0].shape[1]:
            raise UserError(f"embeddings of {name} have the shape {list(vectors.shape)}: expected 3 or more, of one "
                            "width")
        if not np.isfinite(vectors).all():
            raise UserError(f"embeddings of {name} hold NaN or infinite values: expected finite ones")
    if len(sets[0]) != len(sets[1]):
        raise UserError(f"{len(sets[1])} wrong pairs beside {len(sets[0])} true ones: expected as many")
    if components is not None:
        centred = sets[0] - sets[0].mean(axis=0)
        axes = np.linalg.svd(centred, full_matrices=False)[2][:components]
        sets = [vectors @ axes.T for vectors in sets]
    distances = _distances(*sets)
    if not distances[2] > 0:
        raise UserError("true and wrong pairs of the reference have the same embeddings: expected different songs")

    def estimate(kept: list[list[np.ndarray]]) -> float:
        (pairs,), (judged,) = kept
        return _adherence(*_distances(sets[0][pairs], sets[1][pairs], sets[2][judged]))

    counts = [len(sets[0]), len(sets[2])]
    error, groups = jackknife(estimate, [[np.arange(count)] for count in counts], rng)
    value, error, low, high = interval(_adherence(*distances), error, groups - 1)
    return Adherence(value, error, max(low, 0.0), min(high, 1.0), *counts, *distances)


def _distances(reference: np.ndarray, wrong: np.ndarray, songs: np.ndarray) -> tuple[float, float, float]:
    """F(C, R), F(C, R') and F(R, R')."""
    true, false, judged = map(Gaussian.fitted, (reference, wrong, songs))
    return squared_distance(judged, true), squared_distance(judged, false), squared_distance(true, false)


def _adherence(matched: float, mismatched: float, apart: float) -> float:
    return float(np.clip(0.5 + (mismatched - matched) / (2 * apart), 0, 1)) if apart else 0.5


def onsets(audio: np.ndarray, rate: int) -> np.ndarray:
    """When notes begin: seconds, float64 [onsets], by librosa's peaks of the spectral flux (Böck et al. 2012).

    Args:
      audio: float [samples], full scale 1.0.
      rate: Hz.
    """
    import librosa

    audio = np.asarray(audio, np.float32)
    if not np.abs(audio).max(initial=0) > 0:
        return np.zeros(0)
    hop = round(_HOP * rate)
    return librosa.onset.onset_detect(y=audio, sr=rate, hop_length=hop, units="time").astype(np.float64)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How many onsets of a stem are those of its context, see `onset_agreement`; sums, to be added over songs.

    Attributes:
      stem, context: onsets of each.
      near: of the stem's, those with one of the context within the tolerance.
      pairs: likewise, but with at most one of the stem for each of the context.
      seconds: how long both are.
      covered: of them, those near an onset of the context.
    """

    stem: int
    context: int
    near: int
    pairs: int
    seconds: float
    covered: float

    @property
    def share(self) -> float:
        """Of the stem's onsets, those that are near one of the context; NaN without any."""
        return self.near / self.stem if self.stem else math.nan

    @property
    def chance(self) -> float:
        """What the share would be if the stem's onsets came at any time. It means something only beside that."""
        return self.covered / self.seconds if self.seconds else math.nan

    @property
    def f_measure(self) -> float:
        """2 P R / (P + R) of precision and recall of the pairs; NaN without any onset."""
        return 2 * self.pairs / (self.stem + self.context) if self.stem + self.context else math.nan


def onset_agreement(stem: Sequence[float], context: Sequence[float], seconds: float, tolerance: float = TOLERANCE
                    ) -> Agreement:
    """Compares when the notes of two recordings begin.

    Args:
      stem, context: seconds of onsets, or of beats; see `onsets`.
      seconds: how long both are.
      tolerance: seconds.
    """
    stem, context = np.sort(np.asarray(stem, np.float64)), np.sort(np.asarray(context, np.float64))
    near = np.searchsorted(context, stem + tolerance, "right") > np.searchsorted(context, stem - tolerance, "left")
    return Agreement(len(stem), len(context), int(near.sum()), _pairs(stem, context, tolerance), seconds,
                     _covered(context, seconds, tolerance))


def _pairs(a: np.ndarray, b: np.ndarray, tolerance: float) -> int:
    """How many pairs of both can be made that are within the tolerance: taking the earliest is best in a line."""
    pairs = i = j = 0
    while i < len(a) and j < len(b):
        if abs(a[i] - b[j]) <= tolerance:
            pairs, i, j = pairs + 1, i + 1, j + 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return pairs


def _covered(times: np.ndarray, seconds: float, tolerance: float) -> float:
    """Of a recording the seconds within the tolerance of some time, of sorted ones."""
    starts, stops = np.maximum(times - tolerance, 0), np.minimum(times + tolerance, seconds)
    before = np.concatenate([[0.0], np.maximum.accumulate(stops)])[:len(times)]
    return float(np.maximum(stops - np.maximum(starts, before), 0).sum())
