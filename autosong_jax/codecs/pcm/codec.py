"""Samples as they are, in 16 bits, a hop of them a frame: what a vocoder learns from, beside mel of the same hops."""

import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from autosong_jax.codecs.codec import Codec
from autosong_jax.codecs.pcm.settings import PcmConfig, PcmInfo


class Pcm(Codec):
    """See the module's docstring. Audio of 16 bits comes back bit by bit, followed by silence to the end of its hop."""

    def __init__(self, config: PcmConfig):
        self.config, self.info = config, PcmInfo.of(config)

    def encode_blocks(self, blocks: Iterable[np.ndarray], loudness: float | None = None) -> Iterator[np.ndarray]:
        """See `Codec`."""
        hop, held = self.config.hop, np.zeros(0, np.int16)
        for block in blocks:
            samples = np.rint(self.checked_audio(block)[0] * 2**15).clip(-2**15, 2**15 - 1).astype(np.int16)
            held = np.concatenate([held, samples])
            whole = len(held) // hop * hop
            yield held[:whole].reshape(-1, hop)
            held = held[whole:]
        if len(held):
            yield np.pad(held, (0, hop - len(held)))[None]

    def decode_blocks(self, blocks: Iterable[np.ndarray], block_frames: int | None = None,
                      loudness: float | None = None) -> Iterator[np.ndarray]:
        """See `Codec`; `block_frames` changes nothing, since there is nothing to wait for."""
        for block in blocks:
            yield self.config.values(self.checked(block)).reshape(1, -1)


def of(info: PcmInfo) -> Pcm:
    """The codec that is described so. Raises UserError where that contradicts itself."""
    return Pcm(info.config)


def load(directory: str | pathlib.Path) -> Pcm:
    """Reads what `Pcm.save` wrote. Raises UserError where it is missing or damaged."""
    return of(PcmInfo.load(directory))
