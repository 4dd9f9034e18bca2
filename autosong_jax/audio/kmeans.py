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
    """Lloyd's algorithm; entry 0 stays the zero vector, an entry that loses all of its points starts anew."""
    starts = np.unique(points, axis=0)
    starts = starts[rng.permutation(len(starts))[:size - 1]]
    entries = np.concatenate([np.zeros_like(points[:1]), starts])
    for _ in range(iterations):
        owner = nearest(points, entries)
        members = scipy.sparse.csr_array((np.ones(len(points), np.float32), owner, np.arange(len(points) + 1)),
                                         shape=(len(points), len(entries))).T.tocsr()
        counts = np.bincount(owner, minlength=len(entries))
        entries[1:] = ((members @ points) / np.maximum(counts, 1)[:, None])[1:]
        empty = np.flatnonzero(counts[1:] == 0) + 1
        if len(empty):
            errors = np.sum((points - entries[owner]) ** 2, axis=1)
            entries[empty] = points[np.argsort(-errors, kind="stable")[:len(empty)]]
    return np.resize(entries, (size, points.shape[1]))
