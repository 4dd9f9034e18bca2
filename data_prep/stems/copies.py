"""Copies of a song at other pitches and tempos, by the phase vocoder of librosa."""

from collections.abc import Iterator

import numpy as np

from data_prep.stems.options import Options


def copy_names(options: Options) -> list[str]:
    """What the copies are called, in the order in which `copies` gives them."""
    return [*(f"pitch{semitones:+.10g}" for semitones in options.pitch),
            *(f"tempo{speed:.10g}" for speed in options.tempo)]


def copies(audio: np.ndarray, options: Options) -> Iterator[np.ndarray]:
    """Each copy that the options ask for, of float32 [tracks, samples] at `options.sample_rate`.

    All tracks go through the same frames, so they stay together to the sample. One moved by n semitones is of the same
    length, and one at r times the speed of round(samples / r).
    """
    for semitones in options.pitch:
        yield _moved(audio, semitones, options)
    for speed in options.tempo:
        yield _stretched(audio, speed, options)


def _stretched(audio: np.ndarray, speed: float, options: Options) -> np.ndarray:
    import librosa

    # One track at a time: their spectra are what takes the memory.
    return np.stack([librosa.effects.time_stretch(track, rate=speed, n_fft=options.n_fft, hop_length=options.hop)
                     for track in audio])


def _moved(audio: np.ndarray, semitones: float, options: Options) -> np.ndarray:
    import librosa

    return np.stack([librosa.effects.pitch_shift(track, sr=options.sample_rate, n_steps=semitones, n_fft=options.n_fft,
                                                 hop_length=options.hop, res_type="soxr_hq") for track in audio])
