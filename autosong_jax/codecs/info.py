"""What `codec.json` says of a codec: the one place where it is read and written."""

import dataclasses
import hashlib
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
MAX_FRAME_RATE = 10_000  # Hz


class Frames(NamedTuple):
    """What a codec makes of a song: frames [T, width] of codes, or of values that are learned from as they are.

    Attributes:
      feature: the name that they have in records.
      dtype: of integers; theirs in records, in files, and as a codec gives them.
      width: numbers in a frame: K of codes.
      size: V: codes are in [0, V). None of values, which may be all that the dtype has.
    """

    feature: str
    dtype: type[np.integer]
    width: int
    size: int | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """The least number that may be in a frame, and the largest."""
        return (int(np.iinfo(self.dtype).min), int(np.iinfo(self.dtype).max)) if self.size is None else (
            0, self.size - 1)

    @property
    def batch_dtype(self) -> type[np.integer]:
        """Theirs in batches: that in which codes are looked up; values stay as small as they are stored."""
        return self.dtype if self.size is None else np.int32

    @property
    def none(self) -> np.ndarray:
        """[0, width]: no frames."""
        return np.zeros((0, self.width), self.dtype)

    @property
    def noun(self) -> str:
        """What they hold, for messages."""
        return "values" if self.size is None else "codes"

    def __str__(self) -> str:
        return f"{self.width} values" if self.size is None else f"{self.width} codebooks x {self.size}"


@dataclasses.dataclass(frozen=True)
class CodecInfo:
    """What is known of a codec without loading it. Each kind has a subclass with fields of its own, see `codecs.table`.

    Two are equal where the same frames mean the same audio, as far as they tell: `compare=False` marks the rest.

    Attributes:
      hub_ids: of the kind, the released checkpoints by the names that users give them.
      has_bandwidths: of the kind, whether a checkpoint can be used at several bandwidths.
      settings: of the kind, the dataclass of the numbers that users may choose; None where a checkpoint has them.
      songs_as, example: of the kind, or of several, what songs are coded as, and a --codec that does so; for errors.
      first_config: of the kind, the config to begin with.
      name: of its kind, which is that of its folder in `autosong_jax/codecs`.
      sample_rate: Hz.
      channels: 1 or 2.
      frame_rate: frames a second.
      digest: equal for the same codec. None for a kind without one.
    """

    hub_ids: ClassVar[Mapping[str, str]] = {}
    has_bandwidths: ClassVar[bool] = False
    settings: ClassVar[type | None] = None
    songs_as: ClassVar[str]
    example: ClassVar[str]
    first_config: ClassVar[str]

    name: str
    sample_rate: Rate
    channels: Annotated[int, pydantic.Field(ge=1, le=2)]
    frame_rate: Annotated[float, pydantic.Field(ge=0.1, le=MAX_FRAME_RATE)]
    digest: str | None = dataclasses.field(default=None, kw_only=True)

    @property
    def frames(self) -> Frames:
        """What it makes of a song."""
        raise NotImplementedError

    @classmethod
    def load(cls, directory: str | pathlib.Path) -> Self:
        """Reads `codec.json`, as the subclass of the kind that it names.

        Raises:
          UserError: there is none, it lacks something, or it names a kind that is unknown, or not of this class.
        """
        path = pathlib.Path(directory) / FILE
        return cls.parse(inputs.read_bytes(path, _WHAT, LIMIT), f"{_WHAT} {path}")

    @classmethod
    def parse(cls, data: str | bytes, where: str) -> Self:
        """What `load` reads in a file, of its contents; `where` is what they are, for errors."""
        from autosong_jax.codecs.table import CODECS  # whose classes are subclasses of this one

        name = inputs.parse_json(data, _Named, where).name
        known = {kind: info for kind, info in CODECS.items() if issubclass(info, cls)}
        if name not in known:
            raise UserError(f"{where} names the codec {name!r}, expected {' or '.join(known)}")
        return inputs.parse_json(data, known[name], where)

    @classmethod
    def required(cls, codec: "CodecInfo", reader: str) -> Self:
        """`codec`, which is of this class. Raises UserError where it is not, though `reader` reads such songs alone."""
        if isinstance(codec, cls):
            return codec
        raise UserError(f"{reader} reads songs as {cls.songs_as}, but these are {codec.songs_as} ({codec.name}, "
                        f"{codec.frames} a frame): export them with --codec={cls.example}")

    def contents(self) -> dict[str, Any]:
        """What `codec.json` holds: the fields, but for those that are None."""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {name: value for name, value in fields.items() if name not in _LAST} | {
            name: fields[name] for name in _LAST if name in fields}

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `codec.json` into a directory, which is there."""
        text = json.dumps(self.contents(), indent=2) + "\n"
        (pathlib.Path(directory) / FILE).write_text(text, encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class CodesInfo(CodecInfo):
    """What is known of a codec whose frames are codes, one of each of its codebooks.

    Attributes:
      num_codebooks: K.
      codebook_size: V.
    """

    songs_as: ClassVar[str] = "codes"
    example: ClassVar[str] = "melrvq"
    first_config: ClassVar[str] = "xsmall"

    num_codebooks: Count
    codebook_size: Size

    @property
    def frames(self) -> Frames:
        return Frames("codes", np.uint16, self.num_codebooks, self.codebook_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainInfo(CodecInfo):
    """What is known of a codec of one channel that has nothing but settings: nothing is fitted, nothing trained.

    A subclass has the fields of its `settings`, among them `hop`, samples a frame; `example` is its name.
    """

    hop: int

    @classmethod
    def of(cls, config: Any) -> Self:
        """That of a codec with these settings."""
        fields = dataclasses.asdict(config)
        digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]
        return cls(name=cls.example, channels=1, frame_rate=config.sample_rate / config.hop, digest=digest, **fields)

    @property
    def config(self) -> Any:
        """The settings. Raises UserError where they contradict each other, or the rest."""
        config = self.settings(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self.settings)})
        if self != (expected := self.of(config)):
            raise UserError(f"{FILE} contradicts itself: a {self.name} codec of these settings has {expected}")
        return config


def check_settings(config: Any, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Raises UserError for the first setting that is not within its bounds, the least and the largest."""
    for name, (low, high) in bounds.items():
        if not low <= getattr(config, name) <= high:
            raise UserError(f"{name} is {getattr(config, name)}, expected {low} to {high}")


_LAST = ("digest", "backend")  # in the file, where they have always been last: the same codec is the same file


@dataclasses.dataclass(frozen=True)
class _Named:
    name: str
