"""Mel spectrograms in 8 bits: against librosa and formulas written out, and what storing them and the way back cost."""

import json
import math

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from autosong_jax.codecs.codec import load_codec, open_codec
from autosong_jax.codecs.mel.codec import Mel
from autosong_jax.codecs.mel.settings import MelConfig
from autosong_jax.errors import UserError
from autosong_jax.evaluation import notes
from data_prep import songbook

RATE = 16_000
SMALL = MelConfig(sample_rate=RATE, hop=64, n_mels=64)


@pytest.fixture(scope="module")
def codec():
    return Mel(SMALL)


@pytest.fixture(scope="module")
def song():
    return songbook.make_song(1, 0, 8)


def nearly_the_same(frames, expected):
    """A value that falls between two numbers may go either way, for sums are rounded differently."""
    assert frames.shape == expected.shape
    differences = np.abs(frames.astype(int) - expected)
    assert differences.max() <= 1 and differences.mean() < 1e-3


def test_the_bands_are_librosas():
    """With its filters, where these have bins enough, scaled to a sum of 1, and NumPy's spectra, frame by frame."""
    codec = Mel(MelConfig(sample_rate=RATE, hop=100, n_fft=512, n_mels=20))
    audio = 0.2 * np.random.default_rng(0).standard_normal(RATE + 30).astype(np.float32)
    filters = librosa.filters.mel(sr=RATE, n_fft=512, n_mels=20, htk=True, norm=None)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    padded, expected = np.pad(audio, (206, 512)), []
    for frame in range(161):
        spectrum = np.abs(np.fft.rfft(padded[100 * frame:100 * frame + 512] * window)) * 2 / window.sum()
        expected.append(filters @ spectrum / filters.sum(axis=1))
    expected = np.float32(expected)
    np.testing.assert_allclose(codec.bands(audio[None]), expected, rtol=1e-3)
    nearly_the_same(codec.encode(audio[None]), codec.config.of_values(codec.config.of_magnitudes(expected)))


def test_the_three_forms_are_as_written():
    config = MelConfig(floor=-80.0)
    floor, scale = 1e-4, math.log(1 + 2 / 1e-4)
    magnitudes = [0.0, 1e-5, 1e-4, 0.01, 0.5, 1.0, 2.0]
    values = [2 * math.log(1 + m / floor) / scale - 1 for m in magnitudes]
    frames = [math.floor(255 * math.log(1 + m / floor) / scale + 0.5) for m in magnitudes]
    found = config.of_magnitudes(np.float32(magnitudes))
    assert found.dtype == np.float32 and frames[0] == 0 and frames[-1] == 255
    np.testing.assert_allclose(found, values, atol=1e-6)
    assert config.of_values(np.float32(values)).tolist() == frames
    np.testing.assert_allclose(config.values(np.uint8(frames)), [2 * frame / 255 - 1 for frame in frames], atol=1e-6)
    np.testing.assert_allclose(config.magnitudes(np.float32(values)), magnitudes, rtol=1e-4, atol=1e-9)
    assert config.magnitudes(np.float32([-1.5])) == 0 and config.of_values(np.float32([-2, 3])).tolist() == [0, 255]
    every = np.arange(256, dtype=np.uint8)
    again = config.of_magnitudes(config.magnitudes(config.values(every)))
    np.testing.assert_array_equal(config.of_values(again), every)


def test_jax_has_the_same_formulas():
    frames = np.arange(256, dtype=np.uint8)
    values = SMALL.values(frames)
    for name, x in [("values", frames), ("magnitudes", values), ("of_magnitudes", SMALL.magnitudes(values)),
                    ("of_values", values)]:
        ours, theirs = getattr(SMALL, name)(x), jax.jit(getattr(SMALL, name))(jnp.asarray(x))
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)


def test_what_storing_costs_is_half_a_step_at_most():
    step = 20 * math.log10(1 + 2 / 10 ** (SMALL.floor / 20)) / 255
    assert step < 0.4, "dB"
    magnitudes = np.exp(np.random.default_rng(0).uniform(np.log(3.2e-4), np.log(2), 10_000)).astype(np.float32)
    stored = SMALL.magnitudes(SMALL.values(SMALL.of_values(SMALL.of_magnitudes(magnitudes))))
    errors = np.abs(20 * np.log10(stored / magnitudes))
    assert errors.max() < 1.11 * step / 2 and 0.9 < errors.mean() / (step / 4) < 1.1, "20 dB above the floor and more"


