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

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import flags

from autosong_jax import cli
from autosong_jax.errors import UserError
from autosong_jax.evaluation.notes import CONSONANTS, VOWELS, syllable_note, syllables
from data_prep.synthesis import GAP, RATE, Instrument, Voice, drum, sing, strike


@dataclass(frozen=True)
class Genre:
    """How a genre is played. Patterns have one character a step; `x` is a stroke.

    `step` (seconds) is a whole number of 40 ms codec frames, so that equal notes give nearly equal codes.
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
        step=0.4, phrase=4, rhythm=(1, 1, 1, 2), verse="C Am F G", chorus="F G C Am",
        instrument=Instrument((1.0, 0.5, 0.25, 0.1), decay=1.2), voice=Voice(vibrato=0.3),
        chords="x.x.x.x.", bass="x...x...", kick="........", snare="........", hat="x.x.x.x."),
    "pop": Genre(
        step=0.28, phrase=4, rhythm=(1, 1, 2), verse="C G Am F", chorus="F C G Am",
        instrument=Instrument((1.0, 0.1, 0.4, 0.05, 0.2), decay=0.5), voice=Voice(size=1.05),
        chords="x..x..x.", bass="x..x..x.", kick="x...x...", snare="..x...x.", hat="xxxxxxxx"),
    "rock": Genre(
        step=0.4, phrase=4, rhythm=(1,), verse="C F C G", chorus="Am F C G",
        instrument=Instrument((1.0, 0.8, 0.6, 0.4, 0.3, 0.2), decay=0.3), voice=Voice(size=0.95, vibrato=0.1),
        chords="xxxx", bass="xxxx", kick="x.x.", snare=".x.x", hat="xxxx"),
    "waltz": Genre(
        step=0.36, phrase=3, rhythm=(1, 1, 1), verse="C C G G", chorus="F C G C",
        instrument=Instrument((1.0, 0.3, 0.1), decay=0.25, attack=0.02), voice=Voice(vibrato=0.25),
        chords=".xx", bass="x..", kick="x..", snare="...", hat=".xx"),
    "bossa": Genre(
        step=0.12, phrase=8, rhythm=(3, 3, 4, 3, 3), verse="Dm G C Am", chorus="C Am Dm G",
        instrument=Instrument((1.0, 0.2, 0.2, 0.1), decay=0.2), voice=Voice(size=1.0, vibrato=0.15),
        chords="x..x..x...x..x..", bass="x.....x.x.....x.", kick="x.....x.x.....x.", snare="x..x..x...x..x..",
        hat="x.x.x.x.x.x.x.x."),
}
CHORDS = {"C": (0, 4, 7), "Dm": (2, 5, 9), "F": (5, 9, 0), "G": (7, 11, 2), "Am": (9, 0, 4)}
"""Pitch classes; all five go with the voice's pentatonic scale."""

ENDING = 0.6
"""Seconds for which the last chord rings after the last line."""


@dataclass(frozen=True)
class SungSyllable:
    """A syllable of the score: what, at which MIDI note, and from when to when (seconds)."""

    syllable: str
    midi: int
    start: float
    end: float


@dataclass(frozen=True)
class Song:
    """A song: the text, the genre's name, audio float32 [samples] at `RATE` and the notes that are sung in it."""

    lyrics: str
    genre: str
    audio: np.ndarray
    notes: list[SungSyllable]


def make_song(seed: int, index: int, seconds: float) -> Song:
    """Song `index` of book `seed`; it depends on these three alone, not on how many songs the book has."""
    genre = list(GENRES)[index % len(GENRES)]
    return perform(compose(np.random.default_rng([seed, index]), genre, seconds), genre)


def compose(rng: np.random.Generator, genre: str, seconds: float) -> str:
    """Lyrics that take at most `seconds` in that genre: verse, chorus, verse, chorus, bridge, chorus, ..."""
    left = int((seconds - ENDING) / GENRES[genre].step)
    lines_per_section = 1 if seconds < 20 else 2 if seconds < 60 else 4
    chorus = [_line(rng, int(rng.integers(4, 9))) for _ in range(lines_per_section)]
    text = []
    for name in _section_names():
        lines = chorus if name == "chorus" else [_line(rng, int(rng.integers(4, 9))) for _ in range(lines_per_section)]
        for number, line in enumerate(lines):
            steps = _line_steps(GENRES[genre], len(syllables(line)))
            if steps > left:
                return "\n".join(text) + "\n"
            if number == 0:
                text.extend(["", f"[{name}]"] if text else [f"[{name}]"])
            text.append(line)
            left -= steps
    raise AssertionError("unreachable: section names do not end")


def _section_names() -> Iterator[str]:
    while True:
        yield from ("verse", "chorus", "verse", "chorus", "bridge", "chorus")


def _line(rng: np.random.Generator, count: int) -> str:
    """A line of `count` random syllables in words of one to three."""
    words = []
    while count:
        length = min(count, int(rng.integers(1, 4)))
        words.append("".join(rng.choice(list(CONSONANTS)) + rng.choice(list(VOWELS)) for _ in range(length)))
        count -= length
    return " ".join(words)


