"""Mel spectrograms as they are, in 8 bits: what models of continuous frames learn from; nothing is fitted.

Why 8 bits: of the two clips that come with the encodec package (10 s at 48 kHz, hop 256, n_fft 2048, 256 bands), bands
as stored are 0.10 dB off in the mean and 0.37 dB at most; as float16, twice the size, 0.004 and 0.02 dB. Griffin-Lim
loses more, and no more for it: bands of its audio are 0.85 dB off for exact magnitudes, for float16 and for 8 bits, of
the one clip, and 2.4, 2.3 and 2.1 dB of the other, whose phases are a matter of chance. 4 bits would show: 1.7 dB as
stored, 1.6 dB of the first clip. Spectra of 4 hops become sound that is nearer to the clip than that of 8 or 16 (0.09,
0.13, 0.17 in mean log magnitude at three resolutions).
"""

import pathlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from autosong_jax.audio.spectrum import MelTransform
from autosong_jax.codecs.codec import Codec
from autosong_jax.codecs.mel.settings import VOCODER, MelConfig, MelInfo
from autosong_jax.codecs.spectral import SpectralCodec

if TYPE_CHECKING:  # which imports JAX
    from autosong_jax.codecs.mel.vocoder import Vocoder

_BLOCK = 1024  # frames that a vocoder decodes at a time


class Mel(SpectralCodec):
    """See the module's docstring, and `MelConfig` for what frames stand for. Audio is found by Griffin-Lim."""

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


class VocodedMel(Mel):
    """Mel spectrograms that a vocoder sings, which was trained to; its audio is cut off at +-1."""

    exact_blocks = True

    def __init__(self, config: MelConfig, vocoder: "Vocoder"):
        """vocoder: of the same mels; see `saved`."""
        super().__init__(config)
        self.vocoder = vocoder

    decode = Codec.decode

    def decode_blocks(self, blocks: Iterable[np.ndarray], block_frames: int | None = None,
                      loudness: float | None = None) -> Iterator[np.ndarray]:
        """See `Codec`."""
        values = (self.config.values(self.checked(block))[None] for block in blocks)
        return (audio.clip(-1, 1) for audio in self.vocoder.decode_blocks(values, block_frames or _BLOCK))


def of(info: MelInfo) -> Mel:
    """The codec that is described so. Raises UserError where that contradicts itself."""
    return Mel(info.config)


def load(directory: str | pathlib.Path) -> Mel:
    """Reads what `Mel.save` and, beside it, `saved.save` wrote. Raises UserError where it is missing or damaged."""
    config = MelInfo.load(directory).config
    if not (pathlib.Path(directory) / VOCODER).is_dir():
        return Mel(config)
    from autosong_jax.codecs.mel import saved  # which imports JAX

    return VocodedMel(config, saved.load(directory, config))
