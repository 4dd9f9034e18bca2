"""Span masks against the released tables, simulation, and what must hold for every length and rate."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autosong_jax.codebooks.masking import cover, mask_rate, random_mask, span_counts

SHAPES = [(1, 1), (2, 3), (3, 3), (4, 2), (12, 3), (37, 10), (100, 3), (500, 3), (500, 5), (1500, 3)]


def expected_share(frames, length, count):
    """Of C(T, u) sets of starts, C(T - L, u) leave a frame clear."""
    return 1 - math.comb(max(frames - length, 0), int(count)) / math.comb(frames, int(count))


def test_the_released_table():
    # Ziv et al. 2024, by running their code.
    assert [span_counts(500, 3)[m] for m in (10, 25, 50, 75, 90)] == [18, 46, 103, 185, 268]


@pytest.mark.parametrize(("frames", "length"), SHAPES)
def test_a_count_is_the_least_that_reaches_its_share(frames, length):
    counts = span_counts(frames, length)
    assert counts.min() >= 1 and np.all(np.diff(counts) >= 0) and counts.max() <= frames
    for percent, count in enumerate(counts.tolist()):
        assert expected_share(frames, length, count) >= percent / 100 - 1e-12
        assert count == 1 or expected_share(frames, length, count - 1) < percent / 100 + 1e-12


@pytest.mark.parametrize(("frames", "length"), SHAPES)
def test_spans_cover_whole_spans_and_end_with_the_song(frames, length):
    starts = np.random.default_rng(0).random((20, frames)) < 0.2
    covered = np.asarray(cover(jnp.asarray(starts), length))
    expected = np.zeros_like(starts)
    for row, start in zip(*np.nonzero(starts), strict=True):
        expected[row, start:start + length] = True
    np.testing.assert_array_equal(covered, expected)


@pytest.mark.parametrize(("frames", "length"), SHAPES)
def test_as_many_spans_as_the_table_says(frames, length, monkeypatch):
    if length > 1:  # the starts alone
        monkeypatch.setattr("autosong_jax.codebooks.masking.cover", lambda starts, length: starts)
    rates = np.linspace(0, 1, 21, dtype=np.float32)
    keys = jax.random.split(jax.random.key(0), len(rates))
    counts = jax.vmap(lambda key, rate: random_mask(key, rate, frames, length).sum())(keys, rates)
    if length > 1:
        np.testing.assert_array_equal(counts, span_counts(frames, length)[np.round(100 * rates).astype(int)])
    else:
        np.testing.assert_array_equal(counts, np.maximum(np.round(frames * rates), 1))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_masked_share_is_the_expected_one_and_all_frames_are_alike(rate):
    keys = jax.random.split(jax.random.key(0), 4000)
    share = jax.vmap(lambda key: random_mask(key, rate, 100, 3))(keys).mean(axis=0)
    assert np.abs(share[2:] - expected_share(100, 3, span_counts(100, 3)[round(100 * rate)])).max() < 0.04
    assert share[0] < share[1] < share[2]  # fewer spans reach the first frames


def test_rates_are_those_of_a_cosine():
    np.testing.assert_allclose(mask_rate(jnp.array([0, 1 / 3, 0.5, 1])), [1, 3**0.5 / 2, 0.5**0.5, 0], atol=1e-6)
