"""Whole songs in one context: the memory of a training step grows with the length of a song, not with its square."""

import jax
import numpy as np
import pytest

from benchmarks.whole_songs import compile_step, largest_array

SHAPE = {"width": 32, "heads": 4, "layers": 3, "mlp_width": 64}


def test_a_step_of_lyric2music_takes_memory_linear_in_the_length():
    lengths, taken, largest = (4000, 8000, 16_000), [], []
    for length in lengths:
        program = compile_step(length, SHAPE)
        taken.append(program.memory_analysis().temp_size_in_bytes)
        largest.append(largest_array(program.as_text(), length)[1])
    slopes = np.diff(taken) / np.diff(lengths)
    assert slopes[1] == pytest.approx(slopes[0], rel=0.1)
    assert largest[-1] == pytest.approx(4 * largest[0], rel=0.01)
    scores = jax.device_count() * 4 * SHAPE["heads"] * lengths[-1] ** 2  # of one layer, a song a device
    assert taken[-1] < scores / 10
