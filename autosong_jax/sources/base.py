"""What a kind of source is to everything but the model: to records, batches and users. Imports no jax.

Letters: B batch, L slots of a source.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import ml_collections
import numpy as np

from autosong_jax.cli import log
from autosong_jax.sources.text.encoders import TextEncoderInfo

if TYPE_CHECKING:  # what codes is opened elsewhere
    from autosong_jax.codecs.codec import Codec
    from autosong_jax.codecs.info import CodecInfo

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Feature:
    """An array of a record. Of its shape, what differs from song to song is None; `encoding` is how TFDS stores it."""

    shape: tuple[int | None, ...]
    dtype: Any
    encoding: str = "none"  # none | bytes


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of an array of a batch, for one song: the axis B stands before it."""

    shape: tuple[int, ...]
    dtype: Any


@dataclasses.dataclass(frozen=True)
class Span:
    """Where in its song the window of an example lies.

    Attributes:
      start, stop: in seconds from the beginning of the song.
      generator: for what an example draws; always the same for the same example.
    """

    start: float
    stop: float
    generator: np.random.Generator

    def frames(self, rate: float) -> tuple[int, int]:
        """Its first frame and the one after its last, of so many a second."""
        return round(self.start * rate), round(self.stop * rate)


@dataclasses.dataclass(frozen=True)
class Encoders:
    """What makes arrays of what users give; each may have to be loaded when it is first called for.

    Attributes:
      text: gives the text encoder.
      codec: gives the codec.
    """

    text: Callable[[], Any]
    codec: Callable[[], "Codec"]


@dataclasses.dataclass(frozen=True)
class SourceSpec:
    """One source: what a record holds of it, what a batch does, and how a song or a user gives it.

    A kind of source is a subclass in a folder of its own, `spec.py`, beside `module.py`, the part of the model that
    reads its arrays; `sources.spec` lists the kinds.

    Attributes:
      name: of the source, one of `names`.
      text: the text encoder that the texts of songs go through.
      codec: what songs are coded by.
      max_length: L; None where only records are of interest.
      dropped: what a dropped source leaves in the memory of the model, see `memory.SourceEncoders`.
    """

    name: str
    text: TextEncoderInfo
    codec: "CodecInfo"
    max_length: int | None = None
    dropped: str = "absent"

    names: ClassVar[tuple[str, ...]]  # that sources of this kind may have
    slots: ClassVar[int | None] = None  # L, for a kind that always has so many
    recordings: ClassVar[tuple[str, ...]] = ()  # those of `names` that are recordings of a song beside its own audio

    @property
    def argument(self) -> str | None:
        """What a user gives it as; None if it is not for users to give."""
        return self.name

    def features(self) -> dict[str, Feature]:
        """What a record holds of it, by the feature's name; nothing by default."""
        return {}

    def export(self, texts: Mapping[str, str], audio: Callable[[], np.ndarray], recordings: Mapping[str, np.ndarray],
               encoder: Any) -> Arrays:
        """Those features of a song.

        Args:
          texts: the texts of the song by name, "" where there is none.
          audio: gives its audio, float32 [channels, samples].
          recordings: its other recordings by name, as frames [T, width] of the codec: one for one beside the song's.
          encoder: of texts, which `text` describes.
        """
        del texts, audio, recordings, encoder
        return {}

    def arrays(self) -> dict[str, ArraySpec]:
        """What a batch holds of it beside its length, and `module` reads."""
        raise NotImplementedError

    def layout(self) -> dict[str, ArraySpec]:
        """All that a batch holds of it: `arrays`, and "length", the slots that count."""
        return {**self.arrays(), "length": ArraySpec((), np.int32)}

    def cut(self, record: Mapping[str, Any], window: Span) -> Arrays:
        """The arrays of a window of a song; of more slots than L, the first L are read.

        Args:
          record: as `SongDataset` gives it.
          window: of the song.
        """
        raise NotImplementedError

    def given(self, record: Mapping[str, Any]) -> Any:
        """What a user would give to have a song like that of a record; None for nothing, or nothing that is known."""
        del record
        return None

    def seconds(self, given: Any) -> float | None:
        """How long a song lasts that goes with what a user gives; None if that does not say."""
        del given
        return None

    def from_user(self, given: Any, encoders: Encoders) -> Arrays:
        """What a user gives, or None, as arrays and "length": those of a song as a whole, of which `at` makes a window.

        Args:
          given: a text; or float32 [channels, samples]; or codes, integer [frames, K].
          encoders: which `text` and `codec` describe.

        Raises:
          UserError: it is nothing that this source can be made of.
        """
        raise NotImplementedError

    def at(self, arrays: Arrays, seconds: float) -> Arrays:
        """The arrays [B, L, ...] of windows that begin so far into songs, from those that `from_user` gave, stacked."""
        del seconds
        return arrays

    def module(self, config: ml_collections.ConfigDict, dtype: str, *, rngs: Any) -> Any:
        """What reads the arrays, an `nnx.Module`: {array: [B, L, ...], "length": int [B]} -> [B, L, the model's width].

        Args:
          config: of the model.
          dtype: of the computation.
          rngs: `nnx.Rngs`, of its parameters.
        """
        raise NotImplementedError

    def fitted(self, arrays: Arrays) -> Arrays:
        """Arrays [any length, ...] as those of a batch: cut or padded to L, with their "length"."""
        length = len(next(iter(arrays.values())))
        if length > self.max_length:
            log.warning("%s of length %d: the model reads the first %d", self.name, length, self.max_length)
        fitted = {}
        for name, array in arrays.items():
            fitted[name] = np.zeros((self.max_length, *array.shape[1:]), array.dtype)
            fitted[name][:length] = array[:self.max_length]
        return {**fitted, "length": np.int32(min(length, self.max_length))}
