"""Short-time spectra: audio to mel bands and back, one block of frames at a time.

A signal of F * hop samples has F frames; frame f is windowed around the middle of samples [f * hop, (f + 1) * hop).

By hand, not by librosa: its frames stand around multiples of the hop, it leaves filters empty where bands are narrower
than the distance between two bins, and it transforms a whole song at once. The mel codec's codes depend on this.

Shape letters: F frames, N bins (n_fft // 2 + 1), M bands.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import scipy.fft
import scipy.sparse

# Transform and hop of the three spectra that signals are compared by. Yamamoto et al. (2020) have windows of 10, 25 and
# 50 ms at 24 kHz; here a window is as long as its transform.
RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512))
_BLOCK = 512  # frames transformed at once: small enough to stay in the cache


def mel_filters(sample_rate: int, n_fft: int, num_bands: int) -> scipy.sparse.csr_array:
    """Triangular filters, equally spaced on the scale log(1 + f / 700 Hz), from 0 Hz to half the sample rate.

    A filter is never narrower than the distance between two bins, so that none is empty.

    Returns:
      float32 [M, N], sparse; each filter's weights add up to 1.
    """
    width = sample_rate / n_fft
    edges = 700 * np.expm1(np.linspace(0, np.log1p(sample_rate / 2 / 700), num_bands + 2))
    rising, falling = np.maximum(np.diff(edges), width)[:-1, None], np.maximum(np.diff(edges), width)[1:, None]
    offset = np.arange(n_fft // 2 + 1) * width - edges[1:-1, None]
    filters = np.clip(np.minimum(1 + offset / rising, 1 - offset / falling), 0, None)
    return scipy.sparse.csr_array((filters / filters.sum(axis=1, keepdims=True)).astype(np.float32))


def hann(n_fft: int) -> np.ndarray:
    """The periodic Hann window, float32 [n_fft], scaled so that a sine of amplitude a has a peak magnitude of a."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return (window * 2 / window.sum()).astype(np.float32)


def stft_blocks(audio: np.ndarray, window: np.ndarray, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first frame, complex64 [at most _BLOCK, N]) for float32 `audio` [F * hop]; outside of it is silence."""
    if not len(audio):
        return
    n_fft = len(window)
    before = (n_fft - hop) // 2
    padded = np.pad(audio, (before, n_fft - hop - before))
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    for first in range(0, len(frames), _BLOCK):
        yield first, scipy.fft.rfft(frames[first:first + _BLOCK] * window, axis=1)


def band_magnitudes(audio: np.ndarray, window: np.ndarray, hop: int, filters: scipy.sparse.csr_array) -> np.ndarray:
    """float32 `audio` [F * hop] -> float32 [F, M], the magnitudes that each of `filters` [M, N] lets through."""
    out = np.empty((len(audio) // hop, filters.shape[0]), np.float32)
    for first, spectra in stft_blocks(audio, window, hop):
        out[first:first + len(spectra)] = (filters @ np.abs(spectra).T).T
    return out


@dataclasses.dataclass(frozen=True)
class MelTransform:
    """Audio to the magnitudes of mel bands and back.

    Attributes:
      sample_rate: Hz.
      n_fft: samples that a spectrum sees.
      hop: samples from one spectrum to the next.
      num_bands: M.
    """

    sample_rate: int
    n_fft: int
    hop: int
    num_bands: int

    @functools.cached_property
    def window(self) -> np.ndarray:
        """float32 [n_fft]."""
        return hann(self.n_fft)

    @functools.cached_property
    def filters(self) -> scipy.sparse.csr_array:
        """float32 [M, N]."""
        return mel_filters(self.sample_rate, self.n_fft, self.num_bands)

    def analyse(self, audio: np.ndarray) -> np.ndarray:
        """float32 [F * hop] -> magnitudes float32 [F, M]."""
        return band_magnitudes(audio, self.window, self.hop, self.filters)

    def synthesise(self, bands: np.ndarray) -> np.ndarray:
        """Magnitudes float32 [F, M] -> float32 [F * hop] that has about those; always the same of the same bands."""
        return griffin_lim(unfilter(bands, self.filters), self.window, self.hop)


def unfilter(bands: np.ndarray, filters: scipy.sparse.csr_array, iterations: int = 50) -> np.ndarray:
    """Non-negative magnitudes [F, N] whose filtered values are close to `bands` [F, M], both float32.

    Multiplicative updates for non-negative least squares (Lee and Seung, 2001), from each band spread over its bins.
    """
    back = filters.T.tocsr()
    reach = np.maximum(filters.sum(axis=0), 1e-8)[:, None]
    out = np.empty((len(bands), filters.shape[1]), np.float32)
    for first in range(0, len(bands), _BLOCK):
        target = back @ np.ascontiguousarray(bands[first:first + _BLOCK].T)
        magnitudes = target / reach
        for _ in range(iterations):
            magnitudes *= target / np.maximum(back @ (filters @ magnitudes), 1e-12)
        out[first:first + _BLOCK] = magnitudes.T
    return out


def griffin_lim(magnitudes: np.ndarray, window: np.ndarray, hop: int, *, iterations: int = 32, momentum: float = 0.99,
                seed: int = 0) -> np.ndarray:
    """A signal with the given short-time magnitudes: the fast Griffin-Lim algorithm (Perraudin et al., 2013).

    What the algorithm extrapolates is spectra; extrapolating signals is the same, the transform being linear, and lets
    spectra exist one block at a time.

    Args:
      magnitudes: float32 [F, N].
      window: float32 [n_fft].
      hop: samples between frames.
      iterations: projections made.
      momentum: weight of the extrapolation; 0 is the plain algorithm.
      seed: of the noise that the phases start from.

    Returns:
      float32 [F * hop].
    """
    n_fft, count = len(window), len(magnitudes)
    if not count:
        return np.zeros(0, np.float32)
    weight = np.zeros((count + -(-n_fft // hop), hop), np.float32)
    for first in range(0, count, _BLOCK):
        _overlap_add(np.broadcast_to(window * window, (min(_BLOCK, count - first), n_fft)), first, weight)
    weight = np.maximum(weight, 1e-3 * weight.max())  # the ends of a song are under the rim of few windows
    before = (n_fft - hop) // 2

    signal = np.random.default_rng(seed).standard_normal(count * hop, dtype=np.float32)
    previous = signal
    for _ in range(iterations):
        total = np.zeros_like(weight)
        for first, spectra in stft_blocks(signal + momentum * (signal - previous), window, hop):
            spectra *= magnitudes[first:first + len(spectra)] / np.maximum(np.abs(spectra), 1e-12)
            _overlap_add(scipy.fft.irfft(spectra, n_fft, axis=1) * window, first, total)
        previous, signal = signal, (total / weight).reshape(-1)[before:before + count * hop]
    return signal


def _overlap_add(frames: np.ndarray, first: int, out: np.ndarray) -> None:
    """Adds frames [any, n_fft], numbered from `first`, to `out` [hops, hop], in which frame f begins at row f."""
    hop = out.shape[1]
    parts = -(-frames.shape[1] // hop)
    padded = np.zeros((len(frames), parts * hop), np.float32)
    padded[:, :frames.shape[1]] = frames
    for part, columns in enumerate(np.split(padded, parts, axis=1)):
        out[first + part:first + part + len(frames)] += columns
