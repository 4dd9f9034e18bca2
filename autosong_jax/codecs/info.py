"""What `codec.json` says, for every codec: the one place where it is read."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic

from autosong_jax import inputs

FILE = "codec.json"
LIMIT = 2**20  # bytes of it
# Far beyond any codec's, and far below what would take a machine's memory.
Rate = Annotated[int, pydantic.Field(ge=1, le=768_000)]  # Hz
Count = Annotated[int, pydantic.Field(ge=1, le=256)]
Size = Annotated[int, pydantic.Field(ge=1, le=65_536)]  # codes are 16-bit


@dataclasses.dataclass(frozen=True)
class CodecInfo:
    """What is known of a codec without loading it.

    Attributes:
      name: of its kind.
      sample_rate: Hz.
      channels: 1 or 2.
      frame_rate: frames a second.
      num_codebooks: K.
      codebook_size: V.
      digest: of its codebooks; equal for the same codec. None for a kind without one.
    """

    name: Literal["melrvq", "encodec"]
    sample_rate: Rate
    channels: Annotated[int, pydantic.Field(ge=1, le=2)]
    frame_rate: Annotated[float, pydantic.Field(ge=0.1, le=10_000)]
    num_codebooks: Count
    codebook_size: Size
    digest: str | None = None

    @classmethod
    def load(cls, directory: str | pathlib.Path) -> "CodecInfo":
        """Reads `codec.json`; a subclass reads what it has besides. Raises UserError where it is none."""
        return inputs.read_json(pathlib.Path(directory) / FILE, cls, "the codec's description", limit=LIMIT)

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> "CodecInfo":
        """From the contents of a `codec.json` that is in memory."""
        return inputs.check(dict(description), cls, "the codec's description")

    def facts(self) -> dict[str, Any]:
        """The fields by name; without a digest where there is none."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclasses.dataclass(frozen=True)
class EncodecInfo(CodecInfo):
    """What `codec.json` says of an EnCodec: also its bandwidth in kbit/s, whether it codes left and right apart, and
    which package an export encodes with.
    """

    bandwidth: Annotated[float, pydantic.Field(gt=0, le=10_000)] | None = None
    stereo: bool = False
    backend: Literal["transformers", "encodec"] = "transformers"
