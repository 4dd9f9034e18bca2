"""Duets: what is heard in the lead is what the backing's chords ask for, and nothing else tells it."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autosong_jax.audio import io as audio_io
from autosong_jax.errors import UserError
from autosong_jax.evaluation.duets import LEAD, lead_error_rate, lead_notes
from autosong_jax.evaluation.notes import PITCHES, lyric_notes, note_error_rate, register, sung_notes
from data_prep import duets, songbook
from data_prep.band import CHORDS, GENRES
from data_prep.songbook import Book
from data_prep.synthesis import GAP, RATE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def book() -> list[duets.Duet]:
    """Two of every genre."""
    return [duets.make_duet(3, index, 8.0) for index in range(10)]


def struck(duet: duets.Duet) -> list[str]:
    return [chord for chord, _ in duet.chords]


def test_the_rule_is_a_loop_over_strokes():
    assert sorted(note for notes in LEAD.values() for note in notes) == list(PITCHES)
    assert all(note % 12 in CHORDS[chord] for chord, notes in LEAD.items() for note in notes)
    chords = np.random.default_rng(0).choice(list(LEAD), 200).tolist()
    expected, place = [], 0
    for before, chord in zip([None, *chords[:-1]], chords, strict=True):
        place = place + 1 if chord == before else 0
        expected.append(LEAD[chord][place % 2])
    assert lead_notes(chords) == expected
    assert lead_notes([]) == []


def test_the_lead_sings_what_the_backing_asks_for(book):
    for duet in book:
        notes = [note.midi for note in duet.notes]
        assert sung_notes(duet.lead, RATE) == notes == lead_notes(struck(duet))
        assert lead_error_rate(struck(duet), duet.lead, RATE) == 0
        assert sung_notes(duet.backing, RATE) == []


def test_another_backing_asks_for_something_else(book):
    """Even one of the same genre, with the same rhythm."""
    wrong = [note_error_rate(lead_notes(struck(one)), lead_notes(struck(other)))
             for one, other in zip(book, [*book[5:], *book[:5]], strict=True)]
    assert [one.genre for one in book[:5]] == [one.genre for one in book[5:]] == list(GENRES)
    assert min(wrong) > 0.2 and np.mean(wrong) > 0.5
    assert len({struck(duet)[0] for duet in book}) >= 3


def test_backing_and_lead_keep_time(book):
    for duet in book:
        assert duet.lead.shape == duet.backing.shape and duet.lead.dtype == duet.backing.dtype == np.float32
        assert duet.notes[-1].end < len(duet.lead) / RATE <= 8
        assert max(np.abs(duet.lead).max(), np.abs(duet.backing).max()) < 0.9  # never clipped when written
        assert [note.start for note in duet.notes] == [start for _, start in duet.chords]
        for note, following in zip(duet.notes, duet.notes[1:], strict=False):
            assert note.end - note.start > 0.2 and following.start == pytest.approx(note.end + GAP, abs=2e-3)


def test_a_duet_depends_on_seed_number_and_length_alone():
    one, again, other = (duets.make_duet(seed, 6, 6.0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.backing, again.backing)
    np.testing.assert_array_equal(one.lead, again.lead)
    assert struck(one) == struck(again) != struck(other)
    chords = duets.draw_chords(np.random.default_rng(0), 500)
    assert set(chords) == set(CHORDS) and all(a != b for a, b in itertools.pairwise(chords))


def test_command_writes_duets(tmp_path):
    command = [sys.executable, "-m", "data_prep.songbook", "--duets", f"--output={tmp_path}", "--seconds=6", "--seed=4"]
    result = subprocess.run([*command, "--songs=2"], capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stderr, result.stdout) == (0, "", f"2 duets in {tmp_path}\n")
    expected, folder = duets.make_duet(4, 1, 6), tmp_path / "song_00001"
    assert sorted(path.name for path in folder.iterdir()) == sorted(songbook.DUET_FILES)
    for name, audio in (("backing.wav", expected.backing), ("audio.wav", expected.lead)):
        np.testing.assert_allclose(audio_io.read(folder / name)[0][0], audio, atol=1e-4)
    assert json.loads((folder / "notes.json").read_text()) == [vars(note) for note in expected.notes]
    assert [tuple(stroke.values()) for stroke in json.loads((folder / "chords.json").read_text())] == expected.chords
    assert (folder / "genre.txt").read_text() == "pop\n"
    result = subprocess.run([*command, "--songs=2", "--styles"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2 and "--duets and --styles are two kinds of books" in result.stderr


def test_a_book_of_one_kind_does_not_become_one_of_another(tmp_path):
    songbook.open_book(tmp_path, Book(2, kind="duets"))
    for index in range(2):
        songbook.write_song(tmp_path / songbook.song_name(index), duets.make_duet(0, index, 5))
    with pytest.raises(UserError, match=r"a book of 2 duets .* of which 2 would be lost"):
        songbook.open_book(tmp_path, Book(2))
    songbook.open_book(tmp_path, Book(3, kind="duets"))
    songbook.open_book(tmp_path, Book(2), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [songbook.MARKER]


def test_styles_differ_in_the_register_of_the_voice_alone():
    plain = [songbook.make_song(5, index, 6.0) for index in range(12)]
    styled = [songbook.make_styled_song(5, index, 6.0) for index in range(12)]
    higher = [song.notes[0].midi - one.notes[0].midi for song, one in zip(styled, plain, strict=True)]
    assert set(higher) == {0, 12}
    for song, one, by in zip(styled, plain, higher, strict=True):
        assert (song.lyrics, song.genre) == (one.lyrics, one.genre)
        notes = [note.midi for note in song.notes]
        assert notes == [note + by for note in lyric_notes(song.lyrics)]
        assert sung_notes(song.audio, RATE, [pitch + by for pitch in PITCHES]) == notes
        assert register(song.audio, RATE) - np.median(lyric_notes(song.lyrics)) == pytest.approx(by, abs=3)
    assert np.isnan(register(np.zeros(RATE, np.float32), RATE))
