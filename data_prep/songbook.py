"""Makes a book of songs whose every sung note is known: lyrics, genre, audio and notes, without recordings.

    python -m data_prep.songbook --output songs --songs 64 --seconds 12 --seed 0

Lyrics are words of made-up syllables in lines and sections; choruses repeat. Each syllable is sung at the note that the
rule in `autosong_jax.evaluation.notes` gives it, in the rhythm of the genre and over its chords and drums. A
performance follows from lyrics and genre alone, so there is something to learn, and unseen lyrics have one right
melody. Every song is a folder:

    song_00000/lyrics.txt   sections, lines and words
    song_00000/genre.txt    one of `GENRES`
    song_00000/audio.wav    16 kHz mono, at most `--seconds` long
    song_00000/notes.json   [{"syllable": "mi", "midi": 79, "start": 0.0, "end": 0.34}, ...] (seconds)
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic
from absl import flags

from autosong_jax import cli, inputs, outputs
from autosong_jax.audio import io as audio_io
from autosong_jax.errors import UserError
from autosong_jax.evaluation.notes import CONSONANTS, VOWELS, syllable_note, syllables
from data_prep.synthesis import GAP, RATE, Instrument, Voice, drum, sing, strike

FLAGS = flags.FLAGS


@dataclass(frozen=True)
class Genre:
    """How a genre is played. Patterns have one character a step; `x` is a stroke.

    `step` (seconds) is a multiple of 80 ms, a whole number of codec frames at 25 or 12.5 Hz, so that equal notes give
    nearly equal codes.
    """

    step: float
    phrase: int
    """A line of lyrics starts on a multiple of so many steps."""
    rhythm: tuple[int, ...]
    """Steps of the syllables of a line, over and over."""
    verse: str
    """Chords, one a bar; the bar is as long as the patterns."""
    chorus: str
    instrument: Instrument
    voice: Voice
    chords: str
    bass: str
    kick: str
    snare: str
    hat: str


GENRES = {
    "ballad": Genre(
        step=0.48, phrase=2, rhythm=(1, 1, 1, 2), verse="C Am F G", chorus="F G C Am",
        instrument=Instrument((1.0, 0.5, 0.25, 0.1), decay=1.2), voice=Voice(vibrato=0.3),
        chords="x.x.x.x.", bass="x...x...", kick="........", snare="........", hat="x.x.x.x."),
    "pop": Genre(
        step=0.32, phrase=2, rhythm=(1, 1, 2), verse="C G Am F", chorus="F C G Am",
        instrument=Instrument((1.0, 0.1, 0.4, 0.05, 0.2), decay=0.5), voice=Voice(size=1.05),
        chords="x..x..x.", bass="x..x..x.", kick="x...x...", snare="..x...x.", hat="xxxxxxxx"),
    "rock": Genre(
        step=0.4, phrase=2, rhythm=(1,), verse="C F C G", chorus="Am F C G",
        instrument=Instrument((1.0, 0.8, 0.6, 0.4, 0.3, 0.2), decay=0.3), voice=Voice(size=0.95, vibrato=0.1),
        chords="xxxx", bass="xxxx", kick="x.x.", snare=".x.x", hat="xxxx"),
    "waltz": Genre(
        step=0.32, phrase=3, rhythm=(1, 1, 1), verse="C C G G", chorus="F C G C",
        instrument=Instrument((1.0, 0.3, 0.1), decay=0.25, attack=0.02), voice=Voice(vibrato=0.25),
        chords=".xx", bass="x..", kick="x..", snare="...", hat=".xx"),
    "bossa": Genre(
        step=0.16, phrase=4, rhythm=(2, 2, 3, 2, 2), verse="Dm G C Am", chorus="C Am Dm G",
        instrument=Instrument((1.0, 0.2, 0.2, 0.1), decay=0.2), voice=Voice(vibrato=0.15),
        chords="x..x..x...x..x..", bass="x.....x.x.....x.", kick="x.....x.x.....x.", snare="x..x..x...x..x..",
        hat="x.x.x.x.x.x.x.x."),
}
CHORDS = {"C": (0, 4, 7), "Dm": (2, 5, 9), "F": (5, 9, 0), "G": (7, 11, 2), "Am": (9, 0, 4)}
"""Pitch classes; all five go with the voice's pentatonic scale."""

