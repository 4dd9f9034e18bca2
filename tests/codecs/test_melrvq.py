"""MelRVQ: does what is sung survive, and is it exact where it must be."""

import numpy as np
import pytest

from autosong_jax.codecs.melrvq.codec import MelRVQ, _draw
from autosong_jax.errors import UserError
from autosong_jax.evaluation import notes
from data_prep import songbook

RATE = 16_000
SMALL = {"codebook_size": 64, "iterations": 5}


@pytest.fixture(scope="module")
def songs():
    return [songbook.make_song(0, index, 8).audio[None] for index in range(6)]


@pytest.fixture(scope="module")
def codec(songs):
    return MelRVQ.fit(songs, **SMALL)


def voice(midi, seconds):
    """A note of eight harmonics, float32 [1, samples]."""
    time = np.arange(round(seconds * RATE)) / RATE
    return sum(0.15 / h * np.sin(2 * np.pi * h * notes.frequency(midi) * time) for h in range(1, 9))[None].astype(
        np.float32)


def test_the_songbook_survives(codec):
    """Held-out songs, and their first codebook alone: what a model that gets only that right would sing."""
    wrong = wrong_first = total = 0
    for index in range(3):
        song = songbook.make_song(1, index, 8)
        expected, codes = notes.lyric_notes(song.lyrics), codec.encode(song.audio[None])
        first = np.where(np.arange(codec.config.num_codebooks) == 0, codes, 0)
        wrong += len(expected) * notes.note_error_rate(expected, notes.sung_notes(codec.decode(codes)[0], RATE))
        wrong_first += len(expected) * notes.note_error_rate(expected, notes.sung_notes(codec.decode(first)[0], RATE))
        total += len(expected)
    assert wrong / total <= 0.05 and wrong_first / total <= 0.1


def test_latents_are_sums_of_entries(codec, songs):
    codes = codec.encode(songs[0])
    latents = codec.latents(codes)
    for t in (0, 7, len(codes) - 1):
        expected = sum(codec.codebooks[k][code] for k, code in enumerate(codes[t]))
        np.testing.assert_allclose(latents[t], expected, rtol=1e-5)
    assert len(latents) == len(codes) and latents.dtype == np.float32


