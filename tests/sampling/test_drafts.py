"""Which window is made next, by what must hold of every one and by cases written out."""

import numpy as np
import pytest

from autosong_jax.sampling.drafts import next_window


@pytest.mark.parametrize("total", [5, 12, 13, 40])
@pytest.mark.parametrize("overlap", [0, 5, 11])
def test_songs_that_are_continued_use_all_of_the_past_that_fits(total, overlap):
    for made in range(total):
        start, stop = next_window(np.arange(total) < made, 12, overlap)
        past = min(made, max(overlap, 12 - (total - made)))
        assert (start, stop) == (made - past, min(made - past + 12, total))


@pytest.mark.parametrize(("gaps", "expected"), [
    ([(20, 22)], (15, 22)),  # in the middle
    ([(20, 24)], (15, 24)),  # but from what overlaps
    ([(1, 3)], (0, 3)), ([(38, 40)], (28, 40)),
    ([(10, 30)], (5, 17)),  # too long: its first part
    ([(10, 12), (14, 16)], (5, 16)),  # both
    ([(10, 12), (15, 20)], (5, 12)),  # the second is left whole to the next window
])
def test_gaps_stand_in_the_middle_of_a_window(gaps, expected):
    given = np.ones(40, bool)
    for start, stop in gaps:
        given[start:stop] = False
    assert next_window(given, 12, 5) == expected


def test_any_song_is_filled_from_left_to_right():
    rng = np.random.default_rng(0)
    for _ in range(200):
        given, overlap = np.repeat(rng.random(12) < 0.5, rng.integers(1, 9)), int(rng.integers(0, 12))
        while not given.all():
            first = np.argmin(given)
            start, stop = next_window(given, 12, overlap)
            assert 0 <= start <= first < stop <= min(start + 12, len(given))
            assert first - start >= min(overlap, first) or start + 12 >= len(given)
            given[start:stop] = True
