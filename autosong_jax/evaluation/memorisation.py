"""How much of songs stands in the training set: windows of their codes that are, all or most of them, those of a window
of a training song.

After the studies of memorisation in MusicLM (Agostinelli et al. 2023, arXiv 2301.11325) and MusicGen (Copet et al.
2023, arXiv 2306.05284, of codes of the first codebook, over 5 s, all or at least 80 % of them equal). Those compare the
continuation of a training song with its own; here a window of any song is compared with all windows of all training
songs, frame by frame. A match says that the codes are those of a training song, not why: silence, loops and genres with
one drum pattern match by themselves. So the same numbers of songs that were never learned from belong beside them, and
`chance` says what codes without any order would give.

Letters: T frames of a song, K codebooks, N frames of a window, W = N * K codes of a window.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binom

from autosong_jax.errors import UserError
from autosong_jax.evaluation.metrics import Metric, Song

if TYPE_CHECKING:
    from autosong_jax.data.dataset import SongDataset

SHARES = (1.0, 0.9, 0.8)
"""Of a window's codes, how many must be equal for a match: all, or most."""
SECONDS = (1.0, 2.0, 5.0, 10.0)
"""Of windows."""
CODEBOOKS = ("first", "all")
"""Which of a song's codebooks are compared: the first alone, which holds most of what is heard, or all together."""

_HITS = 2**20  # pairs of equal q-grams, and frames to be compared, that are in memory at a time
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse
_INVERSE = np.uint64(pow(int(_BASE), -1, 2**64))


@dataclasses.dataclass(frozen=True)
class Matches:
    """The training window nearest to each window of N frames of some songs, by codes that are equal at the same place.

    Attributes:
      length: N.
      codes: W.
      counts: for each song int32 [max(T - N + 1, 0)], how many codes are equal, a window beginning at each frame; 0
        stands for fewer than `least * W`.
      songs: likewise, the number of the training song, in the order in which they came; -1 where `counts` is 0.
      starts: likewise, the frame of the training song at which its window begins; -1 where `counts` is 0.
    """

    length: int
    codes: int
    counts: list[np.ndarray]
    songs: list[np.ndarray]
    starts: list[np.ndarray]

    def shares(self, share: float) -> np.ndarray:
        """For each song with a window, how many of its windows have at least this share of their codes in a training
        window: float64 [songs]. It must not be lower than what was looked for (`least`)."""
        need = _needed(share, self.codes)
        return np.array([(counts >= need).mean() for counts in self.counts if len(counts)])

    def windows(self) -> int:
        """How many there are."""
        return sum(map(len, self.counts))

    def share(self, share: float) -> float:
        """The share of all windows; NaN if there are none."""
        need = _needed(share, self.codes)
        return sum(int((counts >= need).sum()) for counts in self.counts) / self.windows() if self.windows() else (
            math.nan)


@dataclasses.dataclass(frozen=True)
class Training:
    """What was seen of the training songs.

    Attributes:
      songs: how many there were.
      windows: how many windows of each of the lengths.
      frequencies: float64 [K, V], how often each code of each codebook is.
    """

    songs: int
    windows: tuple[int, ...]
    frequencies: np.ndarray


def find_matches(songs: Sequence[np.ndarray], training: Iterable[np.ndarray], lengths: Sequence[int], size: int,
                 least: float = min(SHARES)) -> tuple[list[Matches], Training]:
    """Looks for each window of some songs in all training songs, which are gone through once.

    All matches are found, and each is counted code by code. Where at most m of W codes differ, a window cut into m // K
    + 1 pieces has a piece without any difference in some codebook (the pigeonhole principle). So only where q-grams of
    that length are equal, which hashes find, codes are compared. As q is about 1 / (1 - `least`), a share below .8 is
    slow to look for.

    In memory are `songs`, for each of their codes 16 bytes of an index and for each of their frames 12 bytes a length,
    one training song, and some 50 MB beside: it does not grow with the training set. The time goes with the number of
    training codes, and with how many pairs of q-grams are equal.

    Args:
      songs: integers [T, K] in [0, size).
      training: integers [T, K], likewise; of as many codebooks.
      lengths: N of each of the windows wanted, at least 1.
      size: V of a codebook.
      least: the lowest share of W that is looked for, above 0.

    Returns:
      Matches of each length, in their order, and what the training songs were.

    Raises:
      UserError: songs have other codebooks.
    """
    if not songs or not lengths or min(lengths) < 1 or not 0 < least <= 1:
        raise ValueError(f"{len(songs)} songs, windows of {list(lengths)} frames, a share of {least}: expected some "
                         "songs, windows of 1 frame or more, and a share above 0")
    query = _Query(songs, lengths, least)
    counts = np.zeros((query.codebooks, size), np.int64)
    windows, number = np.zeros(len(lengths), np.int64), -1
    for number, song in enumerate(training):
        if song.ndim != 2 or song.shape[1] != query.codebooks:
            raise UserError(f"training song {number} has codes {list(song.shape)}, the songs have [frames, "
                            f"{query.codebooks}]: expected the codebooks of one codec")
        song = np.ascontiguousarray(song.T, np.int32)
        for k, codes in enumerate(song):
            counts[k] += np.bincount(codes, minlength=size)
        windows += [max(song.shape[1] - length + 1, 0) for length in lengths]
        query.compare(song, number)
    frequencies = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return query.matches(), Training(number + 1, tuple(windows.tolist()), frequencies)