def test_pitches_survive_to_the_semitone():
    """The strongest of all semitones from B3 to B5, by a Fourier sum over the whole note, is the one that was sung."""
    scale = range(60, 83, 2)
    codec = MelRVQ.fit([np.concatenate([voice(midi, 1.0) for midi in scale], axis=1)], codebook_size=64)
    time = np.arange(RATE // 2) / RATE
    candidates = np.arange(59, 84)
    tones = np.exp(-2j * np.pi * notes.frequency(candidates)[:, None] * time)
    for midi in scale:
        decoded = codec.decode(codec.encode(voice(midi, 1.0)))[0, RATE // 4:RATE // 4 + RATE // 2]
        assert candidates[np.abs(tones @ decoded).argmax()] == midi


def test_gaps_survive():
    """60 ms of silence between two equal notes stay 10 dB below them."""
    audio = np.concatenate([voice(69, 0.5), np.zeros((1, round(0.06 * RATE)), np.float32), voice(69, 0.5)], axis=1)
    codec = MelRVQ.fit([audio], codebook_size=64)
    decoded = codec.decode(codec.encode(audio))[0]
    power = np.convolve(decoded ** 2, np.full(320, 1 / 320), mode="same")
    middle = round(0.53 * RATE)
    assert power[middle - 160:middle + 160].min() < 0.1 * np.median(power)


def test_frame_counts(codec):
    for samples in (0, 1, 5, 639, 640, 641, 6400):
        codes = codec.encode(np.full((1, samples), 0.1, np.float32))
        assert (codes.shape, codes.dtype) == ((-(-samples // 640), 4), np.uint16)
        audio = codec.decode(codes)
        assert (audio.shape, audio.dtype) == ((1, 640 * len(codes)), np.float32)
    assert codec.frame_rate == 25


def test_silence_is_code_0_and_stays_silent(codec):
    codes = codec.encode(np.zeros((1, RATE), np.float32))
    assert not codes.any()
    assert not codec.decode(codes).any()


def test_loud_audio_is_not_clipped(songs):
    loud = [np.clip(song * 20, -1, 1) for song in songs[:2]]
    codec = MelRVQ.fit(loud, **SMALL)
    assert np.abs(codec.decode(codec.encode(loud[0]))).max() <= 1


def test_quiet_recordings_are_coded_as_well_as_loud_ones(songs):
    quiet = [song * 0.01 for song in songs]
    variance = [MelRVQ.fit(group, **SMALL).quality(group[:1])["variance_explained"][-1] for group in (songs, quiet)]
    assert variance[0] == pytest.approx(variance[1], abs=0.01)


def test_encoding_is_deterministic_and_local(codec, songs, same_codes):
    codes = codec.encode(songs[0])
    np.testing.assert_array_equal(codes, codec.encode(songs[0].copy()))
    longer = codec.encode(np.concatenate([songs[0][:, :RATE * 4], songs[1]], axis=1))
    # All frames that see none of the other song.
    same_codes(longer[:98], codes[:98], codec._features(songs[0])[:98], codec.codebooks)
    np.testing.assert_array_equal(codec.decode(codes), codec.decode(codes))


def test_fitting_is_deterministic(songs):
    first, second, other = (MelRVQ.fit(songs[:2], seed=seed, **SMALL).codebooks for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_few_frames_are_enough():
    codec = MelRVQ.fit([voice(69, 0.1)], codebook_size=256)
    quality = codec.quality([voice(69, 0.1)])
    assert quality["variance_explained"][0] == pytest.approx(1, abs=1e-4)
    assert quality["coded_db"] < 0.1
    with pytest.raises(UserError, match="0 samples"):
        MelRVQ.fit([np.zeros((1, 0), np.float32)])
    with pytest.raises(UserError, match="0 samples"):
        MelRVQ.fit([])


def test_fitting_to_silence_alone():
    codec = MelRVQ.fit([np.zeros((1, RATE), np.float32)], codebook_size=8)
    assert not codec.decode(codec.encode(np.zeros((1, RATE), np.float32))).any()
    assert codec.quality([np.zeros((1, RATE), np.float32)])["round_trip_db"] == 0


def test_draw_is_a_uniform_sample():
    """Rows of arrays of very different lengths are equally likely; memory stays bounded; order stays."""
    arrays = [np.arange(0, 3)[:, None], np.arange(3, 90)[:, None], np.arange(90, 100)[:, None]]
    counts = np.zeros(100)
    for seed in range(2000):
        drawn = _draw(arrays, 10, np.random.default_rng(seed))[:, 0]
        assert len(drawn) == 10 and np.all(np.diff(drawn) > 0)
        counts[drawn] += 1
    assert np.abs(counts - 200).max() < 5 * np.sqrt(200)
    np.testing.assert_array_equal(_draw(arrays, 1000, np.random.default_rng(0)), np.concatenate(arrays))


def test_quality(codec, songs):
    quality = codec.quality(songs[:3])
    features = np.concatenate([codec._features(song) for song in songs[:3]])
    residual = features - np.concatenate([codec.codebooks[0, codec.encode(song)[:, 0]] for song in songs[:3]])
    explained = 1 - np.square(residual).mean(axis=0).sum() / features.var(axis=0).sum()
    assert quality["variance_explained"][0] == pytest.approx(explained, rel=1e-4)
    assert np.all(np.diff(quality["variance_explained"]) > 0) and quality["variance_explained"][-1] < 1
    assert 0 < quality["coded_db"] < quality["round_trip_db"] < 6
    assert quality["seconds"] == len(features) / 25


def test_other_settings():
    codec = MelRVQ.fit([voice(69, 1.0)], sample_rate=8000, hop=500, subframes=4, n_fft=256, n_mels=20, num_codebooks=2,
                       codebook_size=5)
    codes = codec.encode(voice(69, 1.0))
    assert codes.shape == (32, 2) and codes.max() < 5 and codec.frame_rate == 16
    assert codec.decode(codes).shape == (1, 16000)


@pytest.mark.parametrize("settings", [{"hop": 641}, {"hop": 4000}, {"codebook_size": 0}, {"codebook_size": 65537}])
def test_settings_that_contradict(settings):
    with pytest.raises(UserError, match=f"{next(iter(settings))} is {next(iter(settings.values()))}, expected"):
        MelRVQ.fit([voice(69, 0.1)], **settings)


def test_wrong_shapes_and_codes_are_refused(codec):
    for audio in (np.zeros(640), np.zeros((2, 640))):
        with pytest.raises(ValueError, match=r"expected \[1, samples\]"):
            codec.encode(audio)
    with pytest.raises(ValueError, match=r"expected \[frames, 4\]"):
        codec.decode(np.zeros((3, 5), int))
    for code in (-1, 64):
        with pytest.raises(ValueError, match="expected 0 to 63"):
            codec.decode(np.full((3, 4), code))


def test_blocks(songs):
    """Encoded in blocks, codes are the same; what is decoded as one block, too; several sound as the whole does."""
    codec, song = MelRVQ.fit(songs, **SMALL), np.concatenate([*songs[:3]], axis=1)
    codes, hop = codec.encode(song), codec.config.hop
    blocks = np.array_split(song, 7, axis=1)
    np.testing.assert_array_equal(np.concatenate(list(codec.encode_blocks(blocks))), codes)
    whole = codec.decode(codes)
    (once,) = codec.decode_blocks(np.array_split(codes, 3))
    np.testing.assert_array_equal(once, whole)
    pieces = list(codec.decode_blocks(np.array_split(codes, 3), block_frames=10))
    assert {piece.shape for piece in pieces[:-1]} == {(1, 10 * hop)} and not codec.exact_blocks
    streamed = np.concatenate(pieces, axis=1)
    assert streamed.shape == whole.shape and np.abs(streamed).max() <= 1
    errors = [codec._decibels(codec._features(song), codec._features(audio)) for audio in (whole, streamed)]
    ours, theirs = (total / count for total, count in reversed(errors))
    assert ours < theirs + 1.0, "dB, of the bands"
