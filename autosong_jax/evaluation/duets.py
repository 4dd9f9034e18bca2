"""Does it listen? A rule from the chords that a backing plays to the notes of the lead, which nothing else tells.

The rule. On every stroke of a chord the lead sings one note of that chord. Each of the five chords has two of the ten
pitches for itself (`LEAD`): its first stroke takes the lower one, and as long as the chord stays they alternate. So the
right notes of any backing follow from its chords (`lead_notes`), and whoever does not hear which chords it plays can
only guess among five at every change.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from autosong_jax.evaluation.notes import note_error_rate, sung_notes

LEAD = {"C": (60, 67), "Dm": (62, 69), "F": (72, 81), "G": (74, 79), "Am": (64, 76)}
"""MIDI numbers by the name of a chord; all are notes of it."""


def lead_notes(chords: Sequence[str]) -> list[int]:
    """The MIDI numbers that the lead sings.

    Args:
      chords: what each stroke of a backing plays, names in `LEAD`, in order.
    """
    return [note for chord, strokes in itertools.groupby(chords)
            for note, _ in zip(itertools.cycle(LEAD[chord]), strokes)]


def lead_error_rate(chords: Sequence[str], audio: np.ndarray, rate: int) -> float:
    """The note error rate of a lead that is heard alone, beside what the rule gives; see `notes.note_error_rate`.

    Args:
      chords: as of `lead_notes`; at least one.
      audio: float [samples].
      rate: samples a second, 8000 or more.
    """
    return note_error_rate(lead_notes(chords), sung_notes(audio, rate))