BASS = Instrument((1.0, 0.3, 0.1), decay=0.4)
CHORD_LEVEL, BASS_LEVEL = 0.06, 0.12
DRUM_LEVELS = {"kick": 0.15, "snare": 0.06, "hat": 0.03}
"""Amplitudes; a vowel's is about 0.28 (RMS 0.2)."""

MARKER = "songbook.json"
"""Stands in a folder that this command made, and may therefore change."""

MOST_SONGS = 100_000
"""Their names have five digits."""

SONG_FILES = ("lyrics.txt", "genre.txt", "audio.wav", "notes.json")

ENDING = 0.6
"""Seconds for which the last chord rings after the last line."""


@dataclass(frozen=True)
class SungSyllable:
    """A syllable of the score: what is sung, at which MIDI note, and from when to when in seconds."""

    syllable: str
    midi: int
    start: float
    end: float


@dataclass(frozen=True)
class SungSong:
    """A song: its text, the genre's name, audio float32 [samples] at `RATE`, and the notes that are sung in it."""

    lyrics: str
    genre: str
    audio: np.ndarray
    notes: list[SungSyllable]


def make_song(seed: int, index: int, seconds: float) -> SungSong:
    """Song `index` of book `seed`: it depends on these three alone, not on how many songs the book has."""
    genre = list(GENRES)[index % len(GENRES)]
    return perform(compose(np.random.default_rng([seed, index]), genre, seconds), genre)


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


def perform(lyrics: str, genre: str) -> SungSong:
    """Sings any lyrics made of the songbook's syllables in a genre; the same text is always sung in the same way.

    Raises:
      UserError: the genre is unknown, or the lyrics have no syllable of the songbook.
    """
    if genre not in GENRES:
        raise UserError(f"genre {genre!r} is unknown: expected one of {', '.join(GENRES)}")
    style = GENRES[genre]
    notes, chorus_at = _score(lyrics, style)
    if not notes:
        raise UserError("the lyrics have nothing to sing: expected words of l, m, s or t followed by a, e, i, o or u")
    audio = np.zeros(round((len(chorus_at) * style.step + ENDING) * RATE))
    for note in notes:
        _add(audio, note.start, sing(note.syllable, note.midi, note.end + GAP - note.start, style.voice))
    _accompany(audio, style, chorus_at)
    return SungSong(lyrics, genre, audio.astype(np.float32), notes)


def _score(lyrics: str, style: Genre) -> tuple[list[SungSyllable], list[bool]]:
    """When each syllable is sung, and for every step of the song whether it belongs to a chorus."""
    notes, chorus_at, in_chorus = [], [], False
    for line in lyrics.splitlines():
        if line.strip().startswith("["):
            in_chorus = line.strip().lower().startswith("[chorus")
        sung, step = syllables(line), len(chorus_at)
        for syllable, steps in zip(sung, itertools.cycle(style.rhythm)):
            start, end = step * style.step, (step + steps) * style.step - GAP
            notes.append(SungSyllable(syllable, syllable_note(syllable), round(start, 3), round(end, 3)))
            step += steps
        chorus_at += [in_chorus] * _line_steps(style, len(sung))
    return notes, chorus_at


