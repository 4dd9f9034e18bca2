"""Which window is made next, by what must hold of every one and by cases written out."""

import numpy as np
import pytest

from autosong_jax.sampling.drafts import Draft, next_window


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


def test_a_draft_grows_and_takes_only_what_does_not_stand():
    """Two songs, the second of which is over after 4 frames, against what stands where, written out."""
    draft = Draft.of(np.array([[1], [2]]), np.ones(2, bool), 2).lengthened(6)
    assert draft.standing == 2 and draft.num_frames.tolist() == [6, 6]
    codes, given, num_frames = draft.cut(1, 8)
    assert codes[..., 0].tolist() == [[2] + [0] * 7] * 2 and num_frames.tolist() == [5, 5]
    assert given.tolist() == [[True] + [False] * 7] * 2
    draft.add(np.arange(10, 18).reshape(2, 4, 1), 1, np.array([6, 4]))
    assert draft.standing == 5 and draft.num_frames.tolist() == [6, 4]
    longer = Draft(draft.frames[:, :5], draft.given[:5], np.minimum(draft.num_frames, 5)).lengthened(7)
    assert longer.frames[..., 0].tolist() == [[1, 2, 11, 12, 13, 0, 0], [1, 2, 15, 16, 0, 0, 0]]
    assert longer.num_frames.tolist() == [7, 4] and longer.standing == 5
    assert [song[:, 0].tolist() for song in longer.songs()][1] == [1, 2, 15, 16]
