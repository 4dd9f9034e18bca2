"""The songbook: what its songs are made of, that they are the same every time, and what the command refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autosong_jax.audio import io as audio_io
from autosong_jax.errors import UserError
from autosong_jax.evaluation.notes import PITCHES, frequency, lyric_notes, syllables
from data_prep import songbook, synthesis
from data_prep.songbook import Book
from data_prep.synthesis import GAP, RATE

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "data_prep.songbook", *map(str, arguments)], capture_output=True,
                          text=True, cwd=ROOT, **options)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("seconds", [5, 12, 30])
def test_text_is_lines_of_words_in_sections_whose_chorus_repeats(seconds):
    for index, genre in enumerate(4 * list(songbook.GENRES)):
        text = songbook.compose(np.random.default_rng(index), genre, seconds)
        sections = [block.splitlines() for block in text.strip().split("\n\n")]
        assert {lines[0] for lines in sections} <= {"[verse]", "[chorus]", "[bridge]"}
        lines = [line for section in sections for line in section[1:]]
        assert all(len(syllables(line)) in range(4, 9) for line in lines)
        assert all(len(word) in (2, 4, 6) for line in lines for word in line.split())
        assert "".join(syllables(text)) == "".join("".join(lines).split())  # all of it can be sung
        choruses = [section for section in sections if section[0] == "[chorus]"]
        for chorus in choruses:  # the song may end within the last one
            assert chorus == choruses[0][:len(chorus)]
        if seconds == 12:
            assert choruses and len(lyric_notes(text)) >= 17
        if seconds == 30:
            assert len(choruses) >= 2


def test_every_syllable_is_sung_in_time():
    for index in range(5):
        song = songbook.make_song(3, index, 10)
        assert [note.midi for note in song.notes] == lyric_notes(song.lyrics)
        assert [note.syllable for note in song.notes] == syllables(song.lyrics)
        for note, following in zip(song.notes, song.notes[1:], strict=False):
            assert 0.2 <= note.end - note.start <= 1.0
            assert following.start >= note.end + GAP - 1e-6
        assert song.audio.dtype == np.float32
        assert song.notes[-1].end < len(song.audio) / RATE <= 10
        assert np.abs(song.audio).max() < 0.9  # never clipped when written


@pytest.mark.parametrize("syllable", ["lu", "mo", "sa", "te", "ti"])
def test_a_syllable_has_its_pitch_its_loudness_and_a_closure(syllable):
    [midi] = lyric_notes(syllable)
    sound = synthesis.sing(syllable, midi, 0.5, synthesis.Voice(vibrato=0.0))
    assert len(sound) == 0.5 * RATE
    np.testing.assert_array_equal(sound[-round(GAP * RATE):], 0)
    vowel = sound[round(0.15 * RATE):round(0.4 * RATE)]
    assert np.sqrt(np.mean(vowel**2)) == pytest.approx(0.2, rel=0.02)
    assert np.abs(tone(sound[:round(0.045 * RATE)], midi)) < 0.04  # a consonant is not a note
    power = np.abs(np.fft.rfft(vowel * np.hanning(len(vowel)), RATE)) ** 2  # bins of 1 Hz
    harmonics = [round(frequency(midi) * n) + np.arange(-12, 13) for n in range(1, 9)]
    assert power[np.concatenate(harmonics)].sum() > 0.98 * power.sum()
    assert power[harmonics[0]].sum() > 0.1 * power.sum()  # the fundamental is there, so it is no octave higher


def tone(audio: np.ndarray, midi: int) -> complex:
    """The complex amplitude of the note's fundamental."""
    return 2 * np.mean(audio * np.exp(-2j * np.pi * frequency(midi) * np.arange(len(audio)) / RATE))


def test_accompaniment_stays_below_the_voice(monkeypatch):
    monkeypatch.setattr(songbook, "sing", lambda syllable, midi, seconds, voice: np.zeros(1))
    for genre in songbook.GENRES:
        alone = songbook.perform("[verse]\nmila tose lusa\n[chorus]\nlusu mimi", genre).audio
        assert 10 < 20 * np.log10(0.2 / np.sqrt(np.mean(alone**2))) < 16  # dB that a vowel is louder
    low = [frequency(45), frequency(56), frequency(36 + 11)]
    assert max(low) < 220 < frequency(min(PITCHES))


def test_genres_sound_different_and_a_text_is_always_sung_in_the_same_way():
    lyrics = "[verse]\nmila tose lusa"
    songs = [songbook.perform(lyrics, genre) for genre in songbook.GENRES]
    assert len({tuple((note.start, note.end) for note in song.notes) for song in songs}) == len(songs) >= 4
    assert len({song.audio.tobytes() for song in songs}) == len(songs)
    np.testing.assert_array_equal(songbook.perform(lyrics, "pop").audio, songbook.perform(lyrics, "pop").audio)
    chorus = songbook.perform(lyrics.replace("verse", "Chorus 2"), "pop")
    assert not np.array_equal(chorus.audio, songbook.perform(lyrics, "pop").audio)
    with pytest.raises(UserError, match="polka"):
        songbook.perform(lyrics, "polka")
    with pytest.raises(UserError, match="nothing to sing"):
        songbook.perform("[verse]\nxyz", "pop")


