import math

import numpy as np
import pytest
import scipy.stats

from autosong_jax.evaluation.intervals import estimates


def mean(sums):
    return {"mean": sums["x"] / sums["count"] if sums["count"] else math.nan}


def test_the_interval_of_a_share_is_that_of_a_binomial_distribution():
    # Of N songs drawn with replacement, of which a share p has something, a binomial number has it.
    count, share = 40, 0.3
    songs = [{"x": int(i < share * count), "count": 1} for i in range(count)]
    found = estimates(songs, mean, draws=20_000)["mean"]
    expected = scipy.stats.binom(count, share).ppf([0.025, 0.975]) / count
    assert found.value == pytest.approx(share) and found.songs == count
    np.testing.assert_allclose([found.low, found.high], expected, atol=1 / count)


def test_the_interval_of_a_mean_is_as_wide_as_its_standard_error_says():
    songs = np.random.default_rng(1).normal(size=400)
    found = estimates([{"x": x, "count": 1} for x in songs], mean, draws=4000)["mean"]
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * songs.std() / 20, rel=0.05)
    assert found == estimates([{"x": x, "count": 1} for x in songs], mean, draws=4000)["mean"]


def test_sums_are_added_before_a_number_is_made_of_them():
    songs = [{"x": 1.0, "count": 1}, {"x": 6.0, "count": 9}]
    found = estimates(songs, lambda sums: {"perplexity": math.exp(sums["x"] / sums["count"])})["perplexity"]
    assert found.value == pytest.approx(math.exp(0.7))
    assert (found.low, found.high) == pytest.approx((math.exp(6 / 9), math.e))


def test_what_no_song_says_is_none():
    nothing = {"x": np.zeros(3), "count": 0}
    found = estimates([nothing, nothing], lambda sums: {"a": math.nan, "b": sums["x"].sum()})
    assert found["a"].as_json() == {"value": None, "low": None, "high": None, "songs": 2}
    assert found["b"].as_json() == {"value": 0.0, "low": 0.0, "high": 0.0, "songs": 2}
    assert estimates([], mean) == {}


def test_of_a_single_song_there_is_no_interval():
    found = estimates([{"x": 3.0, "count": 1}], mean)["mean"]
    assert found.as_json() == {"value": 3.0, "low": None, "high": None, "songs": 1}
