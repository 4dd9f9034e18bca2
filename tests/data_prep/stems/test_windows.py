"""Windows against a naive loop, and where they can be told beforehand."""

import math

import numpy as np
import pytest

from data_prep.stems.windows import cut, find_windows

RATE = 20  # samples a second, so that hours are nothing
FRAME, STRIDE = 10 * RATE, RATE // 5
HALF = math.sqrt(0.5)  # RMS of a frame in half of which a lead of RMS 1 plays


def find(lead, threshold=HALF, frame=FRAME, stride=STRIDE, block=777):
    lead = np.atleast_2d(lead)
    samples = lead.shape[1]
    return find_windows((lead[:, start:start + block] for start in range(0, samples, block)), samples, frame, stride,
                        threshold)


def naive(lead, threshold, frame, stride):
    lead = np.atleast_2d(lead)
    windows, first = [], None
    for start in range(0, lead.shape[1], stride):
        begin = start + stride // 2 - frame // 2
        inside = lead[:, max(begin, 0):max(begin + frame, 0)]
        if inside.size and math.sqrt(np.mean(inside**2)) >= threshold:
            first = start if first is None else first
        elif first is not None:
            windows.append((first, start))
            first = None
    return windows if first is None else [*windows, (first, lead.shape[1])]


@pytest.mark.parametrize("seed", range(20))
def test_against_a_loop(seed):
    rng = np.random.default_rng(seed)
    samples, stride = int(rng.integers(1, 3000)), int(rng.integers(1, 40))
    frame = int(rng.integers(1, 400))
    lead = rng.standard_normal((rng.integers(1, 3), samples)) * np.repeat(rng.uniform(0, 1, 300), 10)[:samples]
    threshold = 0.6 * lead.std()
    assert find(lead, threshold, frame, stride, int(rng.integers(1, 900))) == naive(lead, threshold, frame, stride)


def playing(start, stop, seconds):
    """A lead of RMS 1, which plays from one second to another: at this threshold a frame is loud if it plays in half
    of it, so a window is where the lead plays."""
    times = np.arange(round(seconds * RATE)) / RATE
    return ((start <= times) & (times < stop)).astype(np.float32)


def seconds(windows):
    return [(start / RATE, stop / RATE) for start, stop in windows]


def test_a_lead_that_plays_from_20_to_80_seconds():
    assert seconds(find(playing(20, 80, 100))) == [(20, 80)]
    # A frame that holds any of it is loud at the lowest threshold: half a frame more at both ends.
    assert seconds(find(playing(20, 80, 100), 1e-6)) == [(15, 85)]


def test_a_window_of_exactly_30_seconds_is_kept():
    for length, kept in ((30.0, 1), (29.8, 0), (30.2, 1)):
        windows = find(playing(20, 20 + length, 100))
        assert seconds(windows) == [(20, pytest.approx(20 + length))]
        assert len(cut(windows, 30 * RATE, 300 * RATE)) == kept
    assert cut([(0, 30 * RATE)], 30 * RATE, 300 * RATE) == [(0, 30 * RATE)]
    assert cut([(0, 30 * RATE - 1)], 30 * RATE, 300 * RATE) == []


def test_silence_has_no_window():
    assert find(np.zeros(100 * RATE)) == find(np.zeros(1)) == []


def test_at_the_beginning_and_the_end_what_lies_within_counts():
    whole = 0.9 * np.ones(100 * RATE + 1)  # barely loud, all the time; its last step is one sample
    assert find(whole) == [(0, 100 * RATE + 1)]
    assert seconds(find(playing(60, 100, 100))) == [(60, 100)]
    assert seconds(find(playing(0, 40, 100))) == [(0, 40)]
    assert find(np.ones(RATE)) == [(0, RATE)]  # shorter than a frame


def test_two_windows():
    assert seconds(find(playing(10, 45, 200) + playing(100, 160, 200))) == [(10, 45), (100, 160)]


def test_long_windows_are_cut_into_equal_parts():
    assert cut([(5, 105), (200, 230)], 30, 60) == [(5, 55), (55, 105), (200, 230)]
    assert cut([(0, 60)], 30, 60) == [(0, 60)] and cut([(0, 61)], 30, 60) == [(0, 30), (30, 61)]