def _line_steps(genre: Genre, count: int) -> int:
    """Steps until the next line may start: the syllables, a breath of at least one step, the rest of the phrase."""
    sung = sum(genre.rhythm[i % len(genre.rhythm)] for i in range(count))
    return -(-(sung + 1) // genre.phrase) * genre.phrase


def perform(lyrics: str, genre: str) -> Song:
    """Sings any lyrics made of the songbook's syllables in a genre.

    Raises:
      UserError: the genre is unknown, or the lyrics have no syllable of the songbook.
    """
    if genre not in GENRES:
        raise UserError(f"genre {genre!r} is unknown: expected one of {', '.join(GENRES)}")
    style = GENRES[genre]
    notes, sections, step, section = [], [], 0, "verse"
    for line in lyrics.splitlines():
        if line.strip().startswith("["):
            section = "chorus" if "chorus" in line.lower() else "verse"
        sung = syllables(line)
        if not sung:
            continue
        sections.append((step, section))
        start = step
        for i, syllable in enumerate(sung):
            steps = style.rhythm[i % len(style.rhythm)]
            notes.append(SungSyllable(syllable, syllable_note(syllable), round(start * style.step, 3),
                                      round((start + steps) * style.step - GAP, 3)))
            start += steps
        step += _line_steps(style, len(sung))
    if not notes:
        raise UserError("the lyrics have no syllable to sing: expected words of l, m, s or t and a, e, i, o or u")
    audio = np.zeros(round((step * style.step + ENDING) * RATE))
    for note in notes:
        _add(audio, note.start, sing(note.syllable, note.midi, note.end - note.start + GAP, style.voice))
    _accompany(audio, style, sections, step)
    return Song(lyrics, genre, audio.astype(np.float32), notes)


def _accompany(audio: np.ndarray, style: Genre, sections: list[tuple[int, str]], steps: int) -> None:
    """Adds chords, bass and drums to `audio` for `steps` steps and lets the tonic ring after them."""
    bar = len(style.chords)
    starts = [start for start, _ in sections]
    for step in range(steps + 1):
        name = sections[np.searchsorted(starts, step, side="right") - 1][1]
        progression = (style.chorus if name == "chorus" else style.verse).split()
        chord = CHORDS["C" if step == steps else progression[step // bar % len(progression)]]
        at, beat = step * style.step, step % bar
        if style.chords[beat] == "x" or step == steps:
            for pitch_class in chord:
                _add(audio, at, 0.02 * strike(style.instrument, 45 + (pitch_class - 45) % 12, ENDING))
        if style.bass[beat] == "x" or step == steps:
            _add(audio, at, 0.04 * strike(BASS, 36 + (chord[0] - 36) % 12, ENDING))
        for kind, pattern, level in (("kick", style.kick, 0.05), ("snare", style.snare, 0.02), ("hat", style.hat, 0.01)):
            if pattern[beat] == "x" and step < steps and (kind != "hat" or name == "chorus"):
                _add(audio, at, level * drum(kind))


BASS = Instrument((1.0, 0.3, 0.1), decay=0.4)


def _add(audio: np.ndarray, start: float, sound: np.ndarray) -> None:
    """Mixes `sound` into `audio` at `start` seconds; what goes past the end is cut."""
    begin = round(start * RATE)
    end = min(len(audio), begin + len(sound))
    audio[begin:end] += sound[: end - begin]


def write_song(directory: Path, song: Song) -> None:
    """Writes the four files of a song into `directory`."""
    import soundfile

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "lyrics.txt").write_text(song.lyrics)
    (directory / "genre.txt").write_text(song.genre + "\n")
    (directory / "notes.json").write_text(json.dumps([vars(note) for note in song.notes], indent=0) + "\n")
    soundfile.write(directory / "audio.wav", song.audio, RATE, subtype="PCM_16")


MARKER = "songbook.json"


def prepare(output: Path, names: list[str]) -> None:
    """Makes `output` ready for the songs `names`: an earlier songbook there loses the songs it has beyond them.

    Raises:
      UserError: `output` is a file, or a folder that holds something but no songbook.
    """
    marker = output / MARKER
    if output.exists() and not output.is_dir():
        raise UserError(f"--output={output} is a file: expected a folder; give another name")
    if output.is_dir() and any(output.iterdir()) and not marker.is_file():
        raise UserError(f"--output={output} holds other files and no {MARKER}: give a new or empty folder")
    earlier = json.loads(marker.read_text())["songs"] if marker.is_file() else []
    output.mkdir(parents=True, exist_ok=True)
    for name in set(earlier) - set(names):
        for file in ("lyrics.txt", "genre.txt", "notes.json", "audio.wav"):
            (output / name / file).unlink(missing_ok=True)
        if (output / name).is_dir() and not any((output / name).iterdir()):
            (output / name).rmdir()
    marker.write_text(json.dumps({"songs": sorted(names)}) + "\n")


def main() -> None:
    output, songs, seconds, seed = FLAGS.output, FLAGS.songs, FLAGS.seconds, FLAGS.seed
    if songs < 1:
        raise UserError(f"--songs={songs}: expected at least 1")
    if not 4 <= seconds <= 600:
        raise UserError(f"--seconds={seconds}: expected 4 to 600")
    if seed < 0:
        raise UserError(f"--seed={seed}: expected 0 or more")
    names = [f"song_{index:05d}" for index in range(songs)]
    prepare(Path(output), names)
    for index, name in enumerate(cli.progress(names, desc="songbook", unit="song")):
        write_song(Path(output) / name, make_song(seed, index, seconds))
    print(f"{songs} songs in {output}")


if __name__ == "__main__":  # not at import: other commands have an --output, too
    FLAGS = flags.FLAGS
    flags.DEFINE_string("output", "songs", "folder to write the songs into")
    flags.DEFINE_integer("songs", 64, "number of songs")
    flags.DEFINE_float("seconds", 12.0, "longest that a song may be, 4 to 600")
    flags.DEFINE_integer("seed", 0, "the same seed writes the same songs")
    cli.run(main)
