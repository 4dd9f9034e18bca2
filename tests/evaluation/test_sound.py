import math

import numpy as np
import pytest

from autosong_jax.evaluation import sound
from autosong_jax.layers import spectra

RATE = 1000


def noise(samples, seed=0):
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def test_half_as_loud_is_half_of_the_spectrum_and_one_octave_of_the_logarithms_away():
    audio = noise(5000)
    assert sound.stft_distance(audio, audio) == 0
    assert sound.stft_distance(audio, audio / 2) == pytest.approx(0.5 + math.log(2), rel=1e-4)


def test_a_distance_is_the_one_that_vocoders_are_trained_by():
    a, b, sizes = noise(1000), 0.3 * noise(1000, 1), ((64, 16), (128, 50))
    assert sound.stft_distance(a, b, sizes) == pytest.approx(
        float(sum(spectra.stft_distance(a, b, resolutions=sizes))), rel=1e-4)
    assert sound.stft_distance(0 * a, 0 * a, sizes) == 0


@pytest.mark.parametrize("samples", [(0, 0), (100, 99)])
def test_signals_of_unlike_lengths_have_no_distance(samples):
    with pytest.raises(ValueError, match="expected as many of both"):
        sound.stft_distance(*map(noise, samples))


def test_levels_are_those_of_known_signals():
    sine = np.sin(2 * np.pi * 50 * np.arange(RATE) / RATE)
    audio = np.concatenate([sine, np.full(RATE, 0.1), np.zeros(RATE), np.ones(RATE // 2)])
    np.testing.assert_allclose(sound.levels(audio, RATE, 1.0), [-10 * math.log10(2), -20, -120], atol=1e-9)


def test_silence_is_the_share_of_quiet_frames_of_each_stretch():
    audio = noise(4 * RATE + 17)
    frames, expected = RATE // 20, []
    quiet = np.zeros(len(audio), bool)
    for frame in (0, 3, 4, 25, 61, 62, 79):  # of 20 a second
        quiet[frame * frames:(frame + 1) * frames] = True
    audio[quiet] *= 1e-4
    for second in range(4):
        expected.append(sum(quiet[second * RATE + i * frames] for i in range(20)) / 20)
    np.testing.assert_allclose(sound.silence(audio, RATE, 1.0), expected)
