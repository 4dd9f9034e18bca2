"""The melody of a recording as a source: its strongest pitch class over time. A window reads the part where it is."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import numpy as np

from autosong_jax.audio import io
from autosong_jax.sources.base import Arrays, ArraySpec, Encoders, Feature, SourceSpec, Span
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

    def export(self, texts: Mapping[str, str], audio: Callable[[], np.ndarray], recordings: Mapping[str, np.ndarray],
               encoder: Any) -> Arrays:
        return {"chroma": strongest_pitch_class(audio(), self.codec.sample_rate).astype(np.uint8)}

    def arrays(self) -> dict[str, ArraySpec]:
        return {"chroma": ArraySpec((self.max_length,), np.int32)}

    def cut(self, record: Mapping[str, Any], window: Span) -> Arrays:
        classes = record["chroma"]
        return {"chroma": np.take(classes, self._at(window.start), mode="wrap")}

    def from_user(self, given: np.ndarray | None, encoders: Encoders) -> Arrays:
        if given is not None:
            audio = io.checked("the melody", given, self.codec.sample_rate)
            classes = strongest_pitch_class(audio, self.codec.sample_rate)
            return {"chroma": classes, "period": np.int32(len(classes)), "length": np.int32(self.max_length)}
        # A model for which dropped sources leave empty slots reads pitch class 0 there.
        slots = self.max_length if self.dropped == "null" else 0
        return {"chroma": np.zeros(1, np.int32), "period": np.int32(1), "length": np.int32(slots)}

    def at(self, arrays: Arrays, seconds: float) -> Arrays:
        classes = arrays["chroma"]  # those of shorter melodies are padded
        period = arrays.get("period", np.full(len(classes), classes.shape[1]))
        return {"chroma": np.take_along_axis(classes, self._at(seconds) % period[:, None], axis=1),
                "length": arrays["length"]}

    def _at(self, seconds: float) -> np.ndarray:
        """int [L], where in an endless melody the classes of a window stand that begins so far into its song."""
        return round(seconds * self.codec.sample_rate / HOP) + np.arange(self.max_length)

    def module(self, config: ml_collections.ConfigDict, dtype: str, *, rngs: Any) -> Any:
        from autosong_jax.sources.chroma.module import ChromaSource

        return ChromaSource(config.model.width, dtype, rngs=rngs)
