"""Mel spectrograms as they are, in 8 bits: what models of continuous frames learn from; nothing is fitted.

Why 8 bits: of the two clips that come with the encodec package (10 s at 48 kHz, hop 256, n_fft 2048, 256 bands), bands
as stored are 0.10 dB off in the mean and 0.37 dB at most; as float16, twice the size, 0.004 and 0.02 dB. Griffin-Lim
loses more, and no more for it: bands of its audio are 0.85 dB off for exact magnitudes, for float16 and for 8 bits, of
the one clip, and 2.4, 2.3 and 2.1 dB of the other, whose phases are a matter of chance. 4 bits would show: 1.7 dB as
stored, 1.6 dB of the first clip. Spectra of 4 hops become sound that is nearer to the clip than that of 8 or 16 (0.09,
0.13, 0.17 in mean log magnitude at three resolutions).
"""

import pathlib
from collections.abc import Iterable

import numpy as np

from autosong_jax.audio.spectrum import MelTransform
from autosong_jax.codecs.mel.settings import MelConfig, MelInfo
from autosong_jax.codecs.spectral import SpectralCodec


class Mel(SpectralCodec):
    """See the module's docstring, and `MelConfig` for what frames stand for.

    One that has been trained beside it could find better audio than Griffin-Lim does: `sound` is its place.
    """

    def __init__(self, config: MelConfig):
        self.config, self.info = config, MelInfo.of(config)
        super().__init__(MelTransform(config.sample_rate, config.n_fft, config.hop, config.n_mels), config.hop)

    def from_bands(self, bands: np.ndarray) -> np.ndarray:
        """Magnitudes float32 [T, M] -> uint8 [T, M]."""
        return self.config.of_values(self.config.of_magnitudes(bands))

    def to_bands(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [T, M] -> magnitudes float32 [T, M]."""
        return self.config.magnitudes(self.config.values(frames))

    def quality(self, songs: Iterable[np.ndarray]) -> dict:
        """As of `Codec`, and `stored_db`: mean absolute error of the bands as stored, over those above the floor."""
        songs = list(songs)
        errors = np.concatenate([self._stored_errors(song) for song in songs])
        return super().quality(songs) | {"stored_db": float(errors.mean()) if errors.size else 0.0}

    def _stored_errors(self, song: np.ndarray) -> np.ndarray:
        """Of float32 [1, samples], in dB."""
        bands = self.bands(song)
        stored = self.to_bands(self.from_bands(bands))
        heard = bands > 10 ** (self.config.floor / 20)
        return np.abs(20 * np.log10(stored[heard] / bands[heard]))


def of(info: MelInfo) -> Mel:
    """The codec that is described so. Raises UserError where that contradicts itself."""
    return Mel(info.config)


def load(directory: str | pathlib.Path) -> Mel:
    """Reads what `Mel.save` wrote. Raises UserError where it is missing or damaged."""
    return of(MelInfo.load(directory))
