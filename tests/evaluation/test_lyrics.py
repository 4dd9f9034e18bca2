"""Error rates of lyrics against jiwer, a naive edit distance and cases that are known."""

import functools
import json
import random

import jiwer
import numpy as np
import pytest

from autosong_jax.audio import io
from autosong_jax.errors import UserError
from autosong_jax.evaluation import lyrics, recognition
from autosong_jax.evaluation.edits import edit_distance
from autosong_jax.evaluation.intervals import estimates
from autosong_jax.evaluation.metrics import Song


def naive(a, b):
    @functools.cache
    def distance(i, j):
        if not i or not j:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return distance(len(a), len(b))


def rates(*songs, kind="word", **options):
    """Of (lyrics, heard, language)."""
    found = [lyrics.errors(*song, **options) for song in songs]
    return lyrics.rates({name: sum(song[name] for song in found) for name in found[0]}, kind)


def test_edit_distance_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    for _ in range(100):
        a, b = ("".join(rng.choice(list("abc"), rng.integers(0, 9))) for _ in range(2))
        assert edit_distance(a, b) == edit_distance(list(a), list(b)) == naive(a, b)
    assert edit_distance("kitten", "sitting") == 3 and edit_distance([], []) == 0


def test_rates_are_those_of_jiwer():
    random.seed(0)
    words = ["la", "mila", "tose", "rain", "in", "the", "night", "and", "you"]
    songs = [[" ".join(random.choices(words, k=random.randint(1, 40))) for _ in range(2)] for _ in range(30)]
    wanted, heard = zip(*songs, strict=True)
    marked = [(f"[verse 1]\n{a.title()}!", f"{b} [Music]", "en") for a, b in songs]
    assert rates(*marked)[""] == pytest.approx(jiwer.wer(list(wanted), list(heard)))
    joined = [[text.replace(" ", "") for text in texts] for texts in (wanted, heard)]
    assert rates(*marked, kind="character")[""] == pytest.approx(jiwer.cer(*joined))


def test_texts_are_made_alike():
    text = "[Chorus 2]\nDon’t stop\u2014the MUSIC, it’s “now” 24/7!\n\n[Outro: Ana]\nL'amou\u0301r ﬁne STRASSE straße"
    assert lyrics.normalized(text) == "dont stop the music its now 24 7 lamoúr fine strasse strasse"
    assert lyrics.normalized("नमस्ते दुनिया।") == "नमस्ते दुनिया"
    assert lyrics.normalized("♪ [Music] …") == ""


def test_languages_without_spaces_have_characters_alone():
    songs = [("月亮 代表", "月亮带表", "zh"), ("one two three four", "one too three", "en"), ("a b", "a c", "xx")]
    assert rates(*songs) == {"": 3 / 6, "en": 2 / 4, "other": 1 / 2}
    assert rates(*songs, kind="character") == {"": pytest.approx((1 + 5 + 1) / (4 + 15 + 2)), "zh": 1 / 4,
                                               "en": pytest.approx(5 / 15), "other": 1 / 2}
    assert rates(*songs, kind="phoneme") == {"": 0.0, "zh": 0.0}  # 代 and 带 sound alike


def test_phonemes():
    assert lyrics.pinyin("绿水 ab爱") == ["l", "v", "sh", "ui", "a", "b", "ai"]
    spelled = rates(("see", "sea", "en"), kind="phoneme", phonemisers={"en": lambda text: ["S", "IY"]})
    assert spelled == {"": 0.0, "en": 0.0}


def test_nothing_sung_and_nothing_written():
    assert rates(("la la", "", "en")) == {"": 1.0, "en": 1.0}
    assert rates(("la", "la la la", "en")) == {"": 2.0, "en": 2.0}
    nothing = rates(("[instrumental]", "thanks for watching", "en"))
    assert list(nothing) == [""] and np.isnan(nothing[""])


def test_transcripts_are_read(tmp_path):
    lines = [{"song": name, "text": "la", "language": "en", "told": False, "model": "m", "digest": "d"}
             for name in ("a", "b/c", "a")]
    path = tmp_path / "heard.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"song": "cut o')
    assert list(lyrics.read_transcripts(path, "--transcripts")) == ["a", "b/c"]
    path.write_text('{"song": 3}\n')
    with pytest.raises(UserError, match=r"--transcripts .*heard.jsonl, line 1 "):
        lyrics.read_transcripts(path, "--transcripts")


def test_the_metric_of_what_is_heard(tmp_path, monkeypatch):
    """Each song goes to the recogniser once, by what it holds; the recogniser here hears its level."""
    heard = {0.1: ("la la tose", "en"), 0.2: ("月亮", "zh"), 0.3: ("mila", "en")}
    asked = []

    def transcribe(folder, output, transcriber, language):
        asked.append((sorted(folder.iterdir()), transcriber, language))
        levels = {path.stem: round(float(io.read(path)[0].max()), 1) for path in folder.iterdir()}
        return {name: lyrics.Transcript(name, *heard[level], False, "m", "d") for name, level in levels.items()}

    monkeypatch.setattr(recognition, "transcribe", transcribe)
    songs = [Song(str(i), 8000, 25.0, get_audio=lambda level=level: np.full((1, 800), level, np.float32), lyrics=text)
             for i, (level, text) in enumerate([(0.1, "la tose"), (0.2, "月亮"), (0.3, "[verse]\nmila tose"),
                                                (0.1, "la la tose")])]
    metric = recognition.lyrics_metric("whisper:some/model", None, tmp_path / "kept")
    assert all(metric.applies(song) for song in songs)
    found = estimates(metric.of_songs(songs), metric.summarize, draws=50)
    assert {name: estimate.value for name, estimate in found.items()} == {
        "": (2 + 0 + 4 + 0) / (6 + 2 + 8 + 8), "words": (1 + 1 + 0) / (2 + 2 + 3), "phonemes": 0,
        "words, en": 2 / 7, "characters, zh": 0, "characters, en": 6 / 22, "phonemes, zh": 0}
    assert found["words, en"].low < 2 / 7 < found["words, en"].high
    (files, *how), = asked
    assert len(files) == 3 and how == ["whisper:some/model", None]
    assert list((tmp_path / "kept").iterdir()) == []


def test_transcribers_that_are_none(tmp_path):
    for name in ("whisper", "whisper:", "wav2vec:a/b"):
        with pytest.raises(UserError, match=f"--transcriber={name}: expected whisper:ID"):
            recognition.lyrics_metric(name, None, tmp_path)
