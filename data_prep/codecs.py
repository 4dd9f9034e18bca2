"""The codecs that an export can use, and where each comes from: fitted to the songs here, or pretrained."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from autosong_jax.audio.codec import Codec, load_codec
from autosong_jax.audio.melrvq import MelRVQ, MelRVQConfig
from autosong_jax.errors import UserError
from autosong_jax.pretrained import files
from data_prep import hub

FLAG = "--codec"
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
    if files.read_json(directory / "codec.json").get("name") == _FITTED:
        return load_codec(directory)
    from data_prep import encodec

    return encodec.load(str(directory))


def made_from(name: str) -> str:
    """The codec's name, with a digest in place of a directory's path."""
    return name if _is_fitted(name) else files.digest(name)


def _is_fitted(name: str) -> bool:
    return name.partition(":")[0] == _FITTED


def get_codec(name: str, bandwidth: float | None) -> CodecSource:
    """Args: `melrvq`, `melrvq:SETTING=NUMBER,...`, or what `data_prep.encodec.load` takes; kbit/s of an EnCodec.

    Raises:
      UserError: there is no such codec, or it cannot be had.
    """
    if _is_fitted(name):
        if bandwidth is not None:
            raise UserError(f"--bandwidth={bandwidth:g} is for EnCodec, but --codec is {_FITTED}: leave it out")
        return _FittedMelRVQ(_settings(name))
    with hub.torch_needed(FLAG, name):
        from data_prep import encodec
    return _PretrainedEncodec(encodec.load(name, bandwidth), name)


def _settings(name: str) -> MelRVQConfig:
    """The settings in `melrvq:SETTING=NUMBER,...`, and the default ones for the others."""
    kinds = {field.name: field.type for field in dataclasses.fields(MelRVQConfig)}
    settings = {}
    for item in filter(None, name.partition(":")[2].split(",")):
        setting, _, value = item.partition("=")
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

    def __init__(self, codec, name: str):
        self._codec, self._name = codec, name
        self.sample_rate, self.channels = codec.sample_rate, codec.channels

    @property
    def in_workers(self):
        # This process has more than one thread: on a CPU, sums would be rounded in another way, and codes hang on that.
        return self._codec.model.device.type == "cpu"

    def made_from(self):
        return ["encodec", hub.revision(self._name, self._codec.model), self._codec.bandwidth]

    def make(self, songs, directory):
        self._codec.save(directory)

    def load(self, directory):
        return self._codec
