"""The judge of codes: it lets ties pass and nothing else."""

import numpy as np
import pytest

from tests.parity import check_codes, not_nearest

N, K, V, D = 200, 3, 16, 6
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(N, D))
CODEBOOKS = RNG.normal(size=(K, V, D)) / 2.0 ** np.arange(K)[:, None, None]


def quantize(vectors, codebooks, first=None):
    """The nearest entries, vector by vector; `first` names those of the first codebook."""
    codes = []
    for i, left in enumerate(vectors):
        song = []
        for k, entries in enumerate(codebooks):
            code = np.argmin(((left - entries) ** 2).sum(axis=1)) if k or first is None else first[i]
            song.append(code)
            left = left - entries[code]
        codes.append(song)
    return np.array(codes)


CODES = quantize(VECTORS, CODEBOOKS)


def test_the_nearest_are_right():
    assert check_codes(CODES, CODES, VECTORS, CODEBOOKS) == 0
    assert not not_nearest(CODES[:, :2], VECTORS, CODEBOOKS).any()  # of fewer codebooks than there are


@pytest.mark.parametrize("codebook", range(K))
def test_the_second_nearest_is_wrong(codebook):
    """In any frame and codebook, where it is not as near."""
    for frame in range(0, N, 20):
        codes = CODES.copy()
        left = VECTORS[frame] - sum(CODEBOOKS[k, codes[frame, k]] for k in range(codebook))
        codes[frame, codebook] = np.argsort(((left - CODEBOOKS[codebook]) ** 2).sum(axis=1))[1]
        with pytest.raises(AssertionError, match=rf"codes: .* frame and codebook .{frame} +{codebook}"):
            check_codes(codes, CODES, VECTORS, CODEBOOKS)
        with pytest.raises(AssertionError, match=rf"expected: .* frame and codebook .{frame} +{codebook}"):
            check_codes(CODES, codes, VECTORS, CODEBOOKS)


def tied(offset):
    """Vectors of which the first is as far from entry 0 as from entry 1, but for `offset`, and their codebooks."""
    codebooks = CODEBOOKS.copy()
    codebooks[0, 2:] += 9
    vectors = VECTORS[:N // 2].copy()
    vectors[0] = codebooks[0, :2].mean(axis=0) + offset * (codebooks[0, 0] - codebooks[0, 1])
    return vectors, codebooks


def test_of_a_tie_either_is_right_and_the_rest_follows_what_was_taken():
    vectors, codebooks = tied(1e-7)
    expected = quantize(vectors, codebooks)
    other = quantize(vectors, codebooks, first=[1, *expected[1:, 0]])
    assert expected[0, 0] == 0 and (other[1:] == expected[1:]).all()
    assert check_codes(other, expected, vectors, codebooks) == 1
    assert not (other[0, 1:] == expected[0, 1:]).all()
    with pytest.raises(AssertionError, match=r"codes: .* frame and codebook .0 +1"):
        mixed = np.concatenate([other[:, :1], expected[:, 1:]], axis=1)
        check_codes(mixed, expected, vectors, codebooks)


def test_what_is_nearer_by_more_than_rounding_is_no_tie():
    vectors, codebooks = tied(1e-3)
    expected = quantize(vectors, codebooks)
    with pytest.raises(AssertionError, match="not the nearest"):
        check_codes(quantize(vectors, codebooks, first=[1, *expected[1:, 0]]), expected, vectors, codebooks)


def test_ties_are_few():
    vectors, codebooks = tied(0.0)
    vectors = np.repeat(vectors[:1], 100, axis=0)
    one, other = (quantize(vectors, codebooks, first=[code] * 100) for code in (0, 1))
    with pytest.raises(AssertionError, match="100 of 100 frames differ"):
        check_codes(one, other, vectors, codebooks)
