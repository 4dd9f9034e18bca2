"""Edits as frames that stay and frames that do not."""

import numpy as np
import pytest

from autosong_jax.errors import UserError
from autosong_jax.sampling.edits import Edit

ONE, TWO = np.arange(1, 21).reshape(10, 2), np.arange(101, 107).reshape(3, 2)


def row(clips, **edit):
    """The first codebook of the row, 0 where it is to be made."""
    codes, given = Edit(clips, **edit).timeline(10.0)
    assert codes.dtype == clips[0].dtype and given.dtype == bool
    return np.where(given, codes[:, 0], 0).tolist()


def test_spans_are_made_anew_in_every_frame_that_they_touch():
    assert row([ONE], spans=[(0.3, 0.6)]) == [1, 3, 5, 0, 0, 0, 13, 15, 17, 19]
    assert row([ONE], spans=[(0.55, 0.61), (0.0, 0.1)]) == [0, 3, 5, 7, 9, 0, 0, 15, 17, 19]
    assert row([ONE], spans=[(0.1, 0.2), (0.2, 0.3)]) == [1, 0, 0, 7, 9, 11, 13, 15, 17, 19]
    assert row([ONE], spans=[(0.0, 1.0)]) == [0] * 10


def test_seconds_are_added_around_clips():
    assert row([TWO], before=0.2, after=0.1) == [0, 0, 101, 103, 105, 0]
    assert row([TWO, TWO], between=0.2) == [101, 103, 105, 0, 0, 101, 103, 105]
    # Spans are of the row as it was, so what is before it moves nothing.
    assert row([TWO, TWO], spans=[(0.2, 0.3)], before=0.1) == [0, 101, 103, 0, 101, 103, 105]


@pytest.mark.parametrize(("edit", "words"), [
    ({"spans": [(0.5, 1.2)]}, ["0.5 s to 1.2 s", "outside", "0 to 1.00 s"]),
    ({"spans": [(-0.1, 0.2)]}, ["-0.1 s", "outside", "before or after"]),
    ({"spans": [(0.5, 0.5)]}, ["0.5 s to 0.5 s", "empty"]), ({"spans": [(0.5, 0.4)]}, ["empty"]),
    ({"spans": [(float("nan"), 0.4)]}, ["empty"]),
    ({"spans": [(0.3, 0.6), (0.1, 0.4)]}, ["0.1 s to 0.4 s", "0.3 s to 0.6 s", "overlap"]),
    ({"before": -1.0}, ["-1.0 s before"]), ({}, ["nothing to edit"]),
])
def test_edits_that_mean_nothing_are_named(edit, words):
    with pytest.raises(UserError) as error:
        Edit([ONE], **edit).timeline(10.0)
    assert all(word in str(error.value) for word in words), str(error.value)
