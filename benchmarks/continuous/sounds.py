"""Restored songs beside true ones: how far their mel spectrograms and their sound are, and which notes are heard."""

from typing import Any, NamedTuple

import numpy as np


class Clip(NamedTuple):
    """Something to restore: audio float32 [samples], the frames [T, M] of its mel spectrogram, and the MIDI numbers of
    the notes that its lyrics ask for, if they are known."""

    audio: np.ndarray
    frames: np.ndarray
    notes: list[int] | None = None


def mel_distance(mel: Any, theirs: np.ndarray, ours: np.ndarray) -> float:
    """The mean distance of frames [T, M] of a `MelConfig` in dB: what is near its floor counts less."""
    decibels = 10 * np.log10(1 + 2 / 10 ** (mel.floor / 20))
    count = min(len(theirs), len(ours))
    return float(decibels * np.abs(mel.values(theirs[:count]) - mel.values(ours[:count])).mean())


def compare(clip: Clip, audio: np.ndarray, codec: Any) -> dict[str, float]:
    """How far audio float [samples] is from the clip: "mel" in dB, "stft", and of known notes "notes", the error rate.

    Args:
      clip: as it was.
      audio: as it is heard now; if it is shorter or longer, it is filled up or cut.
      codec: of mel spectrograms.
    """
    from autosong_jax.audio import io
    from autosong_jax.evaluation.notes import note_error_rate, sung_notes
    from autosong_jax.evaluation.sound import stft_distance

    audio = io.lasting(audio[None], len(clip.audio))
    found = {"mel": mel_distance(codec.config, clip.frames, codec.encode(audio)),
             "stft": stft_distance(clip.audio, audio[0])}
    if clip.notes:
        found["notes"] = note_error_rate(clip.notes, sung_notes(audio[0], codec.sample_rate))
    return found


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Of each number the mean over songs."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
