"""The melody of a recording as a source: its strongest pitch class over time. A window reads the part where it is."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import numpy as np

from autosong_jax.audio import io
from autosong_jax.sources.base import Arrays, ArraySpec, Feature, SourceSpec
from autosong_jax.sources.chroma.pitch_classes import HOP, strongest_pitch_class


@dataclasses.dataclass(frozen=True)
class ChromaSpec(SourceSpec):
    """Pitch classes, 0 is C, `HOP` samples from one to the next; every slot of a window counts.

    Behind its end a melody begins again, as the released models read one that is shorter than their window.
    """

    names = ("chroma",)

    @property
    def argument(self) -> str:
        return "melody"

    def features(self) -> dict[str, Feature]:
        return {"chroma": Feature((None,), np.uint8, "bytes")}

    def export(self, texts: Mapping[str, str], audio: Callable[[], np.ndarray], encoder: Any) -> Arrays:
        return {"chroma": strongest_pitch_class(audio(), self.sample_rate).astype(np.uint8)}

    def arrays(self) -> dict[str, ArraySpec]:
        return {"chroma": ArraySpec((self.max_length,), np.int32)}

    def cut(self, record: Mapping[str, Any], seconds: float) -> Arrays:
        return {"chroma": self._from(record["chroma"], seconds)}

    def from_user(self, given: np.ndarray | None, encoder: Callable[[], Any]) -> Arrays:
        if given is not None:
            audio = io.checked("the melody", given, self.sample_rate)
            classes = strongest_pitch_class(audio, self.sample_rate)
            return {"chroma": classes, "length": np.int32(self.max_length)}
        # A model for which dropped sources leave empty slots reads pitch class 0 there.
        slots = self.max_length if self.dropped == "null" else 0
        return {"chroma": np.zeros(self.max_length, np.int32), "length": np.int32(slots)}

    def at(self, arrays: Arrays, seconds: float) -> Arrays:
        return {**arrays, "chroma": self._from(arrays["chroma"], seconds)}

    def _from(self, classes: np.ndarray, seconds: float) -> np.ndarray:
        """int [..., F], of a whole song -> int [..., L], those of a window that begins so far into it."""
        first = round(seconds * self.sample_rate / HOP)
        return np.take(classes, first + np.arange(self.max_length), axis=-1, mode="wrap")

    def module(self, config: ml_collections.ConfigDict, dtype: str, *, rngs: Any) -> Any:
        from autosong_jax.sources.chroma.module import ChromaSource

        return ChromaSource(config.model.width, dtype, rngs=rngs)
