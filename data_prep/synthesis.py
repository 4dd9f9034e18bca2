"""The songbook's sound: a formant voice, a few instruments and drums, as numpy arrays of samples.

Everything is additive synthesis at `RATE`: a harmonic's loudness is read off the vowel's formants, so that no filter
runs and a second of song takes a few milliseconds.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from autosong_jax.evaluation.notes import frequency

RATE = 16_000
"""Samples per second of everything in the songbook."""

GAP = 0.06
"""Seconds of closure after every syllable: without it, a repeated note could not be counted."""

FORMANTS = {"a": (800, 1150, 2800), "e": (550, 1900, 2600), "i": (350, 2300, 3000), "o": (480, 850, 2500),
            "u": (320, 780, 2300)}
"""Hz of each vowel's resonances, of a high voice."""


@dataclass(frozen=True)
class Voice:
    """A singer: `size` scales the formants (a small head is above 1), `vibrato` is the depth in semitones."""

    size: float = 1.0
    vibrato: float = 0.2


@dataclass(frozen=True)
class SungSyllable:
    """A syllable of a score: what is sung, at which MIDI note, and from when to when in seconds."""

    syllable: str
    midi: int
    start: float
    end: float


def as_json(notes: Sequence[SungSyllable]) -> str:
    """A score as a JSON array, a syllable a line."""
    return "[" + ",\n".join(json.dumps(vars(note)) for note in notes) + "]\n"


@dataclass(frozen=True)
class Instrument:
    """What plays the chords: amplitudes of the partials, and the seconds in which a note decays to 1/e."""

    partials: tuple[float, ...]
    decay: float
    attack: float = 0.005


def sing(syllable: str, midi: int, seconds: float, voice: Voice) -> np.ndarray:
    """One sung syllable, float64 [samples]: consonant, vowel, and `GAP` of silence, in `seconds` altogether.

    The vowels of all notes are equally loud (RMS 0.2).
    """
    samples, gap = round(seconds * RATE), round(GAP * RATE)
    consonant, vowel = syllable
    start = round({"l": 0.06, "m": 0.06, "s": 0.08, "t": 0.05}[consonant] * RATE)
    out = np.zeros(samples)
    out[start : samples - gap] = _vowel(vowel, midi, samples - gap - start, voice)
    time = np.arange(start) / RATE
    pitch = 2 * np.pi * frequency(midi) * time
    if consonant == "m":
        out[:start] += 0.036 * _fade(np.sin(pitch), 0.01, 0.01)
    elif consonant == "l":
        out[:start] += 0.036 * _fade(np.sin(pitch) + 0.6 * np.sin(2 * pitch), 0.01, 0.01)
    elif consonant == "s":
        out[:start] += 0.04 * _fade(noise(start, 4500, 7500), 0.02, 0.01)
    elif consonant == "t":
        burst = round(0.02 * RATE)
        out[start - burst : start] += 0.12 * _fade(noise(burst, 2500, 6500), 0.001, 0.012)
    return out


def _vowel(vowel: str, midi: int, samples: int, voice: Voice) -> np.ndarray:
    """A sung vowel with vibrato that sets in after 0.15 s; float64 [samples], RMS 0.2."""
    time = np.arange(samples) / RATE
    vibrato = voice.vibrato * np.clip(time / 0.15 - 1, 0, 1) * np.sin(2 * np.pi * 5.5 * time)
    pitch = frequency(midi + vibrato)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    harmonics = np.arange(1, int(0.45 * RATE / frequency(midi)) + 1)
    gains = _formant_gain(vowel, harmonics * frequency(midi), frequency(midi), voice) / harmonics
    gains *= 0.2 * np.sqrt(2) / np.linalg.norm(gains)
    return _fade(gains @ np.sin(harmonics[:, None] * phase), 0.015, 0.03)


def _formant_gain(vowel: str, hertz: np.ndarray, lowest: float, voice: Voice) -> np.ndarray:
    """Gain of the vowel's resonances at `hertz`; the first is never below the note, as high singers tune it."""
    gain = np.full(hertz.shape, 0.02)
    for formant, width, height in zip(FORMANTS[vowel], (150, 180, 250), (1.0, 0.7, 0.4), strict=True):
        centre = max(formant * voice.size, lowest) if height == 1.0 else formant * voice.size
        gain += height / np.sqrt(1 + ((hertz - centre) / width) ** 2)
    return gain


def strike(instrument: Instrument, midi: int, seconds: float) -> np.ndarray:
    """One note of an instrument, float64 [samples], released at the end; peak about 1."""
    time = np.arange(round(seconds * RATE)) / RATE
    partials = np.arange(1, len(instrument.partials) + 1)
    wave = np.asarray(instrument.partials) @ np.sin(2 * np.pi * frequency(midi) * partials[:, None] * time)
    return _fade(wave * np.exp(-time / instrument.decay), instrument.attack, 0.03) / sum(instrument.partials)


def drum(kind: str) -> np.ndarray:
    """One stroke of the `kick`, `snare` or `hat`, float64 [samples], peak about 1."""
    if kind == "kick":
        time = np.arange(round(0.12 * RATE)) / RATE
        return np.sin(2 * np.pi * (50 * time + 2.0 * (1 - np.exp(-time / 0.03)))) * np.exp(-time / 0.04)
    low, high, decay = {"snare": (1500, 5000, 0.025), "hat": (6000, 7900, 0.012)}[kind]
    samples = round(5 * decay * RATE)
    return noise(samples, low, high) / 3 * np.exp(-np.arange(samples) / RATE / decay)


@lru_cache(maxsize=64)
def noise(samples: int, low: float, high: float) -> np.ndarray:
    """Noise between two frequencies in Hz, float64 [samples], RMS 1; the same at every call."""
    rng = np.random.default_rng(samples)
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    hertz = np.fft.rfftfreq(samples, 1 / RATE)
    out = np.fft.irfft(np.where((hertz >= low) & (hertz <= high), spectrum, 0), samples)
    return out / np.sqrt(np.mean(out**2))


def _fade(audio: np.ndarray, attack: float, release: float) -> np.ndarray:
    """`audio` with straight fades of so many seconds at both ends."""
    position = np.arange(len(audio)) / RATE
    return audio * np.minimum(np.minimum(1, position / attack), np.minimum(1, position[::-1] / release))