def curves(songs: Sequence[np.ndarray], training: Callable[[], Iterable[np.ndarray]], frame_rate: float, size: int
           ) -> list[dict[str, np.ndarray]]:
    """How many windows of each song match, by how long they are and how much must be equal; to be added to those of
    other songs, see `read_curve`.

    Args:
      songs: integers [T, K] in [0, size).
      training: gives the training songs, as often as there are `CODEBOOKS`.
      frame_rate: frames a second.
      size: V.

    Returns:
      For each song and each of `CODEBOOKS` "NAME hits", int [SECONDS, SHARES], and "NAME windows", int [SECONDS].
    """
    lengths = [max(round(seconds * frame_rate), 1) for seconds in SECONDS]
    found: list[dict[str, np.ndarray]] = [{} for _ in songs]
    for name, width in zip(CODEBOOKS, (1, None), strict=True):
        matches, _ = find_matches([song[:, :width] for song in songs], (song[:, :width] for song in training()),
                                  lengths, size)
        for i, sums in enumerate(found):
            sums[f"{name} hits"] = np.array([[(one.counts[i] >= _needed(share, one.codes)).sum() for share in SHARES]
                                             for one in matches])
            sums[f"{name} windows"] = np.array([len(one.counts[i]) for one in matches])
    return found


def read_curve(sums: Mapping[str, np.ndarray], name: str) -> dict[str, float]:
    """The share of windows that match, of added `curves`.

    Args:
      sums: of them.
      name: one of `CODEBOOKS`.

    Returns:
      "SECONDS s, SHARE %" -> the share; NaN where songs are shorter. "" has that of 5 s and 80 %, as MusicGen's.
    """
    hits, windows = sums[f"{name} hits"], sums[f"{name} windows"]
    shares = {f"{seconds:g} s, {100 * share:g} %": float(hits[i, j] / windows[i]) if windows[i] else math.nan
              for i, seconds in enumerate(SECONDS) for j, share in enumerate(SHARES)}
    return {"": shares["5 s, 80 %"]} | shares


