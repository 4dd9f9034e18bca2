"""Accompaniment: adherence against its formula and its ends, onsets of clicks that are where they are known to be."""

import itertools

import numpy as np
import pyloudnorm
import pytest
import scipy.linalg
import scipy.optimize

from autosong_jax.errors import UserError
from autosong_jax.evaluation import accompaniment

RATE = 16000


def noise(seed, seconds=2.0, level=0.1):
    return np.random.default_rng(seed).normal(0, level, round(seconds * RATE))


def embeddings(seed, count, matching=1.0, width=4):
    """Of mixes: what the two parts have in common, as far as they match, beside what each has of its own."""
    rng = np.random.default_rng(seed)
    context, stem = rng.standard_normal((2, count, width))
    return np.concatenate([context + matching * context + (1 - matching) * stem, context - stem], axis=1)


def by_sqrtm(x, y):
    cx, cy = (np.cov(vectors, rowvar=False) for vectors in (x, y))
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx + cy - 2 * scipy.linalg.sqrtm(cx @ cy)).real


def test_every_context_gets_the_stem_of_another():
    for count in (2, 3, 50):
        stems = accompaniment.mismatched(count)
        assert sorted(stems) == list(range(count))
        assert (stems != np.arange(count)).all()
    with pytest.raises(UserError, match="1 pairs"):
        accompaniment.mismatched(1)


def test_a_mix_has_both_equally_loud():
    meter = pyloudnorm.Meter(RATE)
    context, stem = noise(0), noise(1, 2.5, level=0.003)
    mixed = accompaniment.mix(context, stem, RATE)
    assert len(mixed) == len(context)
    assert meter.integrated_loudness(mixed) == pytest.approx(-20, abs=0.2)
    parts = np.linalg.lstsq(np.stack([context, stem[:len(context)]], axis=1), mixed, rcond=None)[0]
    loudness = [meter.integrated_loudness(gain * part) for gain, part in zip(parts, (context, stem), strict=True)]
    assert loudness[0] == pytest.approx(loudness[1], abs=0.05)
    silent = np.zeros(len(context))
    assert not accompaniment.mix(silent, silent, RATE).any()
    assert meter.integrated_loudness(accompaniment.mix(silent, stem, RATE)) == pytest.approx(-20, abs=0.2)


def test_adherence_is_its_formula():
    right, wrong, songs = embeddings(0, 200), embeddings(1, 200, 0.0), embeddings(2, 80, 0.6)
    found = accompaniment.prompt_adherence(right, wrong, songs)
    matched, mismatched, apart = by_sqrtm(songs, right), by_sqrtm(songs, wrong), by_sqrtm(right, wrong)
    assert (found.matched, found.mismatched, found.apart) == pytest.approx((matched, mismatched, apart), rel=1e-6)
    assert found.value == pytest.approx(0.5 + (mismatched - matched) / (2 * apart), rel=1e-6)
    assert 0 <= found.low < found.value < found.high <= 1 and found.error > 0
    assert (found.references, found.songs) == (200, 80)


def test_adherence_goes_from_wrong_pairs_to_true_ones():
    right, wrong = embeddings(0, 200), embeddings(1, 200, 0.0)
    assert accompaniment.prompt_adherence(right, wrong, right).value == 1
    assert accompaniment.prompt_adherence(right, wrong, wrong).value == 0
    values = [accompaniment.prompt_adherence(right, wrong, embeddings(2, 300, matching)).value
              for matching in (0.0, 0.3, 0.6, 1.0)]
    assert values == sorted(values) and values[0] < 0.1 and values[-1] > 0.9


def test_principal_components_are_those_of_the_reference():
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((30, 8)))[0].T
    sets = embeddings(0, 60), embeddings(1, 60, 0.0), embeddings(2, 50, 0.5)
    expected = accompaniment.prompt_adherence(*sets)
    found = accompaniment.prompt_adherence(*(vectors @ turn + 3 for vectors in sets), components=8)
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    fewer = accompaniment.prompt_adherence(*sets, components=2)
    assert fewer.apart < expected.apart


@pytest.mark.parametrize(("sets", "reason"), [
    ((np.zeros((5, 3)), np.zeros((5, 3)), np.zeros((2, 3))), "embeddings of songs have the shape"),
    ((np.zeros((5, 3)), np.zeros((5, 2)), np.zeros((5, 3))), "embeddings of wrong pairs have the shape"),
    ((np.zeros((5, 3)), np.ones((4, 3)), np.zeros((5, 3))), "4 wrong pairs beside 5"),
    ((np.zeros((5, 3)), np.full((5, 3), np.nan), np.zeros((5, 3))), "NaN"),
    ((np.ones((5, 3)), np.ones((5, 3)), np.ones((5, 3))), "the same embeddings")])
def test_embeddings_of_which_nothing_can_be_said(sets, reason):
    with pytest.raises(UserError, match=reason):
        accompaniment.prompt_adherence(*sets)


def clicks(times, seconds=6.0):
    audio = noise(9, seconds, level=1e-4)
    burst = np.random.default_rng(3).normal(0, 0.3, round(0.06 * RATE)) * np.exp(-np.arange(round(0.06 * RATE)) / 200)
    for at in times:
        audio[round(at * RATE):round(at * RATE) + len(burst)] += burst
    return audio


def test_onsets_of_clicks_with_a_known_offset():
    times = np.arange(0.5, 5.5, 0.5)
    beats = accompaniment.onsets(clicks(times), RATE)
    np.testing.assert_allclose(beats, times, atol=0.02)
    for offset, agrees in ((0.03, True), (-0.03, True), (0.1, False), (0.25, False)):
        found = accompaniment.onset_agreement(accompaniment.onsets(clicks(times + offset), RATE), beats, 6.0)
        assert found.share == found.f_measure == agrees
        assert found.chance == pytest.approx(10 * 0.1 / 6)
    half = accompaniment.onset_agreement(accompaniment.onsets(clicks(times[::2]), RATE), beats, 6.0)
    assert (half.share, half.pairs, half.f_measure) == (1, 5, pytest.approx(2 / 3))
    assert not len(accompaniment.onsets(np.zeros(RATE), RATE)) and not len(accompaniment.onsets(np.zeros(0), RATE))


def test_pairs_and_chance_against_brute_force():
    rng = np.random.default_rng(0)
    for a, b in itertools.product(range(6), range(6)):
        stem, context = rng.uniform(0, 1, a), rng.uniform(0, 1, b)
        found = accompaniment.onset_agreement(stem, context, 1.0, 0.08)
        close = np.abs(stem[:, None] - context) <= 0.08
        pairs = close[scipy.optimize.linear_sum_assignment(close, maximize=True)].sum()
        assert (found.stem, found.context, found.pairs) == (a, b, pairs)
        assert found.f_measure == pytest.approx(2 * pairs / (a + b) if a + b else np.nan, nan_ok=True)
        assert found.share == pytest.approx(close.any(axis=1).mean() if a else np.nan, nan_ok=True)
        grid = (np.arange(100_000) + 0.5) / 100_000
        assert found.chance == pytest.approx(
            (np.abs(grid[:, None] - context) <= 0.08).any(axis=1).mean(), abs=1e-4)
