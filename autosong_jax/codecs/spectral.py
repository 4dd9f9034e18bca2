"""Codecs whose frames are made of the mel bands of audio, and which find audio for those by Griffin-Lim.

Letters: T frames, D bands of all spectra of a frame.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from autosong_jax.audio.spectrum import MelTransform
from autosong_jax.codecs.blocks import with_context
from autosong_jax.codecs.codec import Codec

_BLOCK = 2048  # frames
_CONTEXT_SECONDS = 0.32  # on either side of a block


class SpectralCodec(Codec):
    """A frame is of its own hop's spectra alone; a subclass says what it is of their bands, and they of it.

    Attributes:
      transform: the spectra.
      hop: samples a frame, a multiple of those between spectra.
    """

    exact_blocks = False

    def __init__(self, transform: MelTransform, hop: int):
        self.transform, self.hop = transform, hop

    def from_bands(self, bands: np.ndarray) -> np.ndarray:
        """Magnitudes float32 [T, D], those of a frame's spectra one after another -> frames [T, width]."""
        raise NotImplementedError

    def to_bands(self, frames: np.ndarray) -> np.ndarray:
        """Frames [T, width], as `checked` gives them -> magnitudes float32 [T, D]."""
        raise NotImplementedError

    def bands(self, audio: np.ndarray) -> np.ndarray:
        """float32 [1, samples] -> magnitudes float32 [ceil(samples / hop), D]."""
        return bands_of(self.checked_audio(audio), self.transform, self.hop)

    def sound(self, frames: np.ndarray) -> np.ndarray:
        """Frames [T, width], as `checked` gives them -> float32 [T * hop], however loud."""
        return self.transform.synthesise(self.to_bands(frames).reshape(-1, self.transform.num_bands))

    def decode(self, frames: np.ndarray) -> np.ndarray:
        """Frames [T, width] -> float32 [1, T * hop] within +-1; the same frames give the same samples.

        Raises:
          ValueError: the shape is another one, or a number is out of range.
        """
        audio = self.sound(self.checked(frames))
        return audio[None] / max(1.0, float(np.abs(audio).max(initial=0)))

    def encode_blocks(self, blocks: Iterable[np.ndarray], loudness: float | None = None) -> Iterator[np.ndarray]:
        """See `Codec`: in memory that does not grow with the song; ceil(samples / hop) frames."""
        around = -(-self.transform.n_fft // self.hop)
        signal = (self.checked_audio(block)[..., None] for block in blocks)
        for x, _, rest in with_context(signal, _BLOCK, around, around, self.hop):
            bands = self.bands(x[..., 0])[around:-around]
            yield self.from_bands(bands[:-(-rest // self.hop)])

    def decode_blocks(self, blocks: Iterable[np.ndarray], block_frames: int | None = None,
                      loudness: float | None = None) -> Iterator[np.ndarray]:
        """See `Codec`: in memory that does not grow with the song.

        Each block is decoded by itself with 0.32 s on either side, and faded into the next over the 0.32 s that they
        share. What is one block is what `decode` gives. Otherwise Griffin-Lim finds other phases: samples differ from
        those of `decode`, and of blocks of 0.4 s the bands are off by up to 1 dB more. Audio that would exceed +-1
        lowers the level of its block and of those after it, not that of the blocks before.
        """
        hop, tail, peak = self.hop, np.zeros(0, np.float32), 1.0
        context = max(1, round(_CONTEXT_SECONDS * self.frame_rate))
        streams = (self.checked(block)[None] for block in blocks)
        for x, seen, rest in with_context(streams, block_frames or _BLOCK, context, context, 1):
            first = max(0, context - seen)  # before the song begins there is nothing
            audio = self.sound(x[0, first:context + rest])
            peak = max(peak, float(np.abs(audio).max(initial=0)))
            audio = audio[(context - first) * hop:] / peak
            fade = np.linspace(0, 1, len(tail), dtype=np.float32)
            audio[:len(tail)] = (1 - fade) * tail + fade * audio[:len(tail)]
            own = (x.shape[1] - 2 * context) * hop
            yield audio[None, :own]
            tail = audio[own:]


def bands_of(audio: np.ndarray, transform: MelTransform, hop: int) -> np.ndarray:
    """float32 [1, samples] -> magnitudes float32 [ceil(samples / hop), D]."""
    padded = np.pad(audio[0], (0, -audio.shape[1] % hop))
    return transform.analyse(padded).reshape(-1, hop // transform.hop * transform.num_bands)
