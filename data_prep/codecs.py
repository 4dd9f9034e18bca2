"""The codecs that an export can use, and where each comes from: fitted to the songs here, or pretrained."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from autosong_jax.codecs.codec import Codec, load_codec
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.codecs.melrvq.codec import MelRVQ
from autosong_jax.codecs.melrvq.settings import MelRVQConfig
from autosong_jax.errors import UserError
from autosong_jax.weights import files
from data_prep import hub

FLAG = "--codec"
BACKENDS = ("transformers", "encodec")  # the packages that can compute an EnCodec; the first is the default
_FITTED = "melrvq"


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
        """The codec that `make` saved, for this process.

        Beside the protocol it has `quality(songs) -> {"round_trip_db": ..., ...}`.
        """


def load(directory: pathlib.Path) -> Codec:
    """The codec saved in `directory`, for a worker: a pretrained one with PyTorch, on the GPU if there is one."""
    info = CodecInfo.load(directory)
    if info.name == _FITTED:
        return load_codec(directory)
    return _load_encodec(str(directory), None, info.backend or BACKENDS[0])


def _load_encodec(name: str, bandwidth: float | None, backend: str):
    with hub.torch_needed(FLAG, name):
        from data_prep import encodec, encodec_package
    return (encodec_package if backend == "encodec" else encodec).load(name, bandwidth)


def made_from(name: str) -> str:
    """The codec's name, with a digest in place of a path."""
    return name if _is_fitted(name) else files.digest(name)


def _is_fitted(name: str) -> bool:
    return name.partition(":")[0] == _FITTED


def get_codec(name: str, bandwidth: float | None, backend: str = BACKENDS[0]) -> CodecSource:
    """The codec that an export is to use.

    Args:
      name: `melrvq`, `melrvq:SETTING=NUMBER,...`, or what the backend's `load` takes.
      bandwidth: of an EnCodec, in kbit/s.
      backend: of an EnCodec, one of `BACKENDS`.

    Raises:
      UserError: there is no such codec, or it cannot be had.
    """
    if _is_fitted(name):
        if bandwidth is not None:
            raise UserError(f"--bandwidth={bandwidth:g} is for EnCodec, but --codec is {_FITTED}: leave it out")
        if backend != BACKENDS[0]:
            raise UserError(f"--codec_backend={backend} is for EnCodec, but --codec is {_FITTED}: leave it out")
        return _FittedMelRVQ(_settings(name))
    return _PretrainedEncodec(_load_encodec(name, bandwidth, backend))


def _settings(name: str) -> MelRVQConfig:
    """The settings in `melrvq:SETTING=NUMBER,...`, and the default ones for the others."""
    kinds = {field.name: field.type for field in dataclasses.fields(MelRVQConfig)}
    settings = {}
    for item in filter(None, name.partition(":")[2].split(",")):
        setting, _, value = item.partition("=")
        if setting in settings:
            raise UserError(f"{FLAG}={name}: {setting} is given twice")
        try:
            settings[setting] = kinds[setting](value)
        except (KeyError, ValueError):
            raise UserError(f"{FLAG}={name}: {item!r} is not SETTING=NUMBER with one of {', '.join(kinds)}") from None
    return MelRVQConfig(**settings)


class _FittedMelRVQ:
    in_workers = wants_songs = True

    def __init__(self, config: MelRVQConfig):
        self._config = config
        self.sample_rate, self.channels = self._config.sample_rate, MelRVQ.channels

    def made_from(self):
        return [_FITTED, dataclasses.asdict(self._config)]

    def make(self, songs, directory):
        MelRVQ.fit(songs, **dataclasses.asdict(self._config)).save(directory)

    def load(self, directory):
        return MelRVQ.load(directory)


class _PretrainedEncodec:
    wants_songs = False

    def __init__(self, codec):
        self._codec = codec
        self.sample_rate, self.channels = codec.sample_rate, codec.channels

    @property
    def in_workers(self):
        # This process has more than one thread: on a CPU, sums would be rounded in another way, and codes hang on that.
        return self._codec.network.device.type == "cpu"

    def made_from(self):
        network = self._codec.network
        return ["encodec", network.revision, self._codec.bandwidth, *filter(None, [network.backend])]

    def make(self, songs, directory):
        self._codec.save(directory)

    def load(self, directory):
        return self._codec
