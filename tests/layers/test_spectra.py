"""Spectra under a gradient, against those of the host and torch's, and what the inverse is to be nearest to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from autosong_jax.audio import spectrum
from autosong_jax.layers import spectra

SIZES = [(64, 16), (60, 25), (32, 32)]  # of the transform and the hop; also where neither divides the other


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
def test_spectra_are_those_of_the_host(n_fft, hop):
    audio = noise(2, 30 * hop)
    expected = np.stack([next(spectrum.stft_blocks(song, spectrum.hann(n_fft), hop))[1] for song in audio])
    np.testing.assert_allclose(spectra.stft(audio, n_fft, hop), expected, atol=1e-6)


def test_bands_are_those_of_the_host():
    audio, filters = noise(2, 30 * 16), spectrum.mel_filters(1000, 64, 20)
    expected = [spectrum.band_magnitudes(song, spectrum.hann(64), 16, filters) for song in audio]
    np.testing.assert_allclose(spectra.band_magnitudes(audio, 1000, 64, 16, 20), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("n_fft", "hop"), SIZES[:2])
def test_a_signal_comes_back_from_its_spectra(n_fft, hop):
    audio = noise(2, 30 * hop)
    back = spectra.istft(spectra.stft(audio, n_fft, hop), n_fft, hop)
    np.testing.assert_allclose(back, audio, atol=1e-5)


def test_what_is_no_signals_becomes_the_signal_with_the_nearest_frames():
    frames = noise(20, 64)

    def distance(audio):
        return jnp.square(spectra.framed(audio, 64, 16) * spectrum.hann(64) - frames).sum()

    nearest = spectra.istft(jnp.fft.rfft(frames), 64, 16)
    assert np.abs(jax.grad(distance)(nearest)).max() < 1e-6 < np.abs(jax.grad(distance)(nearest + 0.01)).max()


def test_frames_outside_of_the_signal_change_nothing():
    values = spectra.stft(noise(2, 20 * 16), 64, 16)
    inside = np.array([[True] * 20, [False] * 4 + [True] * 10 + [False] * 6])
    some = spectra.istft(jnp.where(inside[..., None], values, 1e3), 64, 16, inside)
    np.testing.assert_allclose(some[0], spectra.istft(values[0], 64, 16), atol=1e-6)
    np.testing.assert_allclose(some[1, 64:14 * 16], spectra.istft(values[1, 4:14], 64, 16), atol=1e-5)


def test_distances_are_those_of_torch():
    a, b = noise(2, 960), 0.5 * noise(2, 960)[::-1]
    sizes = (64, 16), (128, 32)
    convergence, logs = spectra.stft_distance(a, b, resolutions=sizes)
    expected = np.zeros((2, 2))
    for n_fft, hop in sizes:
        window = torch.from_numpy(spectrum.hann(n_fft))
        side = (n_fft - hop) // 2
        one, other = (torch.stft(torch.nn.functional.pad(torch.from_numpy(x.copy()), (side, side)), n_fft, hop,
                                 window=window, center=False, return_complex=True).abs() for x in (a, b))
        difference = (one - other).flatten(1).norm(dim=1) / one.flatten(1).norm(dim=1)
        distance = (one.clamp(min=1e-4).log() - other.clamp(min=1e-4).log()).abs().mean(dim=(1, 2))
        expected += np.stack([difference.numpy(), distance.numpy()]) / len(sizes)
    np.testing.assert_allclose([convergence, logs], expected, rtol=1e-4)


def test_what_comes_after_a_song_counts_nothing():
    a, b = noise(1, 640), 0.3 * noise(1, 640)
    after = np.where(np.arange(640) < 320, 0, 5).astype(np.float32)
    one = spectra.stft_distance(a, b, np.float32([0.5]), ((64, 16),))
    other = spectra.stft_distance(a + after, b - after, np.float32([0.5]), ((64, 16),))
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_silence_has_a_finite_distance_and_gradient():
    def loss(audio):
        return sum(x.sum() for x in spectra.stft_distance(jnp.zeros((1, 128)), audio, resolutions=((64, 16),)))

    value, gradient = jax.value_and_grad(loss)(jnp.zeros((1, 128)))
    assert value == 0 and not np.asarray(gradient).any()
    assert np.isfinite(jax.grad(loss)(noise(1, 128))).all()
