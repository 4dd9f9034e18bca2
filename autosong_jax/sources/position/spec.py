"""Where in its song a window begins, as a source: songs longer than a window are then no longer all beginnings."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from autosong_jax.sources.base import Arrays, ArraySpec, Encoders, SourceSpec, Span


@dataclasses.dataclass(frozen=True)
class PositionSpec(SourceSpec):
    """The second that a window begins at, in one slot. Records hold nothing of it, and users do not give it."""

    names = ("position",)
    slots = 1

    @property
    def argument(self) -> None:
        return None

    def arrays(self) -> dict[str, ArraySpec]:
        return {"seconds": ArraySpec((1,), np.float32)}

    def cut(self, record: Mapping[str, Any], window: Span) -> Arrays:
        return {"seconds": np.array([window.start], np.float32)}

    def from_user(self, given: None, encoders: Encoders) -> Arrays:
        return {"seconds": np.zeros(1, np.float32), "length": np.int32(1)}

    def at(self, arrays: Arrays, seconds: float) -> Arrays:
        return {**arrays, "seconds": np.full_like(arrays["seconds"], seconds)}

    def module(self, config: ml_collections.ConfigDict, dtype: str, *, rngs: Any) -> Any:
        from autosong_jax.sources.position.module import PositionSource

        return PositionSource(config.model.width, dtype, rngs=rngs)
