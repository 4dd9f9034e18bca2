"""Memorisation against a comparison of all windows with all, planted copies, and chance."""

import types

import numpy as np
import pytest

from autosong_jax.errors import UserError
from autosong_jax.evaluation import memorisation
from autosong_jax.evaluation.intervals import estimates
from autosong_jax.evaluation.metrics import Song


def naive(songs, training, length):
    """For each window the largest number of equal codes, of any training window; 0 without any."""
    found = []
    for song in songs:
        windows = [song[u:u + length] for u in range(len(song) - length + 1)]
        found.append([max([0, *(int((window == other[j:j + length]).sum()) for other in training
                                for j in range(len(other) - length + 1))]) for window in windows])
    return found


@pytest.mark.parametrize("codebooks", [1, 3])
@pytest.mark.parametrize("least", [1.0, 0.8, 0.6])
def test_all_matches_are_found_and_none_other(codebooks, least, monkeypatch):
    monkeypatch.setattr(memorisation, "_HITS", 40)  # many parts, and diagonals one by one
    rng = np.random.default_rng(0)
    size = 4  # few codes, so that much is equal by chance
    training = [rng.integers(size, size=(frames, codebooks)) for frames in (30, 3, 17, 40)]
    training[3][10:25] = 2  # silence
    songs = [rng.integers(size, size=(frames, codebooks)) for frames in (20, 4, 12)]
    songs[0][3:12] = training[2][5:14]
    songs[0][6, 0] += 1  # an error in a copy
    songs[2][:] = 2
    lengths = (1, 5, 8, 13)
    found, seen = memorisation.find_matches(songs, iter(training), lengths, size + 1, least)
    assert [matches.length for matches in found] == list(lengths)
    for matches, length in zip(found, lengths, strict=True):
        need = np.ceil(least * length * codebooks - 1e-9)
        expected = naive(songs, training, length)
        for i, counts in enumerate(expected):
            np.testing.assert_array_equal(matches.counts[i], [count if count >= need else 0 for count in counts])
            for u, count in enumerate(matches.counts[i]):
                number, start = matches.songs[i][u], matches.starts[i][u]
                if not count:
                    assert (number, start) == (-1, -1)
                    continue
                window = training[number][start:start + length]
                assert (songs[i][u:u + length] == window).sum() == count
        every = np.concatenate([np.array(counts) / matches.codes for counts in expected])
        assert matches.windows() == len(every)
        for share in (1.0, least):
            assert matches.share(share) == pytest.approx((every >= share - 1e-9).mean())
    assert len(found[3].shares(1.0)) == 1  # the others are shorter than a window
    assert seen.songs == 4 and seen.windows == tuple(
        sum(max(len(song) - length + 1, 0) for song in training) for length in lengths)
    every = np.concatenate(training)
    for k in range(codebooks):
        np.testing.assert_allclose(seen.frequencies[k], np.bincount(every[:, k], minlength=size + 1) / len(every))


def test_planted_copies_are_found_where_they_are():
    rng = np.random.default_rng(1)
    training = [rng.integers(500, size=(300, 4)) for _ in range(20)]
    songs = [rng.integers(500, size=(200, 4)) for _ in range(5)]
    songs[1][40:90] = training[7][100:150]
    songs[3][:60] = training[12][240:]
    songs[3][::10] = 0  # of ten frames one is another
    (matches,), _ = memorisation.find_matches(songs, iter(training), [50], 500, 0.8)
    assert matches.counts[1][40] == 200
    assert (matches.songs[1][40], matches.starts[1][40]) == (7, 100)
    assert (matches.counts[3][:11] == 180).all()
    assert (matches.songs[3][:11] == 12).all()
    np.testing.assert_array_equal(matches.starts[3][:11], np.arange(240, 251))
    near = np.concatenate([matches.counts[i] for i in (0, 2, 4)])
    assert not near.any()
    assert matches.share(1.0) == 1 / (5 * 151)
    assert matches.share(0.9) >= (1 + 11) / (5 * 151)


