"""Copies: how high, how long, and whether lead and backing stay together."""

import numpy as np
import pytest

from data_prep.stems.copies import copies, copy_names
from data_prep.stems.options import Options

RATE = 32_000


def options(**values):
    return Options(input=("in",), output="out", **values)


def frequency(audio):
    """Hz of the strongest sine, by the peak of a windowed spectrum between its bins."""
    spectrum = np.log(np.abs(np.fft.rfft(audio * np.hanning(len(audio)))) + 1e-12)
    k = int(np.argmax(spectrum))
    left, middle, right = spectrum[k - 1:k + 2]
    return (k + (left - right) / (2 * (left - 2 * middle + right))) * RATE / len(audio)


def cents(a, b):
    return 1200 * np.log2(a / b)


def test_pitch_and_length():
    pitches = (220.0, 440.0, 1234.5)
    seconds = np.arange(2 * RATE + 77) / RATE
    tracks = np.stack([0.3 * np.sin(2 * np.pi * pitch * seconds) for pitch in pitches]).astype(np.float32)
    o = options(pitch=(-2.0, 2.0, 0.5), tempo=(0.9, 1.1))
    made = dict(zip(copy_names(o), copies(tracks, o), strict=True))
    assert list(made) == ["pitch-2", "pitch+2", "pitch+0.5", "tempo0.9", "tempo1.1"]
    for name, copy in made.items():
        assert copy.dtype == np.float32
        length = tracks.shape[1] / (float(name.removeprefix("tempo")) if "tempo" in name else 1)
        assert copy.shape == (3, round(length))
        semitones = float(name.removeprefix("pitch")) if "pitch" in name else 0
        for pitch, track in zip(pitches, copy, strict=True):
            assert abs(cents(frequency(track[RATE // 4:-RATE // 4]), pitch) - 100 * semitones) < 10


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_what_sounds_together_still_does(speed):
    """A lead and a backing of other pitch that begin and end together, in stereo."""
    times = np.arange(3 * RATE) / RATE
    on = (times >= 1) & (times < 2)
    tracks = np.stack([on * np.sin(2 * np.pi * pitch * times) for pitch in (300, 301, 2000, 2100)]).astype(np.float32)
    for copy, stretch in zip(copies(tracks, options(pitch=(3.0,), tempo=(speed,))), (1, speed), strict=True):
        edges = []
        for track in copy:
            loud = np.flatnonzero(np.convolve(track**2, np.ones(64) / 64, "same") > 0.125)  # half of the power of 0.25
            edges.append((loud[0], loud[-1]))
        edges = np.array(edges) / RATE
        np.testing.assert_allclose(edges, [[1 / stretch, 2 / stretch]] * 4, atol=0.04)  # within a frame of 128 ms
        assert np.ptp(edges, 0).max() < 0.03
