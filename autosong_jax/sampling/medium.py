"""What songs are sung in: the frames of their codec, or the columns of latents that stand for sixteen of them each.

A sampler makes units, windows are laid over units, and songs stay in them until they are decoded: a song of several
windows goes through the autoencoder once.

Letters: T frames, U units, W numbers in a unit.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import jax
import numpy as np
from flax import nnx

from autosong_jax.codecs.info import CodecInfo
from autosong_jax.models.autoencoder import SCALE
from autosong_jax.models.latent_frames import LatentFrames
from autosong_jax.models.song import SongModel


class Medium(Protocol):
    """See the module's docstring.

    Attributes:
      rate: units a second.
      none: no unit, [0, W].
    """

    rate: float
    none: np.ndarray

    def units(self, frames: np.ndarray) -> np.ndarray:
        """Frames [T, width] as the codec has them -> units [U, W]; of a last unit that is not whole nothing is left."""

    def frames(self, units: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The frames [any, width] of units [any, W], as soon as no later unit can change them."""


class Plain:
    """Frames as they are; see `Medium`."""

    def __init__(self, codec: CodecInfo):
        self.rate, self._kind = codec.frame_rate, codec.frames
        self.none = self.units(codec.frames.none)

    def units(self, frames: np.ndarray) -> np.ndarray:
        """See `Medium`."""
        return frames.astype(self._kind.batch_dtype)

    def frames(self, units: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """See `Medium`."""
        return (unit.astype(self._kind.dtype) for unit in units)


class Columns:
    """Columns of latents; see `Medium`.

    Args:
      codec: whose frames are mel spectrograms.
      model: gives the song model, with its autoencoder, as it is now.
    """

    def __init__(self, codec: CodecInfo, model: Callable[[], SongModel]):
        self.rate, self._codec, self._model = codec.frame_rate / SCALE, codec.config, model
        self._encode = jax.jit(lambda graph, params, values: nnx.merge(graph, params).encode(values), static_argnums=0)
        self.none = np.zeros((0, model().frames.latents.mean.size), np.float32)

    def units(self, frames: np.ndarray) -> np.ndarray:
        """See `Medium`."""
        whole = len(frames) // SCALE * SCALE
        if not whole:
            return self.none
        graph, params = nnx.split(self._model().frames.latents)
        return np.asarray(self._encode(graph, params, self._codec.values(frames[None, :whole])))[0]

    def frames(self, units: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """See `Medium`."""
        latents = self._model().frames.latents
        columns = (np.asarray(latents.restored(unit[None])) for unit in units if len(unit))
        for values in latents.autoencoder.decode_blocks(columns):
            yield self._codec.of_values(values[0])


def medium_of(codec: CodecInfo, model: Callable[[], SongModel]) -> Medium:
    """What a model sings in; arguments as of `Columns`."""
    return Columns(codec, model) if isinstance(model().frames, LatentFrames) else Plain(codec)
