"""Does it sing these lyrics? The songbook's rule from syllable to note, a detector of sung notes, and their edit distance.

The rule. A syllable is one consonant of `l m s t` and one vowel of `a e i o u`. The vowel picks a pair of
neighbouring notes of the C major pentatonic scale, `u` the lowest and `i` the highest; the voiced consonants `l m`
sing the pair's lower note, the voiceless `s t` its upper one. It holds in every song and every genre, so that any text
made of these syllables has one right melody (`lyric_notes`), which can be compared with what is heard in any audio
(`sung_notes`) by `note_error_rate`.
"""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONSONANTS = "lmst"
VOWELS = "uoaei"
PITCHES = (60, 62, 64, 67, 69, 72, 74, 76, 79, 81)
"""MIDI numbers of the ten notes, 262 to 880 Hz; at least two semitones apart."""

_TAG = re.compile(r"\[[^\]\n]*\]")
_SYLLABLE = re.compile(f"[{CONSONANTS}][{VOWELS}]")

WINDOW = 0.064
"""Seconds of a frame: long enough to tell C4 from D4 (32 Hz), short enough to see the gap between two notes."""
HOP = 0.01
BAND = (60.0, 4000.0)
"""Hz that are looked at: from the bass, whose presence speaks against a voice, to where consonants begin."""


class Note(NamedTuple):
    """A sung note: MIDI number, start and end in seconds."""

    midi: int
    start: float
    end: float


def syllables(text: str) -> list[str]:
    """The syllables of a text, read from left to right; case and section tags are ignored, all else is skipped."""
    return _SYLLABLE.findall(_TAG.sub(" ", text).lower())


def syllable_note(syllable: str) -> int:
    """The MIDI number at which a syllable is sung (the rule in this module's docstring)."""
    consonant, vowel = syllable
    return PITCHES[2 * VOWELS.index(vowel) + (consonant in "st")]


def lyric_notes(lyrics: str) -> list[int]:
    """The MIDI numbers of a lyric's syllables, in order."""
    return [syllable_note(syllable) for syllable in syllables(lyrics)]


def frequency(midi: float) -> float:
    """Hz of a MIDI number in equal temperament, A4 = 69 = 440 Hz."""
    return 440.0 * 2.0 ** ((midi - 69) / 12)


def sung_notes(audio: np.ndarray, rate: int) -> list[int]:
    """The MIDI numbers of the notes sung in `audio` (float32 [samples]), in order; see `detect_notes`."""
    return [note.midi for note in detect_notes(audio, rate)]


def detect_notes(audio: np.ndarray, rate: int) -> list[Note]:
    """Finds the notes sung in `audio`, knowing the ten pitches but neither lyrics nor rhythm.

    Every frame's magnitude spectrum is compared with that of a harmonic tone at each pitch. A frame is sung where one
    tone explains most of the spectrum (cosine similarity), where that tone is not much weaker than the loudest one
    nearby, and where it is not a mere trace of the clip's loudest. Viterbi decoding over ten notes and silence then
    gives the sequence; a note sung twice is counted twice when a gap lies between.

    Args:
      audio: float [samples], any scale up to full scale 1.0.
      rate: samples per second, at least 8000.

    Returns:
      The notes in order of time.

    Raises:
      ValueError: the audio is not one-dimensional, or the rate is below 8000.
    """
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 1 or rate < 2 * BAND[1]:
        raise ValueError(f"expected audio [samples] at 8000 Hz or more, got shape {audio.shape} at {rate} Hz")
    similarity, amplitude = _match(audio, rate)
    states = _decode(_evidence(similarity, amplitude))
    edges = np.flatnonzero(np.diff(states, prepend=-1, append=-1))
    return [Note(PITCHES[states[a]], round(a * HOP, 3), round(b * HOP, 3))
            for a, b in itertools.pairwise(edges) if states[a] < len(PITCHES) and b - a >= 5]


def _match(audio: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine similarity of every frame with every pitch's tone, and that tone's amplitude; both [frames, pitches]."""
    size = round(WINDOW * rate)
    window = np.hanning(size).astype(np.float32)
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    band = (frequencies >= BAND[0]) & (frequencies <= BAND[1])

    centres = (np.arange(0, len(audio) / rate, HOP) * rate).round().astype(int)
    frames = np.pad(audio, size)[centres[:, None] + size // 2 + np.arange(size)]
    spectrum = np.abs(np.fft.rfft(frames * window, axis=-1))[:, band] / window.sum()

    time = np.arange(size) / rate
    tones = []
    for midi in PITCHES:
        harmonics = np.arange(1, 5)[:, None]
        tone = (np.cos(2 * np.pi * frequency(midi) * harmonics * time) / harmonics).sum(0)
        tones.append(np.abs(np.fft.rfft(tone * window))[band])
    tones = np.stack(tones, axis=1)
    tones /= np.linalg.norm(tones, axis=0)
    amplitude = spectrum @ tones
    return amplitude / (np.linalg.norm(spectrum, axis=1, keepdims=True) + 1e-9), amplitude


def _evidence(similarity: np.ndarray, amplitude: np.ndarray) -> np.ndarray:
    """Log-likelihoods [frames, pitches + 1], the last state being silence."""
    from scipy.ndimage import maximum_filter1d

    level = amplitude.max(1, initial=0.0)
    nearby = maximum_filter1d(level, round(0.3 / HOP)) if len(level) else level
    loudest = np.percentile(level, 95) if len(level) else 0.0
    floor = np.maximum(np.maximum(0.35 * nearby, 0.1 * loudest), 1e-3)
    silent = np.where(level < floor, 1.0, 0.6)
    return np.concatenate([similarity, silent[:, None]], axis=1) * 20


def _decode(evidence: np.ndarray, change: float = 12.0) -> np.ndarray:
    """The best state of every frame (Viterbi), each change of state costing `change`; int [frames]."""
    frames, count = evidence.shape
    score = np.zeros(count)
    back = np.zeros((frames, count), int)
    for t in range(frames):
        best = int(score.argmax())
        moved = score[best] - change > score
        back[t] = np.where(moved, best, np.arange(count))
        score = np.where(moved, score[best] - change, score) + evidence[t]
    states = np.zeros(frames, int)
    state = int(score.argmax())
    for t in range(frames - 1, -1, -1):
        states[t] = state
        state = back[t, state]
    return states


def align(reference: Sequence[int], hypothesis: Sequence[int]) -> list[tuple[int | None, int | None]]:
    """A shortest edit path: pairs of positions in (reference, hypothesis), None where one has no partner.

    Insertions, deletions and substitutions cost 1 each (Levenshtein, 1966).
    """
    rows, columns = len(reference), len(hypothesis)
    cost = np.zeros((rows + 1, columns + 1), int)
    cost[:, 0] = np.arange(rows + 1)
    cost[0, :] = np.arange(columns + 1)
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            differs = reference[i - 1] != hypothesis[j - 1]
            cost[i, j] = min(cost[i - 1, j - 1] + differs, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    pairs = []
    i, j = rows, columns
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (reference[i - 1] != hypothesis[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]


def note_error_rate(reference: Sequence[int], hypothesis: Sequence[int]) -> float:
    """Edit distance between two note sequences over the reference's length; 0 is perfect, it can exceed 1.

    Raises:
      ValueError: the reference is empty.
    """
    if not len(reference):
        raise ValueError("the reference has no notes: a note error rate needs lyrics with syllables of the songbook")
    wrong = sum(i is None or j is None or reference[i] != hypothesis[j] for i, j in align(reference, hypothesis))
    return wrong / len(reference)
