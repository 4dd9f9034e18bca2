"""The note error rate: its rule, its detector and its edit distance, against tones, brute force and true songs."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import scipy.signal

from autosong_jax.codecs.melrvq.codec import MelRVQ
from autosong_jax.evaluation import notes, plots
from data_prep import songbook
from data_prep.synthesis import RATE


@pytest.fixture(scope="module")
def songs() -> list[songbook.SungSong]:
    """Two songs of every genre."""
    return [songbook.make_song(7, index, 8.0) for index in range(10)]


def error_rates(songs, sound) -> tuple[float, float]:
    """Mean note error rates of `sound(song)`: by its own lyrics, and by those of another song of about its length."""
    own, control = [], []
    for song in songs:
        heard = notes.sung_notes(sound(song), RATE)
        others = [other for other in songs if other is not song]
        other = min(others, key=lambda other: abs(len(other.notes) - len(song.notes)))
        own.append(notes.note_error_rate(notes.lyric_notes(song.lyrics), heard))
        control.append(notes.note_error_rate(notes.lyric_notes(other.lyrics), heard))
    return float(np.mean(own)), float(np.mean(control))


def test_rule():
    assert notes.lyric_notes("[verse]\nMila, tose!\n\n[Mute]\nlu su") == [79, 69, 67, 76, 60, 62]
    assert notes.lyric_notes("xyz [la] 12 \u00e9 strength") == []
    every = notes.lyric_notes(" ".join(c + v for c in notes.CONSONANTS for v in notes.VOWELS))
    assert sorted(every) == sorted(2 * notes.PITCHES)
    assert min(np.diff(notes.PITCHES)) >= 2
    assert notes.frequency(69) == 440 and notes.frequency(60) == pytest.approx(261.6256)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_plain_tones_are_heard_at_any_rate(rate):
    midis = [60, 60, 72, 81, 62, 79, 76, 76, 76, 64, 67, 69, 74, 60]
    time = np.arange(round(0.25 * rate)) / rate
    tones = [0.3 * scipy.signal.sawtooth(2 * np.pi * notes.frequency(midi) * time) for midi in midis]
    audio = np.concatenate([part for tone in tones for part in (tone, np.zeros(round(0.07 * rate)))])
    audio += np.random.default_rng(0).normal(0, 0.01, len(audio))
    heard = notes.detect_notes(audio, rate)
    assert [note.midi for note in heard] == midis
    np.testing.assert_allclose([note.start for note in heard], 0.32 * np.arange(len(midis)), atol=0.03)
    np.testing.assert_allclose([note.end for note in heard], 0.32 * np.arange(len(midis)) + 0.25, atol=0.03)


def test_nothing_is_heard_where_nobody_sings(monkeypatch, songs):
    noise = np.random.default_rng(0).normal(0, 0.1, 6 * RATE)
    time = np.arange(6 * RATE) / RATE
    bass = 0.5 * scipy.signal.sawtooth(2 * np.pi * 65.4 * time)
    for audio in (np.zeros(0), np.zeros(6 * RATE), noise, np.cumsum(noise) / 100, bass):
        assert notes.sung_notes(audio, RATE) == []
    monkeypatch.setattr(songbook, "sing", lambda syllable, midi, seconds, voice: np.zeros(1))
    for genre in songbook.GENRES:
        accompaniment = songbook.perform(songs[0].lyrics, genre).audio
        assert np.abs(accompaniment).max() > 0.05
        assert notes.sung_notes(accompaniment, RATE) == []


def test_true_songs_are_heard_and_told_apart(songs):
    own, control = error_rates(songs, lambda song: song.audio)
    assert own <= 0.02
    assert control >= 0.6


def test_songs_are_heard_through_a_coarse_codec_and_wrong_frames(songs):
    codec = MelRVQ.fit([song.audio[None] for song in songs], codebook_size=64, num_codebooks=2)

    def coded(song, wrong_frames=0.0):
        rng = np.random.default_rng(0)
        codes = codec.encode(song.audio[None])
        wrong = rng.random((len(codes), 1)) < wrong_frames
        return codec.decode(np.where(wrong, rng.integers(0, 64, codes.shape), codes))[0]

    own, control = error_rates(songs, coded)
    assert own <= 0.05
    assert control >= 0.6
    assert error_rates(songs, lambda song: coded(song, wrong_frames=0.05))[0] <= 0.1


@pytest.mark.parametrize(("audio", "rate"), [
    (np.zeros((1, 9)), 16000), (np.zeros(9), 4000), (np.full(9, np.nan), 16000)])
def test_unusable_audio_raises(audio, rate):
    with pytest.raises(ValueError, match="audio"):
        notes.sung_notes(audio, rate)


def test_viterbi_finds_the_best_of_all_paths():
    rng = np.random.default_rng(0)
    for _ in range(20):
        evidence = rng.normal(size=(5, 3))

        def total(path, evidence=evidence):
            return sum(evidence[range(5), path]) - 0.7 * np.count_nonzero(np.diff(path))

        best = max(itertools.product(range(3), repeat=5), key=total)
        np.testing.assert_array_equal(notes._viterbi(evidence, 0.7), best)


def test_edit_distance_is_that_of_the_definition():
    def distance(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))

    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (rng.integers(0, 3, rng.integers(low, 6)).tolist() for low in (1, 0))
        assert notes.note_error_rate(a, b) == distance(a, b) / len(a)
        pairs = notes.align(a, b)
        assert [i for i, _ in pairs if i is not None] == list(range(len(a)))
        assert [j for _, j in pairs if j is not None] == list(range(len(b)))
        assert sum(i is None or j is None or a[i] != b[j] for i, j in pairs) == distance(a, b)
    with pytest.raises(ValueError, match="reference"):
        notes.note_error_rate([], [60])


def test_plot(tmp_path, songs):
    song = songs[0]
    plots.plot_song(tmp_path / "song.png", song.audio, RATE, [*notes.lyric_notes(song.lyrics)[1:], 60], "a song")
    plots.plot_song(tmp_path / "silence.png", np.zeros(RATE), RATE, [60], "nothing sung")
    assert (tmp_path / "song.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "silence.png").stat().st_size > 5000


def test_imports_neither_jax_nor_torch(environment_without):
    code = "import autosong_jax.evaluation.notes, autosong_jax.evaluation.plots, data_prep.songbook"
    environment = environment_without("jax", "flax", "torch", "tensorflow")
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
