"""Residual vector quantisation by k-means, with numpy and scipy alone, deterministic for a seed.

Shape letters: P points, D dimensions, K codebooks, V entries in each. Entry 0 of every codebook is the zero vector.
"""

import numpy as np
import scipy.sparse

_BLOCK = 1024  # points compared with a codebook at once


def nearest(points: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Index of the entry [V, D] nearest to each point [P, D], the first of equals; both float32, intp [P]."""
    half_norms = 0.5 * np.einsum("vd,vd->v", entries, entries)
    out = np.empty(len(points), np.intp)
    for first in range(0, len(points), _BLOCK):
        out[first:first + _BLOCK] = np.argmin(half_norms - points[first:first + _BLOCK] @ entries.T, axis=1)
    return out


def quantize(points: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """Codes uint16 [P, K] of float32 `points` [P, D]: each codebook of [K, V, D] codes what those before it left."""
    residual = points.copy()
    codes = np.empty((len(points), len(codebooks)), np.uint16)
    for level, entries in enumerate(codebooks):
        codes[:, level] = nearest(residual, entries)
        residual -= entries[codes[:, level]]
    return codes


def dequantize(codes: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """float32 [P, D], the sum of the entries that `codes` [P, K] name."""
    return sum(entries[codes[:, level]] for level, entries in enumerate(codebooks))


def fit(points: np.ndarray, num_codebooks: int, codebook_size: int, *, iterations: int, seed: int) -> np.ndarray:
    """Codebooks float32 [K, V, D] for float32 `points` [P, D].

    With fewer distinct points than entries, the entries left over repeat others and are never chosen.
    """
    rng = np.random.default_rng(seed)
    residual = points.copy()
    codebooks = []
    for _ in range(num_codebooks):
        entries = _fit_one(residual, codebook_size, iterations, rng)
        residual -= entries[nearest(residual, entries)]
        codebooks.append(entries)
    return np.stack(codebooks)


def _fit_one(points: np.ndarray, size: int, iterations: int, rng: np.random.Generator) -> np.ndarray:
    """Lloyd's algorithm; entry 0 stays the zero vector, an entry that loses all of its points stays where it is."""
    entries = _start(points[rng.permutation(len(points))[:10 * size]], size, rng)
    for _ in range(iterations):
        owner = nearest(points, entries)
        members = scipy.sparse.csc_array((np.ones(len(points), np.float32), owner, np.arange(len(points) + 1)),
                                         shape=(size, len(points)))
        counts = np.bincount(owner, minlength=size)
        moved = np.flatnonzero(counts[1:]) + 1
        entries[moved] = (members @ points)[moved] / counts[moved, None]
    return entries


def _start(points: np.ndarray, size: int, rng: np.random.Generator, candidates: int = 4) -> np.ndarray:
    """Entries far from each other: the zero vector and points chosen by greedy k-means++ (Arthur, Vassilvitskii, 2007).

    A point's chance to be a candidate is its squared distance from the entries so far; of the candidates, the one that
    leaves the least total is chosen.
    """
    entries = np.zeros((size, points.shape[1]), np.float32)
    norms = np.einsum("pd,pd->p", points, points)
    distances = norms
    for entry in range(1, size):
        mass = np.cumsum(distances, dtype=np.float64)
        tried = np.minimum(np.searchsorted(mass, rng.random(candidates) * mass[-1], side="right"), len(points) - 1)
        left = np.minimum(distances, np.maximum(norms[tried, None] - 2 * points[tried] @ points.T + norms, 0))
        best = left.sum(axis=1).argmin()
        entries[entry], distances = points[tried[best]], left[best]
    return entries
