"""Does it sing these lyrics? A rule from syllable to note, a detector of sung notes, and the edit distance of the two.

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

from autosong_jax.evaluation.edits import edit_distance

CONSONANTS = "lmst"
VOWELS = "uoaei"
PITCHES = (60, 62, 64, 67, 69, 72, 74, 76, 79, 81)
"""MIDI numbers of the ten notes, 262 to 880 Hz; at least two semitones apart."""
OCTAVE = 12
"""Semitones."""

_TAG = re.compile(r"\[[^\]\n]*\]")
_SYLLABLE = re.compile(f"[{CONSONANTS}][{VOWELS}]")

WINDOW, HOP = 0.064, 0.01
"""Seconds of a frame, long enough to tell C4 from D4 (32 Hz) and short enough to see a gap; seconds between frames."""
BAND = (60.0, 4000.0)
"""Hz that are looked at: from the bass, whose presence speaks against a voice, to where hisses begin."""
LEAST_RATE = round(2 * BAND[1])
"""Samples a second that notes can be heard in."""
CHANGE = 1.25
"""Evidence that a change of note must gain over the frames that follow: lower counts glitches, higher misses notes."""
SHORTEST = 0.09
"""Seconds; what is shorter is a glitch. The songbook's shortest vowel has 0.14."""


class Note(NamedTuple):
    """A sung note: MIDI number, start and end in seconds."""

    midi: int
    start: float
    end: float


def syllables(text: str) -> list[str]:
    """The syllables of a text, read from left to right; case and section tags are ignored, all else is skipped."""
    return _SYLLABLE.findall(_TAG.sub(" ", text).lower())


def other_words(text: str) -> list[str]:
    """The words of a text that are not made of syllables alone; case and section tags are ignored."""
    words = re.findall(r"\w+", _TAG.sub(" ", text).lower())
    return [word for word in words if not re.fullmatch(f"(?:{_SYLLABLE.pattern})+", word)]


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


def sung_notes(audio: np.ndarray, rate: int, pitches: Sequence[int] = PITCHES) -> list[int]:
    """The MIDI numbers of the notes sung in `audio` (float [samples]), in order; see `detect_notes`."""
    return [note.midi for note in detect_notes(audio, rate, pitches)]


def register(audio: np.ndarray, rate: int) -> float:
    """How high a voice is: the median MIDI number of its notes, of the ten pitches and those an octave higher.

    Of a song whose lyrics are known, this less the median of `lyric_notes` is about 0, or about 12 if it is sung an
    octave higher. NaN if nobody sings. Arguments and errors are those of `detect_notes`.
    """
    notes = sung_notes(audio, rate, sorted({*PITCHES, *(pitch + OCTAVE for pitch in PITCHES)}))
    return float(np.median(notes)) if notes else float("nan")


def detect_notes(audio: np.ndarray, rate: int, pitches: Sequence[int] = PITCHES) -> list[Note]:
    """Finds the notes sung in `audio`, knowing which pitches there may be, but neither lyrics nor rhythm.

    Every frame's magnitude spectrum is compared with that of a harmonic tone at each pitch (cosine similarity, so that
    noise, chords or a bass that dominate a frame speak against all of them). Viterbi decoding over the notes and
    silence gives the sequence. A frame is silent when its best tone is faint beside the loudest of the surrounding
    0.3 s, beside the clip's loud parts, or absolutely: so a note that is sung twice counts twice if a gap lies between.

    Args:
      audio: float [samples], full scale 1.0.
      rate: samples per second, `LEAST_RATE` or more.
      pitches: MIDI numbers, at least two semitones apart.

    Returns:
      The notes in order of time; none in silence, noise or accompaniment alone.

    Raises:
      ValueError: the audio is not one-dimensional or not finite, or the rate is below `LEAST_RATE`.
    """
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 1 or rate < LEAST_RATE:
        raise ValueError(f"expected audio [samples] at {LEAST_RATE} Hz or more, got the shape {audio.shape} at "
                         f"{rate} Hz")
    if not np.isfinite(audio).all():
        raise ValueError("the audio holds NaN or infinite samples")
    states = _viterbi(_evidence(*_compare(audio, rate, pitches)), CHANGE)
    edges = np.flatnonzero(np.diff(states, prepend=-1, append=-1))
    return [Note(pitches[states[a]], round(a * HOP, 3), round(b * HOP, 3)) for a, b in itertools.pairwise(edges)
            if states[a] < len(pitches) and (b - a) * HOP >= SHORTEST]