def test_curves_of_songs_add_up():
    rng = np.random.default_rng(4)
    training = [rng.integers(50, size=(200, 3)) for _ in range(6)]
    songs = [rng.integers(50, size=(frames, 3)) for frames in (150, 60, 20)]
    songs[0][20:90] = training[2][50:120]
    songs[0][20:90:8, 1:] = 50  # the first codebook alone is that of the training song
    found = memorisation.curves(songs, lambda: iter(training), 10.0, 51)
    total = {name: sum(song[name] for song in found) for name in found[0]}
    first, every = (memorisation.read_curve(total, name) for name in memorisation.CODEBOOKS)
    # A copy of 70 frames has 21 windows of 50, and 10 more on either side that have 40 of them.
    assert first["5 s, 100 %"] == 21 / (101 + 11) and first["5 s, 80 %"] == first[""] == 41 / 112
    assert first["10 s, 80 %"] == 0 and every["5 s, 100 %"] == 0
    assert 21 / 112 <= every["5 s, 90 %"] < 31 / 112
    assert list(first) == ["", *(f"{seconds} s, {share} %" for seconds in (1, 2, 5, 10) for share in (100, 90, 80))]
    short = memorisation.read_curve(found[2], "all")
    assert np.isnan(short["5 s, 80 %"]) and short["2 s, 80 %"] == 0


def test_the_metric_is_that_of_all_songs_together():
    rng = np.random.default_rng(5)

    class Training(list):
        frame_rate, codec = 10.0, types.SimpleNamespace(frames=types.SimpleNamespace(size=50))

    training = Training({"frames": rng.integers(50, size=(120, 2))} for _ in range(4))
    frames = [rng.integers(50, size=(100, 2)), training[3]["frames"][20:]]
    songs = [Song(str(i), 8000, 10.0, 50, lambda i=i: frames[i]) for i in range(2)]
    metric = memorisation.memorisation_metric(training)
    assert all(metric.applies(song) for song in songs)
    found = estimates(metric.of_songs(songs), metric.summarize, draws=20)
    assert found[""].value == found["all: 10 s, 100 %"].value == 0.5 and len(found) == 25
    assert (found[""].low, found[""].high) == (0, 1)


def test_hashes_are_not_trusted(monkeypatch):
    """With hashes that are all the same, everything is compared, and nothing else comes of it."""
    rng = np.random.default_rng(2)
    training, songs = ([rng.integers(3, size=(25, 2)) for _ in range(4)] for _ in range(2))
    expected, _ = memorisation.find_matches(songs, iter(training), [4, 9], 3, 0.8)
    monkeypatch.setattr(memorisation, "_hashes", lambda codes, length: np.zeros(
        max(len(codes) - length + 1, 0), np.uint64))
    found, _ = memorisation.find_matches(songs, iter(training), [4, 9], 3, 0.8)
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours.counts, theirs.counts, strict=True):
            np.testing.assert_array_equal(a, b)


def test_random_songs_match_as_often_as_chance_says():
    rng = np.random.default_rng(3)
    for weights, exact in (([0.25] * 4, True), ([0.4, 0.3, 0.2, 0.1], False)):
        training, songs = ([rng.choice(4, size=(200, 2), p=weights) for _ in range(12)] for _ in range(2))
        found, seen = memorisation.find_matches(songs, iter(training), [5, 8], 4, 0.8)
        for matches, windows in zip(found, seen.windows, strict=True):
            for share in (1.0, 0.9, 0.8):
                expected = memorisation.chance(share, matches.length, seen, windows)
                if exact or expected < 0.05:
                    assert matches.share(share) == pytest.approx(expected, abs=0.03)
                assert matches.share(share) <= expected + 0.03
    uniform = memorisation.Training(1, (1,), np.full((1, 8), 1 / 8))
    assert memorisation.chance(1.0, 3, uniform, 1) == pytest.approx(8.0 ** -3)
    assert memorisation.chance(0.5, 2, uniform, 1) == pytest.approx(1 - (7 / 8) ** 2)
    assert memorisation.chance(1.0, 1, uniform, 5) == pytest.approx(1 - (7 / 8) ** 5)


def test_songs_of_other_codebooks_are_refused():
    songs = [np.zeros((5, 2), int)]
    with pytest.raises(UserError, match="training song 0 has codes"):
        memorisation.find_matches(songs, [np.zeros((5, 3), int)], [2], 4)
    with pytest.raises(UserError, match="songs have codes"):
        memorisation.find_matches([*songs, np.zeros((5, 3), int)], [], [2], 4)
    found, seen = memorisation.find_matches(songs, [], [2, 9], 4)
    assert np.isnan(found[1].share(1.0)) and found[0].share(1.0) == 0 and seen.songs == 0
