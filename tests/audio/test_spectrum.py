"""Spectra, against one frame computed by hand, librosa's filters, scipy's solver and plain fast Griffin-Lim."""

import librosa
import numpy as np
import pytest
import scipy.optimize

from autosong_jax.audio import spectrum

RATE = 16_000


def test_frames_are_centred_on_their_hop():
    audio = np.random.default_rng(0).standard_normal(1600).astype(np.float32)
    window = spectrum.hann(64)
    [(first, spectra)] = spectrum.stft_blocks(audio, window, 16)
    padded = np.concatenate([np.zeros(24), audio, np.zeros(24)])  # frame 0: around the middle of samples [0, 16)
    for frame in (0, 1, 57, 99):
        expected = np.fft.rfft(padded[frame * 16:frame * 16 + 64] * window)
        np.testing.assert_allclose(spectra[frame], expected, atol=1e-6)
    assert first == 0 and spectra.shape == (100, 33)


def test_blocks_join():
    audio = np.random.default_rng(0).standard_normal(16 * 1100).astype(np.float32)
    filters = spectrum.mel_filters(RATE, 64, 10)
    together = spectrum.band_magnitudes(audio, spectrum.hann(64), 16, filters)
    apart = spectrum.band_magnitudes(audio[16 * 500:16 * 530], spectrum.hann(64), 16, filters)
    np.testing.assert_allclose(together[502:528], apart[2:-2], rtol=1e-5)  # frame 512 begins the second block


def test_a_sine_has_its_amplitude():
    time = np.arange(RATE) / RATE
    audio = (0.3 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    [(_, spectra)] = spectrum.stft_blocks(audio, spectrum.hann(1024), 320)
    assert np.abs(spectra[20]).argmax() == 64
    assert np.abs(spectra[20]).max() == pytest.approx(0.3, rel=1e-3)


def test_filters_are_librosas_where_these_are_wide_enough():
    ours = spectrum.mel_filters(RATE, 2048, 40).toarray()
    theirs = librosa.filters.mel(sr=RATE, n_fft=2048, n_mels=40, htk=True, norm=None)
    np.testing.assert_allclose(ours, theirs / theirs.sum(axis=1, keepdims=True), atol=1e-5)


def test_narrow_filters_are_not_empty():
    filters = spectrum.mel_filters(RATE, 512, 200).toarray()
    np.testing.assert_allclose(filters.sum(axis=1), 1, rtol=1e-5)


def test_unfilter_fits_as_well_as_an_exact_solver():
    rng = np.random.default_rng(0)
    filters = spectrum.mel_filters(RATE, 128, 20)
    bands = (filters @ rng.exponential(size=(65, 7))).T.astype(np.float32)
    ours = spectrum.unfilter(bands, filters, iterations=1000)
    assert ours.min() >= 0
    for band, magnitudes in zip(bands, ours, strict=True):
        _, error = scipy.optimize.nnls(filters.toarray().astype(np.float64), band.astype(np.float64))
        assert np.linalg.norm(filters @ magnitudes - band) <= error + 0.01 * np.linalg.norm(band)


def naive_griffin_lim(magnitudes, window, hop, iterations, momentum, seed):
    """The algorithm as published: whole spectra, extrapolated as spectra."""
    count, n_fft = len(magnitudes), len(window)
    before = (n_fft - hop) // 2

    def analyse(signal):
        padded = np.concatenate([np.zeros(before), signal, np.zeros(n_fft)])
        return np.stack([np.fft.rfft(padded[f * hop:f * hop + n_fft] * window) for f in range(count)])

    def synthesise(spectra):
        total, weight = np.zeros(count * hop + 2 * n_fft), np.zeros(count * hop + 2 * n_fft)
        for f, one in enumerate(spectra):
            total[f * hop:f * hop + n_fft] += np.fft.irfft(one, n_fft) * window
            weight[f * hop:f * hop + n_fft] += window ** 2
        inside = slice(before, before + count * hop)
        return total[inside] / weight[inside]

    extrapolated = previous = analyse(np.random.default_rng(seed).standard_normal(count * hop, dtype=np.float32))
    for _ in range(iterations):
        signal = synthesise(magnitudes * extrapolated / np.abs(extrapolated))
        consistent = analyse(signal)
        extrapolated, previous = consistent + momentum * (consistent - previous), consistent
    return signal


def test_griffin_lim_is_the_published_algorithm():
    rng = np.random.default_rng(0)
    magnitudes = rng.exponential(size=(600, 17)).astype(np.float32)  # more than one block of frames
    expected = naive_griffin_lim(magnitudes, spectrum.hann(32), 10, iterations=4, momentum=0.99, seed=3)
    ours = spectrum.griffin_lim(magnitudes, spectrum.hann(32), 10, iterations=4, momentum=0.99, seed=3)
    np.testing.assert_allclose(ours, expected, atol=1e-3 * np.abs(expected).max())


def test_griffin_lim_approaches_the_magnitudes():
    time = np.arange(RATE) / RATE
    audio = sum(np.sin(2 * np.pi * f * time) for f in (220, 277, 330)).astype(np.float32) / 4
    window = spectrum.hann(1024)

    def magnitudes(signal):
        return np.concatenate([np.abs(spectra) for _, spectra in spectrum.stft_blocks(signal, window, 320)])

    target = magnitudes(audio)
    error = [np.linalg.norm(magnitudes(spectrum.griffin_lim(target, window, 320, iterations=n)) - target)
             / np.linalg.norm(target) for n in (1, 8, 32)]
    assert error[2] < error[1] < error[0] and error[2] < 0.1


def test_silence_is_silent():
    assert not spectrum.griffin_lim(np.zeros((9, 513), np.float32), spectrum.hann(1024), 320).any()