def test_frame_counts(codec):
    for samples in (0, 1, 63, 64, 65, 6400):
        frames = codec.encode(np.full((1, samples), 0.1, np.float32))
        assert (frames.shape, frames.dtype) == ((-(-samples // 64), 64), np.uint8)
        audio = codec.decode(frames)
        assert (audio.shape, audio.dtype) == ((1, 64 * len(frames)), np.float32)
    assert codec.frame_rate == 250 and codec.config.n_fft == 256


def test_silence_is_0_and_stays_silent(codec):
    frames = codec.encode(np.zeros((1, RATE), np.float32))
    assert not frames.any() and not codec.decode(frames).any()


def test_the_loudest_audio_is_within(codec):
    square = np.sign(np.sin(np.arange(RATE) * 0.3)).astype(np.float32)
    for audio in (square, np.ones(RATE, np.float32)):
        assert codec.config.of_magnitudes(codec.bands(audio[None])).max() <= 1
        assert np.abs(codec.decode(codec.encode(audio[None]))).max() <= 1


def test_songs_survive(codec, song):
    """Of the songbook: the notes are those that the lyrics say, and bands are off by little."""
    audio = codec.decode(codec.encode(song.audio[None]))
    assert notes.note_error_rate(notes.lyric_notes(song.lyrics), notes.sung_notes(audio[0], RATE)) == 0
    quality = codec.quality([song.audio[None]])
    assert 0 < quality["stored_db"] < 0.2 < quality["round_trip_db"] < 4
    assert quality["seconds"] == pytest.approx(len(song.audio) / RATE)
    assert codec.quality([np.zeros((1, RATE), np.float32)]) == {"seconds": 1, "round_trip_db": 0, "stored_db": 0}


def test_blocks(codec, song):
    """Frames of blocks are those of all bands at once; so is what is decoded as one; several sound as it."""
    audio = np.tile(song.audio, 3)[None, :2**18 + 7]
    expected = codec.from_bands(codec.bands(audio))
    for blocks in ([audio], np.array_split(audio, 9, axis=1)):
        made = list(codec.encode_blocks(blocks))
        assert len(made) == 3
        nearly_the_same(np.concatenate(made), expected)
    frames = expected[:1250]
    whole = codec.decode(frames)
    (once,) = codec.decode_blocks(np.array_split(frames, 3))
    np.testing.assert_array_equal(once, whole)
    streamed = np.concatenate(list(codec.decode_blocks(np.array_split(frames, 3), block_frames=100)), axis=1)
    assert streamed.shape == whole.shape and np.abs(streamed).max() <= 1 and not codec.exact_blocks
    errors = [np.abs(codec.encode(decoded).astype(int) - frames).mean() for decoded in (whole, streamed)]
    assert errors[1] < errors[0] + 3, "of 255"


def test_saved_and_named(codec, tmp_path):
    codec.save(tmp_path / "codec")
    loaded, named = load_codec(tmp_path / "codec"), open_codec("mel:sample_rate=16000,hop=64,n_mels=64")
    assert loaded.info == named.info == codec.info != Mel(MelConfig()).info
    assert open_codec("mel").info == Mel(MelConfig()).info
    assert str(codec.info.frames) == "64 values" and codec.info.frames.bounds == (0, 255)
    description = json.loads((tmp_path / "codec" / "codec.json").read_text())
    (tmp_path / "codec" / "codec.json").write_text(json.dumps(description | {"hop": 32}))
    with pytest.raises(UserError, match=r"codec\.json contradicts itself: a mel codec of these settings has"):
        load_codec(tmp_path / "codec")


@pytest.mark.parametrize(("name", "words"), [
    ("mel:bands=3", "'bands=3' is not SETTING=NUMBER with one of sample_rate, hop, n_fft, n_mels, floor"),
    ("mel:hop=1", "hop is 1, expected at most n_fft"), ("mel:n_fft=100", "hop is 256, expected at most n_fft"),
    ("mel:floor=3", "floor is 3.0, expected -150.0 to 0.0"), ("mel:floor=nan", "floor is nan"),
    ("mel:n_mels=0", "n_mels is 0, expected 1 to 2048"), ("pcm:n_fft=3", "one of sample_rate, hop"),
    ("pcm:hop=0", "hop is 0"), ("pcm:hop=2", "hop is 2, expected at most 10000 frames a second")])
def test_settings_that_mean_nothing(name, words):
    with pytest.raises(UserError, match=words):
        open_codec(name)


def test_a_plain_codec_has_no_bandwidth():
    with pytest.raises(UserError, match="--bandwidth=3 is of a codec that has several, but --codec=mel is a mel"):
        open_codec("mel", 3.0)


def test_what_is_no_audio_and_no_frames(codec):
    for audio in (np.zeros(640), np.zeros((2, 640))):
        with pytest.raises(ValueError, match=r"expected \[1, samples\]"):
            codec.encode(audio)
    with pytest.raises(ValueError, match=r"values have the shape \(3, 5\), expected \[frames, 64\]"):
        codec.decode(np.zeros((3, 5), np.uint8))
    with pytest.raises(ValueError, match="values go from 256 to 256, expected 0 to 255"):
        codec.decode(np.full((3, 64), 256))
