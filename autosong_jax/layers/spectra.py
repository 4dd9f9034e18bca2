"""Short-time spectra under a gradient: what `audio.spectrum` computes on the host, with its framing and its scale.

Signals lie in the last dimension; before it may stand any others. All of it is float32, whatever a model computes in.

Letters: S samples, F frames, N bins (n_fft // 2 + 1), M bands.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array

from autosong_jax.audio import spectrum
from autosong_jax.audio.spectrum import RESOLUTIONS

_FLOOR = 1e-4  # -80 dB of a full-scale sine: logarithms of what is quieter would say more of rounding than of sound


def framed(audio: Array, n_fft: int, hop: int) -> Array:
    """[..., F * hop] -> [..., F, n_fft]: frame f around the middle of its hop; outside of the signal is silence."""
    before = (n_fft - hop) // 2
    count, parts = audio.shape[-1] // hop, -(-n_fft // hop)
    around = [(0, 0)] * (audio.ndim - 1)
    padded = jnp.pad(audio, [*around, (before, parts * hop - hop - before)])
    rows = padded.reshape(*audio.shape[:-1], -1, hop)
    return jnp.concatenate([rows[..., part:part + count, :] for part in range(parts)], axis=-1)[..., :n_fft]


def overlap_add(frames: Array, hop: int) -> Array:
    """[..., F, n_fft] -> [..., (F + ceil(n_fft / hop) - 1) * hop], the sum of frames of which f begins at f * hop."""
    *outer, count, n_fft = frames.shape
    parts, around = -(-n_fft // hop), [(0, 0)] * len(outer)
    padded = jnp.pad(frames, [*around, (0, 0), (0, parts * hop - n_fft)])
    columns = padded.reshape(*outer, count, parts, hop)
    total = sum(jnp.pad(columns[..., part, :], [*around, (part, parts - 1 - part), (0, 0)]) for part in range(parts))
    return total.reshape(*outer, -1)


def stft(audio: Array, n_fft: int, hop: int) -> Array:
    """float32 [..., F * hop] -> complex64 [..., F, N]; a sine of amplitude a has a peak magnitude of a."""
    return jnp.fft.rfft(framed(audio.astype(jnp.float32), n_fft, hop) * spectrum.hann(n_fft))


def istft(spectra: Array, n_fft: int, hop: int, inside: Array | None = None) -> Array:
    """The signal whose frames are nearest to those of given spectra (Griffin and Lim, 1984).

    Args:
      spectra: complex64 [..., F, N].
      n_fft: samples of a frame, at least `hop`.
      hop: samples between frames.
      inside: bool [..., F], which frames there are; all by default. The others' samples have no meaning.

    Returns:
      float32 [..., F * hop]. Of spectra that are a signal's it is that signal.
    """
    window, count = spectrum.hann(n_fft), spectra.shape[-2]
    inside = jnp.ones(count, bool) if inside is None else inside
    frames = jnp.fft.irfft(spectra, n_fft) * window
    total = overlap_add(jnp.where(inside[..., None], frames, 0), hop)
    weight = overlap_add(jnp.where(inside[..., None], window * window, 0), hop)
    before = (n_fft - hop) // 2
    # Where one frame alone reaches, and only with its rim, there is nothing to divide by.
    return (total / jnp.maximum(weight, 1e-3 * (window * window).max()))[..., before:before + count * hop]


def band_magnitudes(audio: Array, sample_rate: int, n_fft: int, hop: int, num_bands: int) -> Array:
    """float32 [..., F * hop] -> float32 [..., F, M], the magnitudes that the filters of `spectrum` let through."""
    return jnp.abs(stft(audio, n_fft, hop)) @ _filters(sample_rate, n_fft, num_bands)


def stft_distance(theirs: Array, ours: Array, share: Array | float = 1.0,
                  resolutions: tuple[tuple[int, int], ...] = RESOLUTIONS) -> tuple[Array, Array]:
    """How far signals are from others by their short-time magnitudes (Yamamoto et al. 2020), mean of all resolutions.

    Args:
      theirs, ours: float32 [..., S], what is to be met and what is there.
      share: float [...], of the samples, from the first on, which count; of the others both are taken as silence.
      resolutions: (n_fft, hop) of each spectrum.

    Returns:
      float32 [...] each: the spectral convergence, |A - B| / |A| by Frobenius norms; and the mean distance of the
      logarithms, over the frames that count. A magnitude below -80 dB counts as one of -80 dB in what is divided by and
      in logarithms.
    """
    samples = jnp.round(jnp.asarray(share, jnp.float32) * ours.shape[-1])
    counts = jnp.arange(ours.shape[-1]) < samples[..., None]
    convergences, distances = [], []
    for n_fft, hop in resolutions:
        padding = [(0, 0)] * (ours.ndim - 1) + [(0, -ours.shape[-1] % hop)]
        a, b = (jnp.abs(stft(jnp.pad(jnp.where(counts, x, 0), padding), n_fft, hop)) for x in (theirs, ours))
        frames = jnp.maximum(jnp.ceil(samples / hop), 1)
        convergences.append(_norm(a - b) / jnp.maximum(_norm(a), _FLOOR * jnp.sqrt(frames * a.shape[-1])))
        logs = jnp.abs(jnp.log(jnp.maximum(a, _FLOOR)) - jnp.log(jnp.maximum(b, _FLOOR)))
        distances.append(logs.mean(axis=-1).sum(axis=-1) / frames)
    return sum(convergences) / len(resolutions), sum(distances) / len(resolutions)


def _norm(magnitudes: Array) -> Array:
    """[..., F, N] -> [...]; its gradient at 0 is 0."""
    squared = jnp.square(magnitudes).sum(axis=(-2, -1))
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


@functools.cache
def _filters(sample_rate: int, n_fft: int, num_bands: int) -> np.ndarray:
    """float32 [N, M], of `spectrum.mel_filters`."""
    return np.ascontiguousarray(spectrum.mel_filters(sample_rate, n_fft, num_bands).toarray().T)
