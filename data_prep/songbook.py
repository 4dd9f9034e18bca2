"""Makes a book of songs whose every sung note is known: lyrics, genre, audio and notes, without recordings.

    python -m data_prep.songbook --output songs --songs 64 --seconds 12 --seed 0
    python -m data_prep.songbook --output songs --duets
    python -m data_prep.songbook --output songs --styles

Lyrics are words of made-up syllables in lines and sections; choruses repeat. Each syllable is sung at the note that the
rule in `autosong_jax.evaluation.notes` gives it, in the rhythm of the genre and over its chords and drums. A
performance follows from lyrics and genre alone, so there is something to learn, and unseen lyrics have one right
melody. Every song is a folder:

    song_00000/lyrics.txt   sections, lines and words
    song_00000/genre.txt    one of `GENRES`
    song_00000/audio.wav    16 kHz mono, at most `--seconds` long
    song_00000/notes.json   [{"syllable": "mi", "midi": 79, "start": 0.0, "end": 0.34}, ...] (seconds)

With `--duets` there are no lyrics: `audio.wav` is a lead, alone, for the `backing.wav` beside it, of as many samples;
the notes of the lead follow from the chords that the backing plays, by the rule in `autosong_jax.evaluation.duets`.
`chords.json` says what they are: [{"chord": "Am", "start": 0.0}, ...], each time that one is struck.

With `--styles` some songs are sung an octave higher. Neither lyrics nor genre tell which, but any part of a song does.
"""

import dataclasses
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic
from absl import flags

from autosong_jax import cli, inputs, outputs
from autosong_jax.audio import io as audio_io
from autosong_jax.errors import UserError
from autosong_jax.evaluation.notes import CONSONANTS, OCTAVE, VOWELS, syllable_note, syllables
from data_prep import duets
from data_prep.band import ENDING, GENRES, Genre, accompany, add, pluck_bass, strum
from data_prep.duets import Duet
from data_prep.synthesis import GAP, RATE, SungSyllable, as_json, sing

FLAGS = flags.FLAGS

MARKER = "songbook.json"
"""Stands in a folder that this command made, and may therefore change."""

MOST_SONGS = 100_000
"""Their names have five digits."""

SONG_FILES = ("lyrics.txt", "genre.txt", "audio.wav", "notes.json")
DUET_FILES = ("genre.txt", "backing.wav", "audio.wav", "chords.json", "notes.json")


@dataclass(frozen=True)
class SungSong:
    """A song: its text, the genre's name, audio float32 [samples] at `RATE`, and the notes that are sung in it."""

    lyrics: str
    genre: str
    audio: np.ndarray
    notes: list[SungSyllable]

    def files(self) -> dict[str, str | np.ndarray]:
        """What its folder holds, text or audio by the name of the file."""
        return {"lyrics.txt": self.lyrics, "genre.txt": self.genre + "\n", "audio.wav": self.audio,
                "notes.json": as_json(self.notes)}


def make_song(seed: int, index: int, seconds: float) -> SungSong:
    """Song `index` of book `seed`: it depends on these three alone, not on how many songs the book has."""
    genre = list(GENRES)[index % len(GENRES)]
    return perform(compose(np.random.default_rng([seed, index]), genre, seconds), genre)


def make_styled_song(seed: int, index: int, seconds: float) -> SungSong:
    """The same song, an octave higher or not: that is drawn once for all of it."""
    higher = bool(np.random.default_rng([seed, index, 1]).integers(2))
    song = make_song(seed, index, seconds)
    return perform(song.lyrics, song.genre, OCTAVE) if higher else song


def compose(rng: np.random.Generator, genre: str, seconds: float) -> str:
    """Random lyrics that take at most `seconds` (5 or more) in that genre.

    Of a few drafts it is the fullest among those whose chorus returns, if there are such.
    """
    space = int((seconds - ENDING) / GENRES[genre].step)
    lines_per_section = 1 if seconds < 20 else 2 if seconds < 60 else 4
    drafts = [_draft(rng, GENRES[genre], space, lines_per_section) for _ in range(12)]
    return max(drafts, key=lambda draft: (draft.count("[chorus]") > 1, len(syllables(draft))))


