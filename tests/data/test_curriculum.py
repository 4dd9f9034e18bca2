"""Windows that grow with the steps."""

import numpy as np

from autosong_jax.data.curriculum import frames_at, shortened


def test_windows_double_until_they_are_full():
    assert [frames_at(step, 256, 64, 100) for step in (0, 49, 50, 99, 100, 10**6)] == [64, 64, 128, 128, 256, 256]
    assert [frames_at(step, 160, 64, 100) for step in (0, 50, 100)] == [64, 128, 160]
    assert frames_at(0, 256, 64, 0) == 256 and frames_at(0, 32, 64, 100) == 32


def test_a_shorter_window_holds_less_of_its_song():
    batch = {"frames": np.arange(12).reshape(3, 4, 1), "num_frames": np.array([4, 1, 2]),
             "song_ends": np.array([False, True, True]), "sources": {}}
    short = shortened(batch, 2)
    np.testing.assert_array_equal(short["frames"][..., 0], [[0, 1], [4, 5], [8, 9]])
    np.testing.assert_array_equal(short["num_frames"], [2, 1, 2])
    # The end of a song takes the place of the frame after its last: of the third there is none left.
    np.testing.assert_array_equal(short["song_ends"], [False, True, False])
    assert all(np.array_equal(x, y) for x, y in zip(shortened(batch, 4).values(), batch.values(), strict=True))
