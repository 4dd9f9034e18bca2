"""Recordings beside a song as sources, as the codes of its codec: a backing that it goes with, a style that it has."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import numpy as np

from autosong_jax.codecs.info import CodesInfo
from autosong_jax.errors import UserError
from autosong_jax.sources.base import Arrays, ArraySpec, Encoders, Feature, SourceSpec, Span


class RecordingSpec(SourceSpec):
    """A recording as codes [L, K]; records may hold one as other frames, too, which no model reads yet."""

    def arrays(self) -> dict[str, ArraySpec]:
        """See `SourceSpec`. Raises UserError where songs are no codes."""
        frames = CodesInfo.required(self.codec, f"sources.{self.name}").frames
        return {"codes": ArraySpec((self.max_length, frames.width), frames.batch_dtype)}

    def module(self, config: ml_collections.ConfigDict, dtype: str, *, rngs: Any) -> Any:
        from autosong_jax.sources.recording import module

        return module.build(self, config, dtype, rngs=rngs)

    def _codes(self, given: np.ndarray | None, encoders: Encoders) -> np.ndarray:
        """int32 [any, K] of what a user gives. Raises UserError where that is no recording."""
        if given is None:
            return self.codec.frames.none.astype(np.int32)
        if not np.size(given):
            raise UserError(f"{self.argument} holds no sound: expected at least one sample")
        from autosong_jax.codecs.codec import frames_of

        return frames_of(self.argument, given, self.codec, encoders.codec).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class BackingSpec(RecordingSpec):
    """What is heard while a song is sung: frame i of it goes with frame i of the song, in every window."""

    names = recordings = ("backing",)

    @property
    def _feature(self) -> str:
        return f"backing_{self.codec.frames.feature}"

    def features(self) -> dict[str, Feature]:
        frames = self.codec.frames
        return {self._feature: Feature((None, frames.width), frames.dtype, "bytes")}

    def export(self, texts: Mapping[str, str], audio: Callable[[], np.ndarray], recordings: Mapping[str, np.ndarray],
               encoder: Any) -> Arrays:
        return {self._feature: recordings["backing"]}

    def cut(self, record: Mapping[str, Any], window: Span) -> Arrays:
        first, stop = window.frames(self.codec.frame_rate)
        return {"codes": record[self._feature][first:stop]}

    def given(self, record: Mapping[str, Any]) -> np.ndarray:
        return record[self._feature]

    def seconds(self, given: np.ndarray) -> float:
        return len(given) / self.codec.frame_rate if given.dtype.kind in "iu" else (
            given.shape[1] / self.codec.sample_rate)

    def from_user(self, given: np.ndarray | None, encoders: Encoders) -> Arrays:
        codes = self._codes(given, encoders)
        return {"codes": codes, "length": np.int32(len(codes))}

    def at(self, arrays: Arrays, seconds: float) -> Arrays:
        first = round(seconds * self.codec.frame_rate)
        window = arrays["codes"][:, first:first + self.max_length]
        codes = np.pad(window, ((0, 0), (0, self.max_length - window.shape[1]), (0, 0)))
        return {"codes": codes, "length": np.clip(arrays["length"] - first, 0, self.max_length)}


@dataclasses.dataclass(frozen=True)
class StyleSpec(RecordingSpec):
    """A few seconds of what a song is to sound like: in training, of the same song, but from outside of the window."""

    names = ("style",)

    @property
    def argument(self) -> str:
        return "style_audio"

    def cut(self, record: Mapping[str, Any], window: Span) -> Arrays:
        """An excerpt of L frames before or after the window, each as likely as any other; of a song that has none, the
        longer of what is before and what is after, which may be nothing."""
        frames = record["frames"]
        first, stop = window.frames(self.codec.frame_rate)
        before, after = (max(length - self.max_length + 1, 0) for length in (first, len(frames) - stop))
        if before + after:
            place = int(window.generator.integers(before + after))
            start = place if place < before else stop + place - before
            return {"codes": frames[start:start + self.max_length]}
        return {"codes": max(frames[:first], frames[stop:], key=len)}

    def given(self, record: Mapping[str, Any]) -> np.ndarray | None:
        frames = record["frames"][-self.max_length:]  # the end, which is the farthest from what is sung first
        return frames if len(frames) else None

    def from_user(self, given: np.ndarray | None, encoders: Encoders) -> Arrays:
        return self.fitted({"codes": self._codes(given, encoders)})
