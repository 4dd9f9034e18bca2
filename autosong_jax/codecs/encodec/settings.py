"""What can be said of an EnCodec without computing anything: its config, its description, its digest, its streams."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pydantic

from autosong_jax.codecs.info import CodesInfo
from autosong_jax.errors import UserError

LEVEL = 0.1  # root mean square of a decoded song, where the model codes audio of a normalised loudness

NORMS = ("weight_norm", "time_group_norm")
PAD_MODES = ("reflect", "constant")


# Far beyond any released model's.
_BOUNDS = {"sampling_rate": (100, 768_000), "target_bandwidths": (1e-3, 1e4), "chunk_length_s": (1e-2, 3600),
           "overlap": (0, 0.99), "hidden_size": (1, 2**14), "num_filters": (1, 2**12), "num_residual_layers": (1, 64),
           "upsampling_ratios": (1, 2**10), "kernel_size": (1, 2**8), "last_kernel_size": (1, 2**8),
           "residual_kernel_size": (1, 2**8), "dilation_growth_rate": (1, 16), "compress": (1, 2**12),
           "num_lstm_layers": (1, 64), "trim_right_ratio": (0, 1), "codebook_size": (2, 2**16)}


@dataclasses.dataclass(frozen=True)
class EncodecConfig:
    """The shape of an EnCodec; names and defaults are those of `config.json` (the defaults are the 24 kHz model's)."""

    sampling_rate: int = 24_000  # Hz
    audio_channels: int = 1
    target_bandwidths: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0, 24.0)  # kbit/s
    normalize: bool = False  # each chunk to a root mean square of 1
    chunk_length_s: float | None = None  # seconds coded by themselves; None: a song is one piece
    overlap: float | None = None  # share of a chunk that the next one repeats
    hidden_size: int = 128
    num_filters: int = 32
    num_residual_layers: int = 1
    upsampling_ratios: tuple[int, ...] = (8, 5, 4, 2)
    norm_type: str = "weight_norm"
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    use_causal_conv: bool = True
    pad_mode: str = "reflect"
    compress: int = 2
    num_lstm_layers: int = 2
    trim_right_ratio: float = 1.0
    codebook_size: int = 1024
    codebook_dim: int | None = None
    use_conv_shortcut: bool = True

    def __post_init__(self):
        for name, (low, high) in _BOUNDS.items():
            given = getattr(self, name)
            for value in given if isinstance(given, tuple) else (given,):
                if value is not None and not low <= value <= high:
                    raise ValueError(f"{name} is {given!r}, expected {low:g} to {high:g}")
        if len(self.upsampling_ratios) > 8 or self.num_filters << len(self.upsampling_ratios) > 2**16:
            raise ValueError(f"num_filters {self.num_filters} and upsampling_ratios {self.upsampling_ratios}: expected "
                             f"at most 8 ratios, which double the filters to at most {2**16}")
        if not 1 <= self.num_codebooks <= 256:
            raise ValueError(f"target_bandwidths {self.target_bandwidths} pay for {self.num_codebooks} codebooks, "
                             "expected 1 to 256")
        if self.num_filters % self.compress:
            raise ValueError(f"compress is {self.compress}, expected a divisor of num_filters {self.num_filters}")
        for name, allowed in [("norm_type", NORMS), ("pad_mode", PAD_MODES), ("codebook_dim", (None, self.hidden_size)),
                              ("audio_channels", (1, 2))]:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(map(str, allowed))}")

    @classmethod
    def of(cls, config: Mapping[str, Any], source: str = "config.json") -> "EncodecConfig":
        """From the contents of a `config.json`; what it does not name has its default.

        Raises:
          UserError: `source` is another kind of model, or of a shape that cannot be used.
        """
        if config.get("model_type", "encodec") != "encodec":
            raise UserError(f"{source} is a {config['model_type']!r} model, expected encodec")
        given = {}
        for field in dataclasses.fields(cls):
            value = config.get(field.name, field.default)
            given[field.name] = value = tuple(value) if isinstance(value, list) else value
            if not _is_like(value, field.default):
                raise UserError(f"{source} is no EnCodec: its {field.name} is {value!r}, expected something like "
                                f"{field.default!r}")
        try:
            return cls(**given)
        except (ValueError, OverflowError) as error:
            raise UserError(f"{source} is no EnCodec that can be used here: {error}") from error

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return math.prod(self.upsampling_ratios)

    @property
    def chunk_length(self) -> int | None:
        """Samples of a chunk."""
        return None if self.chunk_length_s is None else int(self.chunk_length_s * self.sampling_rate)

    @property
    def chunk_stride(self) -> int | None:
        """Samples from one chunk's beginning to the next one's."""
        return None if self.chunk_length_s is None else max(1, int((1.0 - (self.overlap or 0.0)) * self.chunk_length))

    @property
    def chunk_frames(self) -> int | None:
        """Frames of a chunk."""
        return None if self.chunk_length_s is None else math.ceil(self.chunk_length / self.hop)

    @property
    def num_codebooks(self) -> int:
        """The codebooks that the checkpoint holds."""
        bits = math.ceil(math.log2(self.codebook_size))
        return int(1000 * self.target_bandwidths[-1] // (math.ceil(self.sampling_rate / self.hop) * bits))

    def codebooks_for(self, bandwidth: float) -> int:
        """How many of the codebooks `bandwidth` (kbit/s) pays for."""
        rate = math.log2(self.codebook_size) * math.ceil(self.sampling_rate / self.hop)
        return max(1, math.floor(bandwidth * 1000 / rate))

    @property
    def frame_rate(self) -> float:
        """Frames a second of a song's codes; chunks overlap, and the frames of all of them count."""
        if self.chunk_length_s is None:
            return self.sampling_rate / self.hop
        return self.chunk_frames * self.sampling_rate / self.chunk_stride


def _is_like(value: Any, example: Any) -> bool:
    """Whether `value` is of the kind of `example`, of which None stands for a number or nothing."""
    if isinstance(example, tuple):
        return isinstance(value, tuple) and len(value) > 0 and all(_is_like(item, example[0]) for item in value)
    if example is None or isinstance(example, float):
        return value is example or (type(value) in (int, float) and value >= 0)
    if type(example) is int:
        return type(value) is int and value > 0
    return isinstance(value, type(example))


def pick_bandwidth(config: EncodecConfig, bandwidth: float | None, source: str) -> float:
    """The bandwidth asked for, in kbit/s, or the lowest. Raises UserError where the model in `source` lacks it."""
    offered = config.target_bandwidths
    bandwidth = offered[0] if bandwidth is None else bandwidth
    if bandwidth not in offered:
        raise UserError(f"--bandwidth={bandwidth} is not one that {source} has: expected one of "
                        f"{', '.join(map(str, offered))} kbit/s")
    return bandwidth


@dataclasses.dataclass(frozen=True)
class EncodecInfo(CodesInfo):
    """What `codec.json` says of an EnCodec.

    Attributes:
      bandwidth: kbit/s, of each channel if `stereo`; None in files that do not say.
      stereo: whether a model of one channel codes left and right, whose codebooks alternate.
      backend: the package that an export encodes with; None is transformers.
    """

    hub_ids: ClassVar[Mapping[str, str]] = {
        f"encodec_{rate}khz": f"facebook/encodec_{rate}khz" for rate in (24, 32, 48)}
    has_bandwidths: ClassVar[bool] = True

    bandwidth: Annotated[float, pydantic.Field(gt=0, le=10_000)] | None = dataclasses.field(default=None, compare=False)
    stereo: bool = False
    backend: Literal["transformers", "encodec"] | None = dataclasses.field(default=None, compare=False)

    @classmethod
    def of(cls, config: EncodecConfig, bandwidth: float, stereo: bool, digest: str) -> "EncodecInfo":
        """That of a model of this shape, used so. Raises UserError where it cannot code left and right apart."""
        if stereo and (config.audio_channels != 1 or config.chunk_length_s is not None):
            raise UserError("stereo is for EnCodecs of one channel that code songs in one piece: this one has "
                            f"{config.audio_channels} channels and chunk_length_s {config.chunk_length_s}")
        sides = 2 if stereo else 1
        return cls("encodec", config.sampling_rate, sides * config.audio_channels, config.frame_rate,
                   sides * config.codebooks_for(bandwidth), config.codebook_size, bandwidth, stereo,
                   digest=digest)


def digest(codebooks: Iterable[np.ndarray]) -> str:
    """Of the codebooks used ([V, D] each), in order: equal for the same codec, whoever has written it."""
    total = hashlib.sha256()
    for entries in codebooks:
        total.update(np.ascontiguousarray(entries, np.float32).tobytes())
    return total.hexdigest()[:16]


def loudness(blocks: Iterable[np.ndarray]) -> float:
    """The root mean square of the mean of a song's channels, float32 [channels, any] in blocks of any length."""
    power, samples = 0.0, 0
    for block in blocks:
        power += np.square(block.mean(axis=0), dtype=np.float64).sum()
        samples += block.shape[1]
    return float(np.sqrt(power / max(samples, 1)))


def interleave(codes: np.ndarray) -> np.ndarray:
    """Codes of streams [B, T, K] -> [T, K * B]: the first codebook of each stream, the second of each, ..."""
    streams, frames, levels = codes.shape
    return np.moveaxis(codes, 0, -1).reshape(frames, levels * streams)


def separate(codes: np.ndarray, streams: int) -> np.ndarray:
    """The inverse of `interleave`: [T, K * B] -> [B, T, K]."""
    frames, total = codes.shape
    return np.moveaxis(codes.reshape(frames, total // streams, streams), -1, 0)
