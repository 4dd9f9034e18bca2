"""Loudness against the standard's own numbers and pyloudnorm."""

import math

import numpy as np
import pytest

from autosong_jax.audio.loudness import Meter, gain, k_weighting


def measure(audio, rate, block=None):
    meter = Meter(rate, len(audio))
    for start in range(0, audio.shape[1], block or audio.shape[1]):
        meter.add(audio[:, start:start + (block or audio.shape[1])])
    return meter.loudness()


def sine(rate, seconds, level, channels=2, frequency=1000.0):
    """[channels, samples] of which each channel has its peak at `level` dB."""
    return np.tile(10 ** (level / 20) * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate),
                   (channels, 1))


def test_filters_are_those_of_the_standard():
    """BS.1770-4, tables 1 and 2, which are for 48 kHz."""
    shelf, high_pass = k_weighting(48_000)
    np.testing.assert_allclose(shelf, [1.53512485958697, -2.69169618940638, 1.19839281085285, 1, -1.69065929318241,
                                       0.73248077421585], atol=1e-9)
    np.testing.assert_allclose(high_pass, [1, -2, 1, 1, -1.99004745483398, 0.99007225036621], atol=1e-9)


@pytest.mark.parametrize("rate", [32_000, 44_100, 48_000])
def test_a_sine_is_as_loud_as_its_peak_in_stereo(rate):
    """EBU Tech 3341, test case 1; in one channel it is 3.01 LU less."""
    assert measure(sine(rate, 5, -23), rate) == pytest.approx(-23, abs=0.1)
    assert measure(sine(rate, 5, -23, channels=1), rate) == pytest.approx(-26.01, abs=0.1)


def test_quiet_parts_do_not_count():
    """EBU Tech 3341, test case 4, five times shorter: 10 LU below the others, or below -70 LUFS."""
    rate = 48_000
    parts = [(2, -72), (2, -36), (12, -23), (2, -36), (2, -72)]
    audio = np.concatenate([sine(rate, seconds, level) for seconds, level in parts], axis=1)
    assert measure(audio, rate) == pytest.approx(-23, abs=0.2)  # 0.1 for the blocks across the changes
    assert measure(sine(rate, 2, -75), rate) == -math.inf
    assert measure(np.zeros((2, rate)), rate) == -math.inf


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (48_000, 1), (32_000, 2)])
def test_against_pyloudnorm(rate, channels):
    pyloudnorm = pytest.importorskip("pyloudnorm")
    rng = np.random.default_rng(rate)
    samples = 7 * rate + 123
    noise = rng.standard_normal((channels, samples)) * np.repeat(10 ** rng.uniform(-3, -1, 8), rate)[:samples]
    tones = sine(rate, 7, -20, channels, 60.0) + sine(rate, 7, -30, channels, 9000.0)
    for audio in (noise, tones, np.cumsum(noise, 1) / 30):
        expected = pyloudnorm.Meter(rate).integrated_loudness(audio.T)
        assert measure(audio, rate) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("block", [1, 997, 4410, 100_000])
def test_any_blocks_give_the_same(block):
    rate = 4410
    audio = np.random.default_rng(0).standard_normal((2, 9999)) * 0.1
    assert measure(audio, rate, block) == pytest.approx(measure(audio, rate), abs=1e-9)


def test_gain():
    assert gain(-20.0, 0.1, -14.0, -1.0) == pytest.approx(10 ** (6 / 20))
    assert gain(-20.0, 0.8, -14.0, -1.0) == pytest.approx(10 ** (-1 / 20) / 0.8)  # less, for its peaks
    assert gain(-8.0, 1.2, -14.0, -1.0) == pytest.approx(10 ** (-6 / 20))
    assert gain(-math.inf, 1e-3, -14.0, 0.0) == pytest.approx(1e3)