def _compare(audio: np.ndarray, rate: int, pitches: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Compares the frames, centred on 0, HOP, 2 HOP, ... seconds, with a tone at each pitch.

    Returns:
      (cosine similarity, amplitude of the tone in the frame), both float [frames, pitches].
    """
    size = round(WINDOW * rate)
    window = np.hanning(size) * 2 / size
    hertz = np.fft.rfftfreq(size, 1 / rate)
    band = (hertz >= BAND[0]) & (hertz <= BAND[1])

    time, harmonics = np.arange(size) / rate, np.arange(1, 5)[:, None]
    tones = [(np.sin(2 * np.pi * frequency(midi) * harmonics * time) / harmonics).sum(0) for midi in pitches]
    tones = np.abs(np.fft.rfft(tones * window))[:, band].T
    tones /= np.linalg.norm(tones, axis=0)

    frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio, (size // 2, size)), size)
    starts = np.arange(0, len(audio) / rate, HOP) * rate
    similarity, amplitude = np.zeros((2, len(starts), len(pitches)))
    for first in range(0, len(starts), 500):  # 5 s at a time: an hour's spectra would not fit in memory
        block = slice(first, first + 500)
        spectra = np.abs(np.fft.rfft(frames[starts[block].round().astype(int)] * window))[:, band]
        amplitude[block] = spectra @ tones
        similarity[block] = amplitude[block] / (np.linalg.norm(spectra, axis=1, keepdims=True) + 1e-9)
    return similarity, amplitude


def _evidence(similarity: np.ndarray, amplitude: np.ndarray) -> np.ndarray:
    """How much speaks for each pitch and, last, for silence; float [frames, pitches + 1]."""
    from scipy.ndimage import maximum_filter1d

    if not len(amplitude):
        return np.zeros((0, amplitude.shape[1] + 1))
    level = amplitude.max(axis=1)
    nearby = maximum_filter1d(level, round(0.3 / HOP))
    faint = level < np.maximum(np.maximum(0.2 * nearby, 0.15 * np.percentile(level, 95)), 1e-3)
    silence = np.where(faint, 1.3, 0.45)  # 1.3 beats any similarity; 0.45 is too little for a voice
    return np.concatenate([similarity, silence[:, None]], axis=1)


def _viterbi(evidence: np.ndarray, change: float) -> np.ndarray:
    """The states, int [frames], of the greatest sum of evidence [frames, states] less `change` for every change."""
    frames, count = evidence.shape
    before = np.zeros((frames, count), int)
    score = np.zeros(count)
    for frame in range(frames):
        best = int(score.argmax())
        before[frame] = np.where(score < score[best] - change, best, np.arange(count))
        score = np.maximum(score, score[best] - change) + evidence[frame]
    states = np.zeros(frames, int)
    state = int(score.argmax())
    for frame in reversed(range(frames)):
        states[frame] = state
        state = before[frame, state]
    return states


def align(reference: Sequence[int], hypothesis: Sequence[int]) -> list[tuple[int | None, int | None]]:
    """A shortest edit path: pairs of positions in (reference, hypothesis), None where one has no partner.

    A deletion, an insertion and a substitution cost 1 each (Levenshtein, 1966); equal notes are paired in preference.
    """
    rows, columns = len(reference), len(hypothesis)
    cost = np.add.outer(np.arange(rows + 1), np.arange(columns + 1))
    for i in range(rows):
        for j in range(columns):
            swap = cost[i, j] + (reference[i] != hypothesis[j])
            cost[i + 1, j + 1] = min(swap, cost[i, j + 1] + 1, cost[i + 1, j] + 1)
    pairs, i, j = [], rows, columns
    while i or j:
        if i and j and reference[i - 1] == hypothesis[j - 1] and cost[i, j] == cost[i - 1, j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
            pairs.append((i, None))
        elif j and cost[i, j] == cost[i, j - 1] + 1:
            j -= 1
            pairs.append((None, j))
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def note_error_rate(reference: Sequence[int], hypothesis: Sequence[int]) -> float:
    """Edit distance between two note sequences over the reference's length: 0 is perfect, and it can exceed 1.

    Raises:
      ValueError: the reference is empty.
    """
    if not len(reference):
        raise ValueError("the reference has no notes: the lyrics need syllables of the songbook, like `mila tose`")
    return edit_distance(reference, hypothesis) / len(reference)