def _accompany(audio: np.ndarray, style: Genre, chorus_at: list[bool]) -> None:
    """Adds chords, bass and drums to `audio` for every step, and lets the tonic ring after the last one."""
    bar = len(style.chords)
    for step, chorus in enumerate(chorus_at):
        at, beat = step * style.step, step % bar
        chords = (style.chorus if chorus else style.verse).split()
        chord = CHORDS[chords[step // bar % len(chords)]]
        if style.chords[beat] == "x":
            _add(audio, at, _strum(style.instrument, chord))
        if style.bass[beat] == "x":
            _add(audio, at, _pluck_bass(chord))
        for kind in ("kick", "snare", "hat") if chorus else ("kick", "snare"):
            if getattr(style, kind)[beat] == "x":
                _add(audio, at, DRUM_LEVELS[kind] * drum(kind))
    end = len(chorus_at) * style.step
    _add(audio, end, _strum(style.instrument, CHORDS["C"]))
    _add(audio, end, _pluck_bass(CHORDS["C"]))


def _strum(instrument: Instrument, chord: tuple[int, ...]) -> np.ndarray:
    """The chord's notes between A2 and G#3, 110 to 208 Hz: below the voice."""
    return CHORD_LEVEL * sum(strike(instrument, 45 + (pitch_class - 45) % 12, ENDING) for pitch_class in chord)


def _pluck_bass(chord: tuple[int, ...]) -> np.ndarray:
    """The chord's root between C2 and B2, 65 to 123 Hz."""
    return BASS_LEVEL * strike(BASS, 36 + chord[0], ENDING)


def _add(audio: np.ndarray, start: float, sound: np.ndarray) -> None:
    """Mixes `sound` into `audio` from `start` seconds on; what goes past the end is cut."""
    begin = round(start * RATE)
    end = min(len(audio), begin + len(sound))
    audio[begin:end] += sound[: end - begin]


def song_name(index: int) -> str:
    """The name of a song's folder."""
    return f"song_{index:05d}"


def write_song(directory: Path, song: SungSong) -> None:
    """Writes the files of a song (see this module's docstring) into `directory`."""
    directory.mkdir(exist_ok=True)
    _write(directory / "lyrics.txt", song.lyrics)
    _write(directory / "genre.txt", song.genre + "\n")
    notes = ",\n".join(json.dumps(vars(note)) for note in song.notes)
    _write(directory / "notes.json", f"[{notes}]\n")
    audio_io.write(directory / "audio.wav", song.audio, RATE)


def _write(path: Path, text: str) -> None:
    """In a new file: what was there, a pipe or a link to elsewhere for all we know, is not written to."""
    unfinished = path.with_name(f".unfinished-{path.name}")
    unfinished.unlink(missing_ok=True)
    unfinished.write_text(text)
    unfinished.replace(path)


@dataclass(frozen=True)
class Book:
    """What `MARKER` says of a book."""

    songs: Annotated[int, pydantic.Field(ge=1, le=MOST_SONGS)]
    seconds: float | None = None
    seed: int | None = None


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
        lost = earlier.songs - book.songs if (earlier.seconds, earlier.seed) == (book.seconds, book.seed) else (
            earlier.songs)
        if lost > 0 and not overwrite:
            raise UserError(f"--output={output} holds a book of {earlier.songs} songs (--seconds={earlier.seconds} "
                            f"--seed={earlier.seed}), of which {lost} would be lost: give another --output, or "
                            "--overwrite")
        for index in range(book.songs, earlier.songs):
            _remove_song(output / song_name(index))
    elif output.exists() and any(output.iterdir()):
        raise UserError(f"--output={output} holds other files and no {MARKER}: give a new or empty folder")
    output.mkdir(parents=True, exist_ok=True)
    _write(marker, json.dumps(vars(book)) + "\n")


def _remove_song(directory: Path) -> None:
    """Deletes what `write_song` wrote; files that somebody has added stay."""
    for file in SONG_FILES:
        (directory / file).unlink(missing_ok=True)
    if directory.is_dir() and not directory.is_symlink() and not any(directory.iterdir()):
        directory.rmdir()


def define_flags() -> None:
    """In a function, so that several commands can be imported into one process."""
    flags.DEFINE_string("output", "songs", "Folder to write the songs into.")
    flags.DEFINE_integer("songs", 64, "Number of songs.")
    flags.DEFINE_float("seconds", 12.0, "Longest that a song may be, 5 to 600.")
    flags.DEFINE_integer("seed", 0, "The same seed writes the same songs.")
    flags.DEFINE_bool("overwrite", False, "Let songs of another book that lies in --output be lost.")


def main() -> None:
    output, songs, seconds, seed = Path(FLAGS.output), FLAGS.songs, FLAGS.seconds, FLAGS.seed
    if not 1 <= songs <= MOST_SONGS:
        raise UserError(f"--songs={songs}: expected 1 to {MOST_SONGS}")
    if not 5 <= seconds <= 600:
        raise UserError(f"--seconds={seconds}: expected 5 to 600")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed={seed}: expected 0 or more, below 2^63")
    try:
        open_book(output, Book(songs, seconds, seed), overwrite=FLAGS.overwrite)
        for index in cli.progress(range(songs), desc="songbook", unit="song"):
            write_song(output / song_name(index), make_song(seed, index, seconds))
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.filename}: {inputs.reason(error)}") from error
    cli.say(f"{songs} songs in {output}")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
