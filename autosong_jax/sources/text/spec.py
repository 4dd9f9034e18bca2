"""Texts of a song as sources: its lyrics, its genre, a description. A window reads them from the song's beginning."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import ml_dtypes
import numpy as np

from autosong_jax.sources.base import Arrays, ArraySpec, Encoders, Feature, SourceSpec, Span


@dataclasses.dataclass(frozen=True)
class TextSpec(SourceSpec):
    """A text: as ids, of lyrics with their sections and lines; or for a frozen encoder as its states or tokens."""

    names = ("lyrics", "genre", "description")

    @property
    def structured(self) -> bool:
        """Whether each id comes with its section and its line."""
        return self.name == "lyrics" and not self.text.frozen

    def _stored(self) -> dict[str, str]:
        """{array of a batch: feature of a record}."""
        of_text = "text" if self.name == "lyrics" else self.name
        if self.text.kind == "states":
            return {"states": f"{of_text}_states"}
        structure = {"sections": "section_ids", "lines": "line_ids"} if self.structured else {}
        return {"ids": f"{of_text}_ids", **structure}

    def features(self) -> dict[str, Feature]:
        if self.text.kind == "states":
            feature = Feature((None, self.text.width), ml_dtypes.bfloat16, "bytes")
        else:
            feature = Feature((None,), np.int32)
        return dict.fromkeys(self._stored().values(), feature)

    def export(self, texts: Mapping[str, str], audio: Callable[[], np.ndarray], recordings: Mapping[str, np.ndarray],
               encoder: Any) -> Arrays:
        text = texts[self.name]
        if self.text.kind == "states":
            arrays = {"states": encoder.encode(text)}
        elif self.text.kind == "tokens":
            arrays = {"ids": encoder.ids(text)}
        else:
            arrays = self._ids(text, encoder)
        return {feature: arrays[array] for array, feature in self._stored().items()}

    def _ids(self, text: str, encoder: Any) -> Arrays:
        if not self.structured:
            return {"ids": encoder.encode(text)}
        lyrics = encoder.encode_lyrics(text)
        return {"ids": lyrics.ids, "sections": lyrics.sections, "lines": lyrics.lines}

    def arrays(self) -> dict[str, ArraySpec]:
        return {array: ArraySpec((self.max_length, *feature.shape[1:]), feature.dtype)
                for array, feature in zip(self._stored(), self.features().values(), strict=True)}

    def cut(self, record: Mapping[str, Any], window: Span) -> Arrays:
        return {array: record[feature] for array, feature in self._stored().items()}

    def given(self, record: Mapping[str, Any]) -> str | None:
        return record[self.name] or None

    def from_user(self, given: str | None, encoders: Encoders) -> Arrays:
        if self.text.frozen:
            if given:
                return encoders.text().source(self.name, given, self.max_length)
            return self.fitted({"states": np.zeros((0, self.text.width), np.float32)})
        nothing = np.zeros(0, np.int32)
        return self.fitted(self._ids(given, encoders.text()) if given else dict.fromkeys(self._stored(), nothing))

    def module(self, config: ml_collections.ConfigDict, dtype: str, *, rngs: Any) -> Any:
        from autosong_jax.sources.text import module

        return module.build(self, config, dtype, rngs=rngs)
