"""What the best of several songs is chosen by: its names, and what of a song and its conditions it reads."""

import types

import numpy as np
import pytest

import autosong_jax
from autosong_jax import rankers
from autosong_jax.errors import UserError
from autosong_jax.evaluation import clap
from autosong_jax.evaluation.notes import frequency, lyric_notes, other_words

RATE = 16000


def sung(midis):
    """A tone a note, with a gap after each, on two channels."""
    time = np.arange(int(0.25 * RATE)) / RATE
    notes = [np.pad(np.sin(2 * np.pi * frequency(midi) * time), (0, RATE // 10)) for midi in midis]
    audio = np.concatenate([np.zeros(RATE // 10), *notes]).astype(np.float32)
    return np.stack([0.4 * audio, 0.2 * audio])


def candidate(audio, **conditions):
    return types.SimpleNamespace(song=types.SimpleNamespace(audio=audio, sample_rate=RATE), conditions=conditions)


@pytest.mark.parametrize("name", ["", "x", "Notes", "likelihood:", "likelihood:x", "notes:x", "clap", "clap:", ":"])
def test_names_that_are_none_are_told_those_that_are(name):
    for ask in (rankers.check, autosong_jax.ranker):
        with pytest.raises(UserError) as error:
            ask(name, "--rank_by")
        assert str(error.value) == (f"--rank_by {name!r}: expected likelihood, notes or clap:ID, such as "
                                    "clap:laion/clap-htsat-unfused")


def test_notes_are_counted_against_the_rule():
    notes, lyrics = autosong_jax.ranker("notes"), "[verse]\nmila tose"
    asked = lyric_notes(lyrics)
    assert notes.lowest
    for midis, rate in [(asked, 0), (asked[:3], 0.25), ([], 1), (asked[:1] + asked[2:] + asked[:1], 0.5)]:
        assert notes.score(candidate(sung(midis), lyrics=lyrics)) == rate
    assert notes.score(candidate(np.zeros((1, 0), np.float32), lyrics=lyrics)) == 1


@pytest.mark.parametrize(("lyrics", "words"), [
    ("mila love tose", "'love', which has no notes"), ("La 雨", "'雨'"), (None, "made of the syllables"),
    ("[verse love]\n ... ", "made of the syllables")])
def test_lyrics_that_have_no_notes_are_named(lyrics, words):
    singer = types.SimpleNamespace(codec=types.SimpleNamespace(sample_rate=RATE))
    notes = autosong_jax.ranker("notes")
    with pytest.raises(UserError, match=words):
        notes.check(singer, {"lyrics": lyrics})
    notes.check(singer, {"lyrics": "[chorus]\nMila, tose!"})
    with pytest.raises(UserError, match="codec has 500 Hz"):
        notes.check(types.SimpleNamespace(codec=types.SimpleNamespace(sample_rate=500)), {"lyrics": "mila"})


def test_words_are_made_of_syllables_or_are_others():
    assert other_words("[verse 1]\nmila tose\nMI'lo la-la 7 s l\n") == ["7", "s", "l"]


def test_clap_compares_sound_with_description_and_genre(monkeypatch):
    vectors, texts = {"slow, pop": [0.6, 0.8], "rock": [0.0, 1.0]}, []

    class Heard:
        def embed_text(self, of):
            texts.extend(of)
            return np.array([vectors[text] for text in of], np.float32)

        def embed_audio(self, audio, rate):
            assert rate == RATE and audio.ndim == 1
            return np.array([[np.sqrt(1 - audio[0] ** 2), audio[0]]], np.float32)

    monkeypatch.setattr(clap, "load", lambda source, flag: {("a/b", "rank_by clap"): Heard()}[source, flag])
    ranker = autosong_jax.ranker("clap:a/b")
    audio = np.array([[1.0, 0.0], [0.6, 0.0]])
    assert ranker.score(candidate(audio, description="slow", genre="pop")) == pytest.approx(0.6 * 0.6 + 0.8 * 0.8)
    assert ranker.score(candidate(audio / 0.8, genre="rock")) == pytest.approx(1)
    assert ranker.score(candidate(audio[:, :0], genre="rock")) is None
    assert ranker.score(candidate(audio, genre="rock", lyrics="la")) == pytest.approx(0.8)
    assert texts == ["slow, pop", "rock"], "a text is read once"
    ranker.check(None, {"genre": "rock"})
    for conditions in ({}, {"lyrics": "la"}, {"description": " "}):
        with pytest.raises(UserError, match="expected a description or a genre"):
            ranker.check(None, conditions)
