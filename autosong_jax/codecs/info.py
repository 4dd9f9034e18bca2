"""What `codec.json` says of a codec: the one place where it is read and written."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
import pydantic

from autosong_jax import inputs
from autosong_jax.errors import UserError

FILE = "codec.json"
LIMIT = 2**20  # bytes of it
_WHAT = "the codec's description"
# Far beyond any codec's, and far below what would take a machine's memory.
Rate = Annotated[int, pydantic.Field(ge=1, le=768_000)]  # Hz
Count = Annotated[int, pydantic.Field(ge=1, le=256)]
Size = Annotated[int, pydantic.Field(ge=1, le=65_536)]  # codes are 16-bit


class Frames(NamedTuple):
    """What records hold of a song: [T, width] of this dtype, under the name of this feature."""

    feature: str
    dtype: type[np.generic]
    width: int


@dataclasses.dataclass(frozen=True)
class CodecInfo:
    """What is known of a codec without loading it. Each kind has a subclass with fields of its own, see `codecs.table`.

    Two are equal where the same codes mean the same audio, as far as they tell: `compare=False` marks the rest.

    Attributes:
      hub_ids: of the kind, the released checkpoints by the names that users give them.
      has_bandwidths: of the kind, whether a checkpoint can be used at several bandwidths.
      name: of its kind, which is that of its folder in `autosong_jax/codecs`.
      sample_rate: Hz.
      channels: 1 or 2.
      frame_rate: frames a second.
      num_codebooks: K.
      codebook_size: V.
      digest: of its codebooks; equal for the same codec. None for a kind without one.
    """

    hub_ids: ClassVar[Mapping[str, str]] = {}
    has_bandwidths: ClassVar[bool] = False

    name: str
    sample_rate: Rate
    channels: Annotated[int, pydantic.Field(ge=1, le=2)]
    frame_rate: Annotated[float, pydantic.Field(ge=0.1, le=10_000)]
    num_codebooks: Count
    codebook_size: Size
    digest: str | None = None

    @property
    def frames(self) -> Frames:
        """What records hold of a song."""
        return Frames("codes", np.uint16, self.num_codebooks)

    @classmethod
    def load(cls, directory: str | pathlib.Path) -> Self:
        """Reads `codec.json`, as the subclass of the kind that it names.

        Raises:
          UserError: there is none, it lacks something, or it names a kind that is unknown, or not of this class.
        """
        from autosong_jax.codecs.table import CODECS  # whose classes are subclasses of this one

        path = pathlib.Path(directory) / FILE
        data, where = inputs.read_bytes(path, _WHAT, LIMIT), f"{_WHAT} {path}"
        name = inputs.parse_json(data, _Named, where).name
        known = {kind: info for kind, info in CODECS.items() if issubclass(info, cls)}
        if name not in known:
            raise UserError(f"{path} names the codec {name!r}, expected {' or '.join(known)}")
        return inputs.parse_json(data, known[name], where)

    def contents(self) -> dict[str, Any]:
        """What `codec.json` holds: the fields, but for those that are None."""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {name: value for name, value in fields.items() if name not in _LAST} | {
            name: fields[name] for name in _LAST if name in fields}

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `codec.json` into a directory, which is there."""
        text = json.dumps(self.contents(), indent=2) + "\n"
        (pathlib.Path(directory) / FILE).write_text(text, encoding="utf-8")


_LAST = ("digest", "backend")  # in the file, where they have always been last: the same codec is the same file


@dataclasses.dataclass(frozen=True)
class _Named:
    name: str