def memorisation_metric(dataset: "SongDataset") -> Metric:
    """How much of songs stands in a dataset of training songs, see `curves`: the metric itself is that of windows of 5
    s of the first codebook, of which at least 80 % are equal.

    Args:
      dataset: of the training songs, of the codec of the songs to be judged.
    """
    def of_songs(songs: Sequence[Song]) -> list[dict[str, np.ndarray]]:
        frames = [np.asarray(song.anew().frames) for song in songs]
        return curves(frames, lambda: (dataset[i]["frames"] for i in range(len(dataset))), dataset.frame_rate,
                      dataset.codec.frames.size)

    def summarize(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        found = {name: read_curve(sums, name) for name in CODEBOOKS}
        return {"": found[CODEBOOKS[0]][""]} | {
            f"{name}: {detail}": share for name in CODEBOOKS for detail, share in found[name].items() if detail}

    about = ("share of windows of so many seconds of which so many codes, of the first codebook or of all, are those "
             f"of a window of one of {len(dataset)} training songs; that of true songs comes of music that is alike")
    return Metric("memorised", about, ("codes",), None, summarize, "", f"{len(dataset)} {SECONDS} {SHARES}", of_songs)


def chance(share: float, length: int, training: Training, windows: int) -> float:
    """How many windows would match by chance, at most: a bound on the probability that a window of codes drawn one by
    one, each as often as it is in the training set, has at least `share` of its codes in one of so many windows drawn
    likewise.

    It is the probability itself where it is small or all codes are as frequent, but for windows that overlap, which
    count as independent. Else it is higher, as windows of rare codes have less of a chance (Jensen's inequality).

    Args:
      share: of the W codes.
      length: N.
      training: of which the frequencies are read.
      windows: how many there are to match.
    """
    equal = (training.frequencies ** 2).sum(axis=1)  # by codebook, that two codes drawn likewise are equal
    distribution = np.ones(1)
    for probability in equal:
        distribution = np.convolve(distribution, binom.pmf(np.arange(length + 1), length, probability))
    one = float(distribution[_needed(share, length * len(equal)):].sum())
    return -math.expm1(windows * math.log1p(-min(one, 1 - 1e-16)))


def _needed(share: float, codes: int) -> int:
    return math.ceil(share * codes - 1e-9)


class _Query:
    """The songs that are looked for, one behind the other: U frames in all."""

    def __init__(self, songs: Sequence[np.ndarray], lengths: Sequence[int], least: float):
        self.codebooks = songs[0].shape[1]
        if any(song.ndim != 2 or song.shape[1] != self.codebooks for song in songs):
            raise UserError(f"songs have codes {[list(song.shape) for song in songs][:5]}: expected [frames, "
                            "codebooks], of one codec")
        self._ends = np.cumsum([len(song) for song in songs])
        self._codes = np.ascontiguousarray(np.concatenate(songs).T, np.int32)  # [K, U]
        self._lengths, frames = lengths, int(self._ends[-1])
        self._needed = [_needed(least, length * self.codebooks) for length in lengths]
        self._gram = min(length // ((length * self.codebooks - need) // self.codebooks + 1)
                         for length, need in zip(lengths, self._needed, strict=True))
        end = np.repeat(self._ends, np.diff(self._ends, prepend=0))  # of the song of each frame
        self._whole = [np.arange(frames) + length <= end for length in lengths]
        self._best = np.zeros((len(lengths), 3, frames), np.int32)  # count, song, start
        self._best[:, 1:] = -1
        # Every q-gram that lies within a song; those sorted by hash, and where they are.
        starts = np.flatnonzero(np.arange(frames) + self._gram <= end)
        self._hashes, self._places = [], []
        for codes in self._codes:
            hashes = _hashes(codes, self._gram)[starts]
            order = np.argsort(hashes, kind="stable")
            self._hashes.append(hashes[order])
            self._places.append(starts[order])

    def compare(self, song: np.ndarray, number: int) -> None:
        """With training song `number`, int32 [K, T]."""
        frames, total = song.shape[1], self._codes.shape[1]
        # A diagonal pairs frame u with frame u + d of the training song; it is kept at d + total.
        marked = np.zeros(total + frames, bool)
        for codes, hashes, places in zip(song, self._hashes, self._places, strict=True):
            found = _hashes(codes, self._gram)
            low, high = np.searchsorted(hashes, found, "left"), np.searchsorted(hashes, found, "right")
            hits = np.flatnonzero(high > low)
            for part in _parts((high - low)[hits], _HITS):
                at = hits[part]
                many = high[at] - low[at]
                inside = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
                marked[np.repeat(at, many) - places[np.repeat(low[at], many) + inside] + total] = True
        diagonals = np.flatnonzero(marked) - total
        step = max(_HITS // max(frames, 1), 1)
        for first in range(0, len(diagonals), step):
            self._count(song, number, diagonals[first:first + step])

    def _count(self, song: np.ndarray, number: int, diagonals: np.ndarray) -> None:
        """Counts the equal codes of all windows on some diagonals, and keeps the best."""
        frames, total = song.shape[1], self._codes.shape[1]
        place = np.arange(frames) - diagonals[:, None]  # [D, T], of the songs' frames
        there = (place >= 0) & (place < total)
        place = np.where(there, place, 0)
        equal = sum((ours[place] == theirs).astype(np.int32) for ours, theirs in zip(self._codes, song, strict=True))
        sums = np.zeros((len(diagonals), frames + 1), np.int32)
        np.cumsum(equal * there, axis=1, out=sums[:, 1:])
        for length, need, whole, best in zip(self._lengths, self._needed, self._whole, self._best, strict=True):
            if length > frames:
                continue
            counts = sums[:, length:] - sums[:, :-length]  # [D, T - N + 1], by where the training window begins
            row, start = np.nonzero(counts >= need)
            at, count = place[row, start], counts[row, start]
            better = there[row, start] & whole[at] & (count > best[0, at])
            at, count, start = at[better], count[better], start[better]
            order = np.lexsort((-start, count))  # of those for one place, the best and earliest is written last
            best[:, at[order]] = np.stack([count, np.full(len(at), number), start])[:, order]

    def matches(self) -> list[Matches]:
        """What has been found, song by song."""
        found = []
        for length, best in zip(self._lengths, self._best, strict=True):
            songs = [part[:, :max(part.shape[1] - length + 1, 0)]
                     for part in np.split(best, self._ends[:-1], axis=1)]
            found.append(Matches(length, length * self.codebooks, *map(list, zip(*songs, strict=True))))
        return found


def _hashes(codes: np.ndarray, length: int) -> np.ndarray:
    """Hashes of the q-grams of int [T], all of them polynomials modulo 2^64: uint64 [max(T - length + 1, 0)]."""
    powers = np.cumprod(np.full(len(codes), _BASE)) * _INVERSE  # 1, B, B^2, ...
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((codes + 1).astype(np.uint64) * powers)])
    grams = sums[length:] - sums[:-length]
    return grams * (np.cumprod(np.full(len(grams), _INVERSE)) * _BASE)


def _parts(sizes: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Consecutive places whose sizes are together about `most` at most."""
    yield from np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(np.cumsum(sizes) // most)) + 1)
