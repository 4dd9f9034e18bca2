"""What a mel codec is, without computing anything: settings, description, and what its frames stand for."""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from autosong_jax.codecs.info import MAX_FRAME_RATE, Frames, PlainInfo, check_settings
from autosong_jax.errors import UserError

VOCODER = "vocoder"  # the folder beside codec.json where one lies, if there is one
_TOP = 2.0  # magnitude: no band of audio within +-1 has more
_LEVELS = 255  # what a frame holds is in [0, 255]
# Beyond them is nothing that anybody would want to hear, or that a machine could hold.
_BOUNDS = {"sample_rate": (1000, 384_000), "hop": (1, 2**16), "n_fft": (2, 2**16), "n_mels": (1, 2048),
           "floor": (-150.0, 0.0)}


@dataclasses.dataclass(frozen=True)
class MelConfig:
    """Settings of a mel codec, and the three forms that the bands of a spectrum have.

    - Magnitudes m >= 0: a sine of amplitude a has a, where its band is. See `audio.spectrum`.
    - Values v in [-1, 1], which models read and write: -1 + 2 log(1 + m / f) / log(1 + 2 / f), f being the magnitude of
      `floor`. Silence is -1. What is well above f has a step of 10 log10(1 + 2 / f) dB for every 1.
    - Frames, uint8: 255 (v + 1) / 2, rounded. Silence is 0, as is padding.

    The methods between them compute with NumPy's arrays and with JAX's alike.
    """

    sample_rate: int = 48_000  # Hz
    hop: int = 256  # samples a frame
    n_fft: int = 0  # samples that a spectrum sees; 0 is 4 hops
    n_mels: int = 256  # bands
    floor: float = -90.0  # dB beside a sine of full scale; what is quieter counts little

    def __post_init__(self):
        object.__setattr__(self, "n_fft", self.n_fft or 4 * self.hop)
        check_settings(self, _BOUNDS)
        if self.n_fft < self.hop or self.sample_rate > MAX_FRAME_RATE * self.hop:
            raise UserError(f"hop is {self.hop}, expected at most n_fft ({self.n_fft}), and at most {MAX_FRAME_RATE} "
                            f"frames a second of {self.sample_rate} samples")

    @property
    def _floor(self) -> float:
        return 10 ** (self.floor / 20)

    def values(self, frames: Any) -> Any:
        """Frames, uint8 [...] -> values, float32 [...] in [-1, 1]."""
        return frames.astype("float32") * (2 / _LEVELS) - 1

    def magnitudes(self, values: Any) -> Any:
        """Values, float32 [...] -> magnitudes, float32 [...] >= 0; those below -1 are silence, too."""
        ratio = (1 + _TOP / self._floor) ** ((values + 1) / 2)
        return self._floor * (ratio - 1).clip(min=0)

    def of_magnitudes(self, magnitudes: Any) -> Any:
        """Magnitudes, float32 [...] >= 0 -> values, float32 [...]; of audio beyond +-1 they may be more than 1."""
        logs = magnitudes.__array_namespace__().log1p(magnitudes / self._floor)
        return logs * (2 / math.log1p(_TOP / self._floor)) - 1

    def of_values(self, values: Any) -> Any:
        """Values, float32 [...] -> frames, uint8 [...]: the nearest that there are."""
        return ((values + 1) * (_LEVELS / 2) + 0.5).clip(min=0, max=_LEVELS).astype("uint8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MelInfo(PlainInfo):
    """What `codec.json` says of a mel codec."""

    settings: ClassVar[type] = MelConfig
    songs_as: ClassVar[str] = "mel spectrograms"
    example: ClassVar[str] = "mel"
    first_config: ClassVar[str] = "autosong_autoencoder"

    n_fft: int
    n_mels: int
    floor: float

    @property
    def frames(self) -> Frames:
        return Frames("mel", np.uint8, self.n_mels)
