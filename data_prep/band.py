"""The songbook's band: in which rhythm, on which instruments and over which chords a genre is played."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.synthesis import RATE, Instrument, Voice, drum, strike


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
    hold: int
    """Steps that a chord of a duet lasts: two or three strokes of `chords`."""
    instrument: Instrument
    voice: Voice
    chords: str
    bass: str
    kick: str
    snare: str
    hat: str


GENRES = {
    "ballad": Genre(
        step=0.48, phrase=2, rhythm=(1, 1, 1, 2), verse="C Am F G", chorus="F G C Am", hold=4,
        instrument=Instrument((1.0, 0.5, 0.25, 0.1), decay=1.2), voice=Voice(vibrato=0.3),
        chords="x.x.x.x.", bass="x...x...", kick="........", snare="........", hat="x.x.x.x."),
    "pop": Genre(
        step=0.32, phrase=2, rhythm=(1, 1, 2), verse="C G Am F", chorus="F C G Am", hold=8,
        instrument=Instrument((1.0, 0.1, 0.4, 0.05, 0.2), decay=0.5), voice=Voice(size=1.05),
        chords="x..x..x.", bass="x..x..x.", kick="x...x...", snare="..x...x.", hat="xxxxxxxx"),
    "rock": Genre(
        step=0.4, phrase=2, rhythm=(1,), verse="C F C G", chorus="Am F C G", hold=2,
        instrument=Instrument((1.0, 0.8, 0.6, 0.4, 0.3, 0.2), decay=0.3), voice=Voice(size=0.95, vibrato=0.1),
        chords="xxxx", bass="xxxx", kick="x.x.", snare=".x.x", hat="xxxx"),
    "waltz": Genre(
        step=0.32, phrase=3, rhythm=(1, 1, 1), verse="C C G G", chorus="F C G C", hold=3,
        instrument=Instrument((1.0, 0.3, 0.1), decay=0.25, attack=0.02), voice=Voice(vibrato=0.25),
        chords=".xx", bass="x..", kick="x..", snare="...", hat=".xx"),
    "bossa": Genre(
        step=0.16, phrase=4, rhythm=(2, 2, 3, 2, 2), verse="Dm G C Am", chorus="C Am Dm G", hold=8,
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

ENDING = 0.6
"""Seconds for which the last chord rings after the last step."""


def accompany(audio: np.ndarray, style: Genre, chords: Sequence[str], hats: Sequence[bool]) -> None:
    """Adds chords, bass and drums to `audio`.

    Args:
      audio: float64 [samples].
      style: the genre.
      chords: the chord of every step, a name in `CHORDS`.
      hats: whether its hat is played, for every step.
    """
    bar = len(style.chords)
    for step, (name, with_hat) in enumerate(zip(chords, hats, strict=True)):
        at, beat = step * style.step, step % bar
        if style.chords[beat] == "x":
            add(audio, at, strum(style.instrument, name))
        if style.bass[beat] == "x":
            add(audio, at, pluck_bass(name))
        for kind in ("kick", "snare", "hat") if with_hat else ("kick", "snare"):
            if getattr(style, kind)[beat] == "x":
                add(audio, at, DRUM_LEVELS[kind] * drum(kind))


def strum(instrument: Instrument, chord: str) -> np.ndarray:
    """The chord's notes between A2 and G#3, 110 to 208 Hz: below the voice."""
    notes = (45 + (pitch_class - 45) % 12 for pitch_class in CHORDS[chord])
    return CHORD_LEVEL * sum(strike(instrument, note, ENDING) for note in notes)


def pluck_bass(chord: str) -> np.ndarray:
    """The chord's root between C2 and B2, 65 to 123 Hz."""
    return BASS_LEVEL * strike(BASS, 36 + CHORDS[chord][0], ENDING)


def add(audio: np.ndarray, start: float, sound: np.ndarray) -> None:
    """Mixes `sound` into `audio` from `start` seconds on; what goes past the end is cut."""
    begin = round(start * RATE)
    end = min(len(audio), begin + len(sound))
    audio[begin:end] += sound[: end - begin]