def test_command_writes_the_same_songs_whatever_their_number(tmp_path):
    for songs in (3, 5):
        result = run("--output", tmp_path / str(songs), "--songs", songs, "--seconds", 6, "--seed", 4)
        assert (result.returncode, result.stderr) == (0, "")
    few, many = contents(tmp_path / "3"), contents(tmp_path / "5")
    assert set(few) == {"songbook.json"} | {f"song_0000{i}/{name}" for i in range(3) for name in songbook.SONG_FILES}
    assert all(many[name] == data for name, data in few.items() if name != "songbook.json")

    directory, expected = tmp_path / "3" / "song_00001", songbook.make_song(4, 1, 6)
    audio, rate = audio_io.read(directory / "audio.wav")
    assert rate == RATE
    np.testing.assert_allclose(audio[0], expected.audio, atol=1e-4)
    assert (directory / "lyrics.txt").read_text() == expected.lyrics
    assert (directory / "genre.txt").read_text().strip() == expected.genre
    assert json.loads((directory / "notes.json").read_text()) == [vars(note) for note in expected.notes]


def test_a_book_can_grow_shrink_and_change_but_not_take_over_a_folder(tmp_path):
    book = tmp_path / "book"
    songbook.open_book(book, Book(2))
    songbook.open_book(book, Book(3))
    for index in range(3):
        songbook.write_song(book / songbook.song_name(index), songbook.make_song(0, index, 5))
    (book / "song_00001" / "mine.txt").write_text("keep")
    (book / "own").mkdir()
    before = contents(book)
    for smaller in (Book(1), Book(3, seed=1), Book(4, seconds=6.0)):
        with pytest.raises(UserError, match=r"would be lost.*--overwrite"):
            songbook.open_book(book, smaller)
    assert contents(book) == before
    songbook.open_book(book, Book(1), overwrite=True)
    assert sorted(path.name for path in book.iterdir()) == ["own", "song_00000", "song_00001", "songbook.json"]
    assert [path.name for path in (book / "song_00001").iterdir()] == ["mine.txt"]
    assert len(list((book / "song_00000").iterdir())) == 4

    for damaged in ("{", "[]", '{"songs": 3, "kind": "x"}', '{"songs": "3"}', '{"songs": 1e12}', "[" * 100_000):
        (book / "songbook.json").write_text(damaged)
        with pytest.raises(UserError, match="delete the folder"):
            songbook.open_book(book, Book(1), overwrite=True)
    (tmp_path / "file").write_text("")
    for foreign, reason in ((tmp_path, "holds other files"), (tmp_path / "file", "is a file")):
        with pytest.raises(UserError, match=reason):
            songbook.open_book(foreign, Book(1), overwrite=True)


def test_songs_are_written_into_new_files(tmp_path):
    """Whatever stands in their place: writing to a pipe would wait, to a link change what it leads to."""
    (tmp_path / "song").mkdir()
    os.mkfifo(tmp_path / "song" / "lyrics.txt")
    (tmp_path / "else.txt").write_text("somebody's")
    (tmp_path / "song" / "genre.txt").symlink_to(tmp_path / "else.txt")
    songbook.write_song(tmp_path / "song", songbook.make_song(0, 0, 5))
    assert (tmp_path / "song" / "lyrics.txt").read_text().startswith("[verse]")
    assert (tmp_path / "else.txt").read_text() == "somebody's"
    assert sorted(path.name for path in (tmp_path / "song").iterdir()) == sorted(songbook.SONG_FILES)


@pytest.mark.parametrize(("arguments", "words"), [
    (["--songs=0"], "--songs=0: expected 1 to 100000"),
    (["--songs=1000000000"], "--songs=1000000000"),
    (["--seconds=2"], "--seconds=2.0: expected 5 to 600"),
    (["--seconds=nan"], "--seconds=nan"),
    (["--seed=-1"], "--seed=-1"),
    (["--songs=many"], "songs"),
    (["--output=/dev/null/songs"], "/dev/null/songs lies below /dev/null"),
    (["--output=" + "x" * 300], "longer than this system allows"),
    (["--output=x/" + "x" * 300], "longer than this system allows"),
])
def test_wrong_usage_is_one_line_and_status_2(arguments, words, tmp_path):
    result = run(f"--output={tmp_path / 'songs'}", *arguments, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert result.returncode == 2
    assert words in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "songs").exists()
