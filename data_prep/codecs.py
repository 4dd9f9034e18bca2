"""The codecs that an export can use, and where each comes from: fitted to the songs here, plain, or pretrained."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from autosong_jax.codecs.codec import Codec, load_codec, open_codec
from autosong_jax.codecs.info import FILE, CodecInfo
from autosong_jax.codecs.melrvq.codec import MelRVQ
from autosong_jax.codecs.melrvq.settings import CHANNELS, MelRVQConfig
from autosong_jax.codecs.table import CODECS, kind_with_settings, settings_of
from autosong_jax.errors import UserError
from autosong_jax.weights import files
from data_prep import hub

FLAG = "--codec"
BACKENDS = ("transformers", "encodec")  # the packages that can compute an EnCodec; the first is the default


class CodecSource(Protocol):
    """What can be had of a codec before the songs are split, and how to make it after that."""

    sample_rate: int  # Hz
    channels: int
    in_workers: bool  # whether it encodes in local worker processes, or else, on a GPU, in this one
    wants_songs: bool  # whether it is fitted to the training songs

    def made_from(self) -> Any:
        """JSON of all that decides what the codec will be, apart from the songs it is fitted to."""

    def make(self, songs: Iterable[np.ndarray], directory: pathlib.Path) -> None:
        """Makes the codec, of training songs (float32 [channels, samples]) if it wants them, and saves it."""

    def load(self, directory: pathlib.Path) -> Codec:
        """The codec that `make` saved, for this process."""


def load(directory: pathlib.Path) -> Codec:
    """The codec saved in `directory`, for a worker: a pretrained one with PyTorch, on the GPU if there is one."""
    info = CodecInfo.load(directory)
    return KINDS[info.name].load(directory, info)


def made_from(name: str) -> str:
    """The codec's name, with a digest in place of a path."""
    return name if kind_with_settings(name) else files.digest(name)


def get_codec(name: str, bandwidth: float | None, backend: str = BACKENDS[0]) -> CodecSource:
    """The codec that an export is to use.

    Args:
      name: `melrvq`, `mel` or `pcm`, also with `:SETTING=NUMBER,...`; a key of the `hub_ids` of a kind; a directory
        that a codec was saved in or that `save_pretrained` wrote, or a hub id; or what else the backend's `load` takes.
      bandwidth: of an EnCodec, in kbit/s.
      backend: of an EnCodec, one of `BACKENDS`.

    Raises:
      UserError: there is no such codec, or it cannot be had.
    """
    kind = _kind_of(name, backend)
    if kind != "encodec" and bandwidth is not None:
        raise UserError(f"--bandwidth={bandwidth:g} is for EnCodec, but --codec is {kind}: leave it out")
    if kind != "encodec" and backend != BACKENDS[0]:
        raise UserError(f"--codec_backend={backend} is for EnCodec, but --codec is {kind}: leave it out")
    return KINDS[kind].open(name, bandwidth, backend)


def _kind_of(name: str, backend: str) -> str:
    """The kind of codec that --codec names. What cannot be told is left to EnCodec, whose checkpoints vary most."""
    if kind := kind_with_settings(name):
        return kind
    for kind, info in CODECS.items():
        if name in info.hub_ids:
            return kind
    if backend != BACKENDS[0]:  # which knows EnCodec alone, and no hub
        return "encodec"
    if not (path := pathlib.Path(name)).is_dir() and name.count("/") != 1:
        return "encodec"
    if (path / FILE).exists():
        return CodecInfo.load(path).name
    if path.is_dir() and not (path / "config.json").exists():
        return "encodec"
    kind = files.read_json(files.locate(name, FLAG) / "config.json").get("model_type")
    return kind if isinstance(kind, str) and kind in KINDS else "encodec"


class _FittedMelRVQ:
    in_workers = wants_songs = True

    def __init__(self, config: MelRVQConfig):
        self._config = config
        self.sample_rate, self.channels = self._config.sample_rate, CHANNELS

    def made_from(self):
        return ["melrvq", dataclasses.asdict(self._config)]

    def make(self, songs, directory):
        MelRVQ.fit(songs, **dataclasses.asdict(self._config)).save(directory)

    def load(self, directory):
        return MelRVQ.load(directory)


class _Ready:
    """One that is there already, and of NumPy."""

    in_workers, wants_songs = True, False

    def __init__(self, codec: Codec, made_from: list):
        self._codec, self._made_from = codec, made_from
        self.sample_rate, self.channels = codec.sample_rate, codec.channels

    def made_from(self):
        return self._made_from

    def make(self, songs, directory):
        self._codec.save(directory)

    def load(self, directory):
        return self._codec


class _Pretrained:
    wants_songs = False

    def __init__(self, codec):
        self._codec, self.made_from = codec, codec.made_from
        self.sample_rate, self.channels = codec.sample_rate, codec.channels

    @property
    def in_workers(self):
        # This process has more than one thread: on a CPU, sums would be rounded in another way, and codes hang on that.
        return self._codec.device.type == "cpu"

    def make(self, songs, directory):
        self._codec.save(directory)

    def load(self, directory):
        return self._codec


def _load_encodec(name: str, bandwidth: float | None, backend: str) -> Codec:
    with hub.torch_needed(FLAG, name):
        from data_prep import encodec, encodec_package
    return (encodec_package if backend == "encodec" else encodec).load(name, bandwidth)


def _load_dac(name: str) -> Codec:
    with hub.torch_needed(FLAG, name):
        from data_prep import dac
    return dac.load(name)


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a kind of codec comes into an export.

    Attributes:
      open: of --codec, --bandwidth and --codec_backend.
      load: of the directory that it was saved in and its info, for a worker.
    """

    open: Callable[[str, float | None, str], CodecSource]
    load: Callable[[pathlib.Path, Any], Codec]


def _open_melrvq(name: str, *_) -> CodecSource:
    if kind_with_settings(name):
        return _FittedMelRVQ(settings_of(name, FLAG))
    return _Ready(MelRVQ.load(name), ["melrvq", files.digest(name)])


def _open_plain(name: str, *_) -> CodecSource:
    codec = open_codec(name, flag=FLAG)
    return _Ready(codec, [codec.info.name, codec.info.digest])


_PLAIN = Kind(_open_plain, lambda directory, _: load_codec(directory))
KINDS = {
    "melrvq": Kind(_open_melrvq, lambda directory, _: MelRVQ.load(directory)),
    "encodec": Kind(lambda *options: _Pretrained(_load_encodec(*options)),
                    lambda directory, info: _load_encodec(str(directory), None, info.backend or BACKENDS[0])),
    "dac": Kind(lambda name, *_: _Pretrained(_load_dac(name)), lambda directory, _: _load_dac(str(directory))),
    "mel": _PLAIN,
    "pcm": _PLAIN,
}
