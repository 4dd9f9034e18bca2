"""Chroma against PyTorch's spectra and the filters of transformers, and on tones whose pitch is known."""

import numpy as np
import pytest
import torch
from transformers.audio_utils import chroma_filter_bank

from autosong_jax.sources.chroma import pitch_classes as chroma

RATE = 32000


@pytest.mark.parametrize("block", [256, 7])
@pytest.mark.parametrize("samples", [5001, 16384, 40001, 100_000])
def test_the_strongest_class_is_the_reference_s(samples, block, monkeypatch):
    monkeypatch.setattr(chroma, "_BLOCK", block)
    audio = np.random.default_rng(samples).normal(size=(2, samples)).astype(np.float32)
    mono = torch.from_numpy(audio.mean(axis=0))
    missing = max(chroma.N_FFT - samples, 0)
    mono = torch.nn.functional.pad(mono, (missing // 2, missing - missing // 2))
    spectra = torch.stft(mono, chroma.N_FFT, chroma.HOP, window=torch.hann_window(chroma.N_FFT), center=True,
                         pad_mode="reflect", return_complex=True).abs().numpy() ** 2
    filters = chroma_filter_bank(sampling_rate=RATE, num_frequency_bins=chroma.N_FFT, tuning=0, num_chroma=12)
    classes = chroma.strongest_pitch_class(audio, RATE)
    np.testing.assert_array_equal(classes, (filters @ spectra).argmax(axis=0))
    assert len(classes) == 1 + max(samples, chroma.N_FFT) // chroma.HOP


@pytest.mark.parametrize("note", [48, 57, 64, 71])
def test_a_tone_is_its_pitch_class(note):
    time = np.arange(2 * RATE) / RATE
    tone = np.sin(2 * np.pi * 440 * 2 ** ((note - 69) / 12) * time)[None].astype(np.float32)
    assert set(chroma.strongest_pitch_class(tone, RATE)) == {note % 12}
