"""What can be said of a MelRVQ without computing anything: its config and its description."""

import dataclasses
from typing import Annotated, Any, ClassVar

import pydantic

from autosong_jax.codecs.info import CodesInfo, check_settings
from autosong_jax.errors import UserError

CHANNELS = 1  # of every MelRVQ
# Beyond them is nothing that anybody would want to hear, or that a machine could hold.
_BOUNDS = {"sample_rate": (1000, 384_000), "hop": (1, 2**20), "subframes": (1, 64), "n_fft": (2, 2**16),
           "n_mels": (1, 2048), "dynamic_range": (1.0, 200.0), "num_codebooks": (1, 256), "codebook_size": (1, 65_536)}


@dataclasses.dataclass(frozen=True)
class MelRVQConfig:
    """Settings of a MelRVQ. One frame of codes stands for `subframes` consecutive spectra."""

    sample_rate: int = 16000  # Hz
    hop: int = 640  # samples a frame of codes
    subframes: int = 2  # spectra in a frame of codes
    n_fft: int = 1024  # samples that a spectrum sees
    n_mels: int = 160  # bands of a spectrum
    dynamic_range: float = 45.0  # dB; what is quieter than the loudest bands of the songs by more counts little
    num_codebooks: int = 4
    codebook_size: int = 512

    def __post_init__(self):
        check_settings(self, _BOUNDS)
        if self.hop % self.subframes or self.n_fft < self.hop // self.subframes:
            raise UserError(f"hop is {self.hop}, expected a multiple of subframes ({self.subframes}), at most "
                            f"subframes * n_fft ({self.subframes * self.n_fft})")
        if self.num_codebooks * self.codebook_size * self.subframes * self.n_mels > 2**28:
            raise UserError(f"num_codebooks {self.num_codebooks}, codebook_size {self.codebook_size}, subframes "
                            f"{self.subframes} and n_mels {self.n_mels} of a melrvq: their codebooks take GiB")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MelRVQInfo(CodesInfo):
    """What `codec.json` says of a MelRVQ: also the other fields of its `MelRVQConfig`, and the floor."""

    settings: ClassVar[type] = MelRVQConfig

    hop: int
    subframes: int
    n_fft: int
    n_mels: int
    dynamic_range: float
    floor: Annotated[float, pydantic.Field(gt=0, le=1e6)]

    @classmethod
    def of(cls, config: MelRVQConfig, floor: float) -> "MelRVQInfo":
        """That of a codec with these settings and this floor."""
        return cls(name="melrvq", channels=CHANNELS, frame_rate=config.sample_rate / config.hop, floor=floor,
                   **dataclasses.asdict(config))

    @property
    def config(self) -> MelRVQConfig:
        """The settings. Raises UserError where they contradict each other."""
        return MelRVQConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(MelRVQConfig)})

    def contents(self) -> dict[str, Any]:
        """See `CodecInfo`; in the order that it has always had, since codecs without a digest are compared by files."""
        first = ("name", "channels", "frame_rate", "floor")
        return {name: getattr(self, name) for name in first} | dataclasses.asdict(self.config)
