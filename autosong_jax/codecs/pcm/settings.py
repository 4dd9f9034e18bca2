"""What a PCM codec is, without computing anything: settings, description, and what its frames stand for."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from autosong_jax.codecs.info import MAX_FRAME_RATE, Frames, PlainInfo, check_settings
from autosong_jax.errors import UserError

_BOUNDS = {"sample_rate": (1000, 384_000), "hop": (1, 2**16)}


@dataclasses.dataclass(frozen=True)
class PcmConfig:
    """Settings of a PCM codec. With those of a mel codec, frame i of both is the same part of a song."""

    sample_rate: int = 48_000  # Hz
    hop: int = 256  # samples a frame

    def __post_init__(self):
        check_settings(self, _BOUNDS)
        if self.sample_rate > MAX_FRAME_RATE * self.hop:
            raise UserError(f"hop is {self.hop}, expected at most {MAX_FRAME_RATE} frames a second of "
                            f"{self.sample_rate} samples")

    def values(self, frames: Any) -> Any:
        """Frames, int16 [...] -> samples, float32 [...] in [-1, 1), of NumPy or JAX."""
        return frames.astype("float32") / 2**15


@dataclasses.dataclass(frozen=True, kw_only=True)
class PcmInfo(PlainInfo):
    """What `codec.json` says of a PCM codec."""

    settings: ClassVar[type] = PcmConfig
    songs_as: ClassVar[str] = "samples"
    example: ClassVar[str] = "pcm"
    first_config: ClassVar[str] = "vocoder"

    @property
    def frames(self) -> Frames:
        return Frames("samples", np.int16, self.hop)
