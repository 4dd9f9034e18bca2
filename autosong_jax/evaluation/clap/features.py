"""Audio -> the log-mel spectrograms that CLAP's audio tower reads, those of windows of one length. Imports no jax.

Letters: N samples of a window, F frames (N // hop + 1), M bands.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

_SILENCE = 1e-10  # the least power that a band is taken to have: -100 dB


@dataclasses.dataclass(frozen=True)
class LogMel:
    """How windows are made and what is seen of them.

    Attributes:
      sample_rate: Hz.
      samples: N.
      n_fft: samples that a spectrum sees, around multiples of the hop.
      hop: samples from one spectrum to the next.
      bands: M.
      lowest, highest: Hz, where the bands begin and end.
    """

    sample_rate: int
    samples: int
    n_fft: int
    hop: int
    bands: int
    lowest: float
    highest: float

    @property
    def frames(self) -> int:
        """F."""
        return self.samples // self.hop + 1

    @functools.cached_property
    def filters(self) -> np.ndarray:
        """Slaney's triangles, each of the same area: float64 [M, n_fft // 2 + 1]."""
        import librosa

        return librosa.filters.mel(sr=self.sample_rate, n_fft=self.n_fft, n_mels=self.bands, fmin=self.lowest,
                                   fmax=self.highest, dtype=np.float64)

    def windows(self, audio: np.ndarray) -> Iterator[np.ndarray]:
        """The windows of a recording, which together see all of it.

        They follow one another, but the last is moved back to end with the recording: it, too, is of nothing but
        audio, and overlaps the one before. (CLAP was trained on one window a recording, cut at random; scores of one
        song differ much from cut to cut.) What is shorter than a window is repeated as often as it fits in whole, and
        then followed by silence, as in training.

        Args:
          audio: float32 [n] at `sample_rate`, n > 0.

        Yields:
          float32 [N], max(1, ceil(n / N)) times.
        """
        length = len(audio)
        if length < self.samples:
            repeated = np.tile(audio, self.samples // length)
            yield np.pad(repeated, (0, self.samples - len(repeated)))
        for start in range(0, length - length % self.samples, self.samples):
            yield audio[start:start + self.samples]
        if length > self.samples and length % self.samples:
            yield audio[-self.samples:]

    def __call__(self, window: np.ndarray) -> np.ndarray:
        """The power in each band, in dB: float32 [N] -> float32 [F, M]."""
        import librosa

        # In float64, as the released code has it: bands of little power beside others of much would suffer otherwise.
        spectra = librosa.stft(window.astype(np.float64), n_fft=self.n_fft, hop_length=self.hop, pad_mode="reflect")
        power = self.filters @ np.square(np.abs(spectra))
        return (10 * np.log10(np.maximum(power, _SILENCE))).T.astype(np.float32)
