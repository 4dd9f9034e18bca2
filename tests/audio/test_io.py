"""Audio files: every format, mixing, resampling, and files that cannot be used."""

import contextlib
import os

import numpy as np
import pytest
import soundfile
import soxr

from autosong_jax.audio import io
from autosong_jax.errors import UserError


def tone(rate, seconds=1.0, channels=1):
    time = np.arange(round(rate * seconds)) / rate
    return np.stack([0.2 * np.sin(2 * np.pi * 330 * (c + 1) * time) for c in range(channels)]).astype(np.float32)


@pytest.mark.parametrize(("suffix", "tolerance"), [("wav", 1e-4), ("flac", 1e-4), ("ogg", 0.02), ("mp3", 0.02)])
def test_reads_every_format(tmp_path, suffix, tolerance):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(32000, channels=2).T, 32000)
    audio, rate = io.read(path)
    assert (rate, audio.dtype, audio.shape, audio.flags.c_contiguous) == (32000, np.float32, (2, 32000), True)
    assert np.abs(audio - tone(32000, channels=2))[:, 1000:-1000].max() < tolerance


def test_channels(tmp_path):
    soundfile.write(tmp_path / "six.wav", tone(8000, channels=6).T, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", tone(8000).T, 8000, subtype="FLOAT")
    mean = tone(8000, channels=6).mean(axis=0)
    for wanted in (1, 2):
        audio, _ = io.read(tmp_path / "six.wav", channels=wanted)
        np.testing.assert_allclose(audio, np.stack([mean] * wanted), atol=1e-6)
    np.testing.assert_array_equal(io.read(tmp_path / "mono.wav", channels=2)[0], np.repeat(tone(8000), 2, axis=0))


def test_resampling_in_blocks_is_resampling_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "_BLOCK_SECONDS", 1)
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 11025 * 3 + 77)).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", audio.T, 11025, subtype="FLOAT")
    resampled, rate = io.read(tmp_path / "noise.wav", sample_rate=16000)
    expected = soxr.resample(audio.T, 11025, 16000).T
    assert rate == 16000 and resampled.shape == expected.shape
    np.testing.assert_allclose(resampled, expected, atol=1e-5)


def test_a_single_sample_stays_audio(tmp_path):
    soundfile.write(tmp_path / "click.wav", np.ones(1), 44100)
    assert io.read(tmp_path / "click.wav", sample_rate=16000, channels=2)[0].shape == (2, 1)


def test_unusable_files_are_named(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 1)), 8000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "whole.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 20000), 8000)
    soundfile.write(tmp_path / "whole.mp3", np.random.default_rng(0).uniform(-0.5, 0.5, 40000), 8000)
    for whole in tmp_path.glob("whole.*"):
        (tmp_path / f"cut{whole.suffix}").write_bytes(whole.read_bytes()[:whole.stat().st_size // 2])
    (tmp_path / "text.wav").write_text("no audio at all " * 100)
    (tmp_path / "bytes.wav").write_bytes(b"")
    reasons = {"none.wav": "no samples", "nan.wav": "NaN", "cut.flac": "not readable", "cut.mp3": "ends early",
               "text.wav": "not readable", "bytes.wav": "not readable", "away.wav": "does not exist"}
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason) as error:
            io.read(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_write_clips_and_counts(tmp_path, suffix):
    audio = np.array([[0, 0.5, 1.0, 1.5, -1.5, -1.0]], np.float32)
    path = tmp_path / f"loud.{suffix}"
    assert io.write(path, audio, 8000) == 2
    assert soundfile.info(path).subtype == "PCM_16"
    np.testing.assert_allclose(io.read(path)[0], np.clip(audio, -1, 1), atol=1e-4)


def test_recordings_at_rates_that_nobody_records_at_are_refused(tmp_path):
    path = tmp_path / "song.wav"
    for rate in (1, 2**30):
        soundfile.write(path, np.zeros(8000), rate)
        with pytest.raises(UserError, match=f"has {rate} samples a second, expected 100 to 768000"):
            io.read(path, 16000)


def test_what_would_take_the_memory_is_refused_by_its_header(tmp_path, monkeypatch):
    io.write(tmp_path / "song.wav", tone(8000), 8000)
    monkeypatch.setattr(io, "_LARGEST", 8000 * 4 * 2)
    io.read(tmp_path / "song.wav", 16000)
    with pytest.raises(UserError, match=r"lasts 1 s, .* cut it"):
        io.read(tmp_path / "song.wav", 16000, 2)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "song.wav")
    for path in (tmp_path / "song.wav", "/dev/zero", tmp_path):
        with pytest.raises(UserError, match="expected a file"):
            io.read(path)


def test_libraries_write_nothing_to_the_terminal_by_themselves(tmp_path, capfd):
    noise = np.random.default_rng(0).bytes(20_000)
    soundfile.write(tmp_path / "song.mp3", 0.3 * tone(44100)[0], 44100)
    data = (tmp_path / "song.mp3").read_bytes()
    for number, damaged in enumerate((data[:3000] + noise, noise + data, data[:-700], b"ID3" + noise)):
        (tmp_path / f"{number}.mp3").write_bytes(damaged)
        with contextlib.suppress(UserError):
            io.read(tmp_path / f"{number}.mp3")
    assert capfd.readouterr().err == ""


def test_names_need_not_be_utf_8(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\xfe.wav")
    io.write(path, np.full(100, 0.5), 8000)
    np.testing.assert_allclose(io.read(path)[0], np.full((1, 100), 0.5), atol=1e-4)


def test_write_takes_channels_and_plain_samples(tmp_path):
    io.write(tmp_path / "plain.wav", tone(8000)[0], 8000)
    io.write(tmp_path / "stereo.wav", tone(8000, channels=2), 8000)
    np.testing.assert_allclose(io.read(tmp_path / "plain.wav")[0], tone(8000), atol=1e-4)
    np.testing.assert_allclose(io.read(tmp_path / "stereo.wav")[0], tone(8000, channels=2), atol=1e-4)


def test_write_refuses(tmp_path):
    with pytest.raises(UserError, match=r"'\.mp3', expected \.wav or \.flac"):
        io.write(tmp_path / "song.mp3", tone(8000), 8000)
    with pytest.raises(UserError, match="cannot write"):
        io.write(tmp_path / "no" / "such" / "folder.wav", tone(8000), 8000)
    with pytest.raises(ValueError, match="NaN"):
        io.write(tmp_path / "song.wav", np.full((1, 9), np.nan), 8000)
