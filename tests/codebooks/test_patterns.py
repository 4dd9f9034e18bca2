"""Patterns against naive loops over steps, frames and codebooks."""

import jax.numpy as jnp
import numpy as np
import pytest

from autosong_jax.codebooks.patterns import delay, get_pattern
from autosong_jax.errors import UserError

SHAPES = [(1, 1), (1, 4), (2, 3), (5, 4), (7, 2), (12, 1), (9, 8)]


def naive_order(name, num_frames, num_codebooks, delays):
    """[(step, frame, codebook)], written as a person would read the definition."""
    if name == "flatten":
        pairs = [(t, k) for t in range(num_frames) for k in range(num_codebooks)]
        return [(1 + i, t, k) for i, (t, k) in enumerate(pairs)]
    if name == "coarse_first":
        pairs = [(t, k) for k in range(num_codebooks) for t in range(num_frames)]
        return [(1 + i, t, k) for i, (t, k) in enumerate(pairs)]
    late = {"parallel": [0] * num_codebooks, "delay": delays or range(num_codebooks)}[name]
    return [(1 + t + late[k], t, k) for t in range(num_frames) for k in range(num_codebooks)]


CASES = [(name, t, k, ()) for name in ("delay", "flatten", "parallel", "coarse_first") for t, k in SHAPES]
CASES += [("delay", 6, 4, (0, 0, 1, 1)), ("delay", 3, 3, (0, 5, 2)), ("delay", 4, 8, (0, 0, 1, 1, 2, 2, 3, 3))]


@pytest.mark.parametrize(("name", "t", "k", "delays"), CASES)
def test_pattern_equals_a_loop_and_round_trips(name, t, k, delays):
    pattern = get_pattern(name, t, k, delays)
    order = naive_order(name, t, k, delays)
    assert pattern.num_steps == max(s for s, _, _ in order) + 1
    codes = np.random.default_rng(0).integers(0, 50, (2, t, k))
    expected = np.full((2, pattern.num_steps, k), 99)
    for step, frame, codebook in order:
        expected[:, step, codebook] = codes[:, frame, codebook]
        assert pattern.frames[step, codebook] == frame and pattern.steps[frame, codebook] == step
    steps = pattern.interleave(jnp.asarray(codes), 99)
    np.testing.assert_array_equal(steps, expected)
    assert (pattern.frames >= 0).sum() == t * k and (pattern.frames[0] == -1).all()
    np.testing.assert_array_equal(pattern.deinterleave(steps), codes)


@pytest.mark.parametrize(("name", "t", "k", "delays"), CASES)
def test_valid_marks_the_codes_of_the_first_frames_only(name, t, k, delays):
    pattern = get_pattern(name, t, k, delays)
    num_frames = np.array([0, t // 2, t])
    expected = np.zeros((3, pattern.num_steps, k), bool)
    for step, frame, codebook in naive_order(name, t, k, delays):
        expected[:, step, codebook] = frame < num_frames
    np.testing.assert_array_equal(pattern.valid(num_frames), expected)


def test_delay_is_the_published_one():
    rows = delay(5, range(4)).interleave(jnp.tile(jnp.arange(1, 6)[None, :, None], (1, 1, 4)), 0)[0].T
    assert ["".join("S12345"[i] for i in row) for row in rows] == ["S12345SSS", "SS12345SS", "SSS12345S", "SSSS12345"]
    assert delay(1500, range(4)).num_steps == 1504


@pytest.mark.parametrize(("name", "delays", "word"), [("zigzag", (), "zigzag"), ("delay", (0, 1), "one a codebook"),
                                                      ("delay", (1, 2, 3), "smallest 0")])
def test_a_wrong_pattern_is_named(name, delays, word):
    with pytest.raises(UserError, match=word):
        get_pattern(name, 4, 3, delays)
