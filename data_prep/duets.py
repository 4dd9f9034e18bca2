"""Duets: a backing of chords, bass and drums, and a lead that sings what the backing's chords ask for.

The rule from chords to notes is in `autosong_jax.evaluation.duets`. The chords of a song are drawn at random, so the
right notes of its lead can be known by hearing its backing, and by nothing else.
"""

import json
from dataclasses import dataclass

import numpy as np

from autosong_jax.evaluation.duets import lead_notes
from autosong_jax.evaluation.notes import CONSONANTS, VOWELS, syllable_note
from data_prep.band import CHORDS, ENDING, GENRES, accompany, add
from data_prep.synthesis import GAP, RATE, SungSyllable, as_json, sing

SYLLABLES = {syllable_note(consonant + vowel): consonant + vowel
             for consonant in reversed(CONSONANTS) for vowel in VOWELS}
"""What a note is sung on, as in the songbook: la, lo, ..., sa, so, ..."""


@dataclass(frozen=True)
class Duet:
    """A backing and a lead of the same length.

    Attributes:
      genre: its name.
      chords: one a stroke of the backing's instrument: (name of the chord, when it is struck in seconds).
      notes: of the lead, one a stroke.
      backing, lead: float32 [samples] at `RATE`.
    """

    genre: str
    chords: list[tuple[str, float]]
    notes: list[SungSyllable]
    backing: np.ndarray
    lead: np.ndarray

    def files(self) -> dict[str, str | np.ndarray]:
        """What its folder holds, text or audio by the name of the file."""
        chords = ",\n".join(json.dumps({"chord": chord, "start": start}) for chord, start in self.chords)
        return {"genre.txt": self.genre + "\n", "backing.wav": self.backing, "audio.wav": self.lead,
                "chords.json": f"[{chords}]\n", "notes.json": as_json(self.notes)}


def make_duet(seed: int, index: int, seconds: float) -> Duet:
    """Duet `index` of book `seed`, at most so long: it depends on these three alone."""
    rng = np.random.default_rng([seed, index])
    genre = list(GENRES)[index % len(GENRES)]
    style = GENRES[genre]
    changes = draw_chords(rng, int((seconds - ENDING) / style.step) // style.hold)
    return perform([chord for chord in changes for _ in range(style.hold)], genre)


def draw_chords(rng: np.random.Generator, count: int) -> list[str]:
    """Random chords, none of which is the one before it."""
    chords = [str(rng.choice(list(CHORDS)))]
    while len(chords) < count:
        chords.append(str(rng.choice([name for name in CHORDS if name != chords[-1]])))
    return chords


def perform(chords: list[str], genre: str) -> Duet:
    """Plays the chords, one a step of the genre, and sings to them."""
    style = GENRES[genre]
    steps = [step for step in range(len(chords)) if style.chords[step % len(style.chords)] == "x"]
    struck = [chords[step] for step in steps]
    backing, lead = np.zeros((2, round((len(chords) * style.step + ENDING) * RATE)))
    accompany(backing, style, chords, [True] * len(chords))
    notes = []
    for midi, step, following in zip(lead_notes(struck), steps, [*steps[1:], len(chords)], strict=True):
        start, end = step * style.step, following * style.step - GAP
        notes.append(SungSyllable(SYLLABLES[midi], midi, round(start, 3), round(end, 3)))
        add(lead, start, sing(SYLLABLES[midi], midi, end + GAP - start, style.voice))
    return Duet(genre, [(chord, round(step * style.step, 3)) for chord, step in zip(struck, steps, strict=True)], notes,
                backing.astype(np.float32), lead.astype(np.float32))
