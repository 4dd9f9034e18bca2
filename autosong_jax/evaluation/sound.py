"""What can be said of sound without knowing which notes it should have: how far it is from other sound, how loud it is,
how much of it is silent. Signals are float [samples], full scale 1.0.
"""

import numpy as np

from autosong_jax.audio import spectrum
from autosong_jax.audio.spectrum import RESOLUTIONS

_FLOOR = 1e-4  # -80 dB, which a magnitude below counts as in logarithms
_FAINT = 1e-6  # -120 dB: what is quieter is as loud


def stft_distance(theirs: np.ndarray, ours: np.ndarray, resolutions: tuple[tuple[int, int], ...] = RESOLUTIONS
                  ) -> float:
    """How far a signal is from another of one length by short-time magnitudes (Yamamoto et al. 2020): spectral
    convergence plus mean distance of the logarithms, the mean over all resolutions. It is 0 for equal ones.

    `layers.spectra.stft_distance` has both terms under a gradient.

    Args:
      theirs, ours: what is to be met, and what is there.
      resolutions: (n_fft, hop) of each spectrum.
    """
    if len(theirs) != len(ours) or not len(ours):
        raise ValueError(f"signals of {len(theirs)} and {len(ours)} samples: expected as many of both, and some")
    distances = []
    for n_fft, hop in resolutions:
        a, b = (_magnitudes(audio, n_fft, hop) for audio in (theirs, ours))
        loudest = max(float(np.linalg.norm(a)), _FLOOR * a.size ** 0.5)
        logarithms = np.abs(np.log(np.maximum(a, _FLOOR)) - np.log(np.maximum(b, _FLOOR)))
        distances.append(float(np.linalg.norm(a - b)) / loudest + float(logarithms.mean()))
    return sum(distances) / len(distances)


def _magnitudes(audio: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """float32 [frames, bins]; the signal is filled up to whole hops."""
    padded = np.pad(np.asarray(audio, np.float32), (0, -len(audio) % hop))
    return np.concatenate([np.abs(block) for _, block in spectrum.stft_blocks(padded, spectrum.hann(n_fft), hop)])


def levels(audio: np.ndarray, rate: int, seconds: float) -> np.ndarray:
    """How loud each stretch of a signal is: RMS in dB beside a square wave of full scale, at least -120.

    Args:
      audio: see the module's docstring.
      rate: samples per second.
      seconds: of a stretch; what is left after the last whole one is not looked at.

    Returns:
      float64 [stretches].
    """
    size = round(seconds * rate)
    stretches = np.asarray(audio[:len(audio) // size * size], np.float64).reshape(-1, size)
    return 20 * np.log10(np.maximum(np.sqrt((stretches**2).mean(axis=1)), _FAINT))


def silence(audio: np.ndarray, rate: int, seconds: float, below: float = -50.0, frame: float = 0.05) -> np.ndarray:
    """How much of each stretch of a signal is silent: the share of its frames whose RMS is lower than `below` dB.

    Args:
      audio, rate, seconds: as of `levels`.
      below: dB, as `levels` has them.
      frame: seconds of a frame; a stretch has the whole ones within it.

    Returns:
      float64 [stretches], 0 to 1.
    """
    size, inside = round(seconds * rate), int(seconds / frame + 1e-6)
    parts = audio[:len(audio) // size * size].reshape(-1, size)
    return np.array([(levels(part, rate, frame)[:inside] < below).mean() for part in parts])