def _draft(rng: np.random.Generator, style: Genre, space: int, lines_per_section: int) -> str:
    """Verse, chorus, verse, chorus, bridge, chorus, ... for as long as lines fit into `space` steps."""
    chorus = [_line(rng) for _ in range(lines_per_section)]
    text = []
    for name in itertools.cycle(["verse", "chorus", "verse", "chorus", "bridge", "chorus"]):
        section = chorus if name == "chorus" else [_line(rng) for _ in range(lines_per_section)]
        for number, line in enumerate(section):
            space -= _line_steps(style, len(syllables(line)))
            if space < 0:
                return "\n".join(text).strip() + "\n"
            text += [line] if number else ["", f"[{name}]", line]
    raise AssertionError("an endless cycle has ended")


def _line(rng: np.random.Generator) -> str:
    """A line of 4 to 8 random syllables, in words of one to three."""
    words, count = [], int(rng.integers(4, 9))
    while count:
        length = min(count, int(rng.integers(1, 4)))
        words.append("".join(rng.choice(list(CONSONANTS)) + rng.choice(list(VOWELS)) for _ in range(length)))
        count -= length
    return " ".join(words)


def _line_steps(style: Genre, count: int) -> int:
    """Steps from the start of a line of `count` syllables to the earliest start of the next one."""
    sung = sum(style.rhythm[i % len(style.rhythm)] for i in range(count))
    return -(-sung // style.phrase) * style.phrase


def perform(lyrics: str, genre: str, higher: int = 0) -> SungSong:
    """Sings any lyrics made of the songbook's syllables in a genre; the same text is always sung in the same way.

    Args:
      lyrics: the text.
      genre: one of `GENRES`.
      higher: semitones above what the rule says.

    Raises:
      UserError: the genre is unknown, or the lyrics have no syllable of the songbook.
    """
    if genre not in GENRES:
        raise UserError(f"genre {genre!r} is unknown: expected one of {', '.join(GENRES)}")
    style = GENRES[genre]
    notes, chorus_at = _score(lyrics, style, higher)
    if not notes:
        raise UserError("the lyrics have nothing to sing: expected words of l, m, s or t followed by a, e, i, o or u")
    audio = np.zeros(round((len(chorus_at) * style.step + ENDING) * RATE))
    for note in notes:
        add(audio, note.start, sing(note.syllable, note.midi, note.end + GAP - note.start, style.voice))
    accompany(audio, style, _chords(style, chorus_at), chorus_at)
    end = len(chorus_at) * style.step
    add(audio, end, strum(style.instrument, "C"))  # the tonic
    add(audio, end, pluck_bass("C"))
    return SungSong(lyrics, genre, audio.astype(np.float32), notes)


def _score(lyrics: str, style: Genre, higher: int) -> tuple[list[SungSyllable], list[bool]]:
    """When each syllable is sung, and for every step of the song whether it belongs to a chorus."""
    notes, chorus_at, in_chorus = [], [], False
    for line in lyrics.splitlines():
        if line.strip().startswith("["):
            in_chorus = line.strip().lower().startswith("[chorus")
        sung, step = syllables(line), len(chorus_at)
        for syllable, steps in zip(sung, itertools.cycle(style.rhythm)):
            start, end = step * style.step, (step + steps) * style.step - GAP
            notes.append(SungSyllable(syllable, syllable_note(syllable) + higher, round(start, 3), round(end, 3)))
            step += steps
        chorus_at += [in_chorus] * _line_steps(style, len(sung))
    return notes, chorus_at


def _chords(style: Genre, chorus_at: list[bool]) -> list[str]:
    """The chord of every step: one a bar, those of the chorus where it is sung."""
    chords = []
    for step, chorus in enumerate(chorus_at):
        turn = (style.chorus if chorus else style.verse).split()
        chords.append(turn[step // len(style.chords) % len(turn)])
    return chords


def song_name(index: int) -> str:
    """The name of a song's folder."""
    return f"song_{index:05d}"


def write_song(directory: Path, song: SungSong | Duet) -> None:
    """Writes the files of a song (see this module's docstring) into `directory`."""
    directory.mkdir(exist_ok=True)
    for name, content in song.files().items():
        if isinstance(content, str):
            _write(directory / name, content)
        else:
            audio_io.write(directory / name, content, RATE)


def _write(path: Path, text: str) -> None:
    """In a new file: what was there, a pipe or a link to elsewhere for all we know, is not written to."""
    unfinished = path.with_name(f".unfinished-{path.name}")
    unfinished.unlink(missing_ok=True)
    unfinished.write_text(text)
    unfinished.replace(path)


MAKERS = {"songs": make_song, "duets": duets.make_duet, "styles": make_styled_song}
"""What makes a song of a book, by the kind of the book."""


@dataclass(frozen=True)
class Book:
    """What `MARKER` says of a book."""

    songs: Annotated[int, pydantic.Field(ge=1, le=MOST_SONGS)]
    seconds: float | None = None
    seed: int | None = None
    kind: Literal[*MAKERS] = "songs"


def open_book(output: Path, book: Book, *, overwrite: bool = False) -> None:
    """Makes `output` ready for a book and marks it as a songbook.

    A book may grow. What would be lost of another or a larger one, songs that `book` has not, goes if `overwrite`.

    Raises:
      UserError: `output` cannot be written, holds something else than a songbook, or a book that would be lost.
    """
    marker = output / MARKER
    outputs.check_directory(output, "--output")
    if marker.exists():
        try:
            earlier = inputs.read_json(marker, Book, "--output:")
        except UserError as error:
            raise UserError(f"{error}; delete the folder {output} or give another --output") from error
        same = dataclasses.replace(earlier, songs=book.songs) == book
        lost = earlier.songs - book.songs if same else earlier.songs
        if lost > 0 and not overwrite:
            raise UserError(f"--output={output} holds a book of {earlier.songs} {earlier.kind} (--seconds="
                            f"{earlier.seconds} --seed={earlier.seed}), of which {lost} would be lost: give another "
                            "--output, or --overwrite")
        for index in range(book.songs if same else 0, earlier.songs):
            _remove_song(output / song_name(index))
    elif output.exists() and any(output.iterdir()):
        raise UserError(f"--output={output} holds other files and no {MARKER}: give a new or empty folder")
    output.mkdir(parents=True, exist_ok=True)
    _write(marker, json.dumps(vars(book)) + "\n")


def _remove_song(directory: Path) -> None:
    """Deletes what `write_song` wrote; files that somebody has added stay."""
    for file in {*SONG_FILES, *DUET_FILES}:
        (directory / file).unlink(missing_ok=True)
    if directory.is_dir() and not directory.is_symlink() and not any(directory.iterdir()):
        directory.rmdir()


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("output", "songs", "Folder to write the songs into.")
    flags.DEFINE_integer("songs", 64, "Number of songs.")
    flags.DEFINE_float("seconds", 12.0, "Longest that a song may be, 5 to 600.")
    flags.DEFINE_integer("seed", 0, "The same seed writes the same songs.")
    flags.DEFINE_bool("duets", False, "Songs without lyrics: a backing, and a lead whose notes follow from it.")
    flags.DEFINE_bool("styles", False, "Songs of which some are sung an octave higher, as no lyrics or genre tell.")
    flags.DEFINE_bool("overwrite", False, "Let songs of another book that lies in --output be lost.")


def main() -> None:
    output, songs, seconds, seed = Path(FLAGS.output), FLAGS.songs, FLAGS.seconds, FLAGS.seed
    if FLAGS.duets and FLAGS.styles:
        raise UserError("--duets and --styles are two kinds of books: give one of them")
    if not 1 <= songs <= MOST_SONGS:
        raise UserError(f"--songs={songs}: expected 1 to {MOST_SONGS}")
    if not 5 <= seconds <= 600:
        raise UserError(f"--seconds={seconds}: expected 5 to 600")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed={seed}: expected 0 or more, below 2^63")
    try:
        book = Book(songs, seconds, seed, "duets" if FLAGS.duets else "styles" if FLAGS.styles else "songs")
        open_book(output, book, overwrite=FLAGS.overwrite)
        for index in cli.progress(range(songs), desc="songbook", unit="song"):
            write_song(output / song_name(index), MAKERS[book.kind](seed, index, seconds))
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.filename}: {inputs.reason(error)}") from error
    cli.say(f"{songs} {'duets' if FLAGS.duets else 'songs'} in {output}")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
