"""What can be said of a DAC without computing anything: its config and its description."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import pydantic

from autosong_jax import inputs
from autosong_jax.codecs.info import CodesInfo
from autosong_jax.errors import UserError

# Far beyond any released model's.
_Width = Annotated[int, pydantic.Field(ge=1, le=2**14)]
_Ratio = Annotated[int, pydantic.Field(ge=1, le=2**10)]


@dataclasses.dataclass(frozen=True)
class DacConfig:
    """The shape of a DAC; names and defaults are those of `config.json`."""

    sampling_rate: Annotated[int, pydantic.Field(ge=100, le=768_000)] = 16_000  # Hz
    encoder_hidden_size: _Width = 64
    decoder_hidden_size: _Width = 1536
    downsampling_ratios: Annotated[tuple[_Ratio, ...], pydantic.Field(min_length=1, max_length=8)] = (2, 4, 8, 8)
    n_codebooks: Annotated[int, pydantic.Field(ge=1, le=256)] = 9
    codebook_size: Annotated[int, pydantic.Field(ge=2, le=2**16)] = 1024
    codebook_dim: Annotated[int, pydantic.Field(ge=1, le=2**12)] = 8

    @classmethod
    def of(cls, config: Mapping[str, Any], source: str = "config.json") -> Self:
        """From the contents of a `config.json`. Raises UserError where they are of no DAC that can be used."""
        if config.get("model_type", "dac") != "dac":
            raise UserError(f"{source} is a {config['model_type']!r} model, expected dac")
        shape = inputs.check(dict(config), cls, source)
        ratios = list(shape.downsampling_ratios)
        derived = {"hidden_size": shape.hidden_size, "hop_length": shape.hop, "upsampling_ratios": ratios[::-1]}
        for name, value in derived.items():
            given = config.get(name, value)
            if (list(given) if isinstance(given, tuple) else given) != value:
                raise UserError(f"{source} says {name} {given!r}, expected {value} of encoder_hidden_size "
                                f"{shape.encoder_hidden_size} and downsampling_ratios {ratios}")
        if shape.hidden_size > 2**16 or shape.decoder_hidden_size % 2 ** len(ratios):
            raise UserError(f"{source} says decoder_hidden_size {shape.decoder_hidden_size} and hidden_size "
                            f"{shape.hidden_size}: expected a multiple of {2 ** len(ratios)}, and at most {2**16}")
        return shape

    @property
    def hidden_size(self) -> int:
        """Width of what is coded: every step down doubles it."""
        return self.encoder_hidden_size * 2 ** len(self.downsampling_ratios)

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return math.prod(self.downsampling_ratios)

    @property
    def lost(self) -> int:
        """By how many samples a song's audio is shorter than its frames: each odd ratio loses one, before the next."""
        lost = 0
        for ratio in reversed(self.downsampling_ratios):
            lost = lost * ratio + ratio % 2
        return lost


@dataclasses.dataclass(frozen=True)
class DacInfo(CodesInfo):
    """What `codec.json` says of a DAC."""

    hub_ids: ClassVar[Mapping[str, str]] = {f"dac_{rate}khz": f"descript/dac_{rate}khz" for rate in (16, 24, 44)}

    @classmethod
    def of(cls, config: DacConfig, codebooks: Iterable[np.ndarray]) -> Self:
        """That of a model of this shape with these codebooks, [V, D] each."""
        digest = hashlib.sha256()
        for entries in codebooks:
            digest.update(np.ascontiguousarray(entries, np.float32).tobytes())
        return cls("dac", config.sampling_rate, 1, config.sampling_rate / config.hop, config.n_codebooks,
                   config.codebook_size, digest=digest.hexdigest()[:16])
