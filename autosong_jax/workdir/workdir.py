"""What is kept of a model: its config, codec, text encoder and weights, and the pattern of its windows."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx

from autosong_jax import config as config_file
from autosong_jax.codebooks.patterns import Pattern
from autosong_jax.codecs.codec import Codec, load_codec
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.errors import UserError
from autosong_jax.layers.declaration import declarations, held_in
from autosong_jax.models.build import abstract_model, compute_dtype
from autosong_jax.models.kinds import Kind, Steps, kind_of
from autosong_jax.models.song import SongModel
from autosong_jax.sources.text import frozen as frozen_text
from autosong_jax.sources.text.encoders import TextEncoder, TextEncoderInfo, rebuild_text_encoder
from autosong_jax.sources.text.frozen import FrozenTextEncoder
from autosong_jax.weights.trainable import Parameters
from autosong_jax.workdir import checkpoints


@dataclasses.dataclass(frozen=True)
class ModelContext:
    """What a model is used with, wherever that was read from.

    Attributes:
      config: of the model.
      codec: what its frames mean.
      text: which text encoder it reads texts by.
      load_codec, load_text_encoder: give them; raise UserError where one cannot be used here.
    """

    config: ml_collections.ConfigDict
    codec: CodecInfo
    text: TextEncoderInfo
    load_codec: Callable[[], Codec]
    load_text_encoder: Callable[[], TextEncoder | FrozenTextEncoder]

    @classmethod
    def read(cls, config: ml_collections.ConfigDict, directory: pathlib.Path) -> "ModelContext":
        """The context of a model of `config` over the codec and text encoder of a dataset or a workdir.

        Raises:
          UserError: `codec/codec.json` or `text_encoder.json` is missing there or holds something else.
        """
        text = TextEncoderInfo.load(directory)
        return cls(config, CodecInfo.load(directory / "codec"), text, lambda: load_codec(directory / "codec"),
                   lambda: frozen_text.load(directory) if text.frozen else rebuild_text_encoder(text))

    @property
    def pattern(self) -> Pattern | Steps:
        """Of a training window."""
        return window_pattern(self.config, self.codec)


class Workdir:
    """The workdir of a run, a converted model, or a directory that `convert --export` wrote.

    Attributes:
      directory: where it is.
      context: what its model is used with, of which `config`, `codec` and `text` are parts.

    Raises:
      UserError: one of these files is missing or holds something else.
    """

    def __init__(self, directory: str | pathlib.Path):
        self.directory = pathlib.Path(directory)
        self.context = ModelContext.read(config_file.load(self.directory / "config.json"), self.directory)
        self.config, self.codec, self.text = self.context.config, self.context.codec, self.context.text

    @functools.cached_property
    def abstract(self) -> Parameters:
        """Shapes and dtypes of the parameters, LoRA's among them."""
        return abstract_model(self.config, self.codec, self.text)[1]

    @property
    def merged_config(self) -> ml_collections.ConfigDict:
        """The config of the model as it is once LoRA is merged."""
        config = self.config.copy_and_resolve_references()
        config.lora.rank = 0
        return config

    def read_weights(self) -> tuple[Parameters, int]:
        """The newest weights, LoRA merged, float32 in the host's memory, and their step.

        Raises:
          UserError: there are none that are whole, or they do not fit the config.
        """
        on_host = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), self.abstract)
        return checkpoints.load_weights(self.directory, self.config, on_host)

    def load_model(self) -> SongModel:
        """The model with its newest weights, LoRA merged, `unstacked`, on one device and ready to compute there.

        Raises: as `read_weights`.
        """
        return self.load_trained()[0].unstacked(consume=True)

    def load_trained(self) -> tuple[SongModel, int]:
        """The same as it is trained, and the step of its weights."""
        graph, abstract = abstract_model(self.config, self.codec, self.text)
        if not self.config.lora.rank:  # which is merged into float32
            abstract = held_in(compute_dtype(self.config.model.dtype), abstract, declarations(graph, abstract))
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract)
        params, step = checkpoints.load_weights(self.directory, self.config, target)
        return nnx.merge(abstract_model(self.merged_config, self.codec, self.text)[0], params), step


def open_trained(directory: str, field: str, kind: Kind) -> Workdir:
    """The workdir of a trained model that a config names.

    Args:
      directory: where it is.
      field: of the config, which says so.
      kind: that the model must be of.

    Raises:
      UserError: there is none, or it is of another kind.
    """
    made = f"{kind.name}, which --config={kind.made_by} trains"
    if not directory:
        raise UserError(f"{field} is empty: expected the workdir of {made}")
    workdir = Workdir(directory)
    if kind_of(workdir.config) is not kind:
        raise UserError(f"{field} {directory} is of objective {workdir.config.objective.name}: expected {made}")
    return workdir


def assemble(config: ml_collections.ConfigDict, codec: CodecInfo, text: TextEncoderInfo, params: Any) -> SongModel:
    """The model of `config` with `params`, which are used up, `unstacked`: as it sings."""
    graph, _ = abstract_model(config, codec, text)
    return nnx.merge(graph, params).unstacked(consume=True)


def window_pattern(config: ml_collections.ConfigDict, codec: CodecInfo, frames: int | None = None
                   ) -> Pattern | Steps:
    """How so many frames are read; by default those of a training window, of `config.data.seconds`.

    Raises:
      UserError: the model has no positions for so many steps, or reads no frames of such a codec.
    """
    frames = max(round(config.data.seconds * codec.frame_rate), 1) if frames is None else frames
    pattern = kind_of(config).steps(config, codec, frames)
    positions = pattern.num_steps
    if config.model.fusion == "prefix":
        positions += sum(source.max_length for source in config.sources.values())
    if config.model.positions == "learned" and positions > config.model.max_positions:
        raise UserError(f"model.max_positions {config.model.max_positions}: windows of "
                        f"{frames / codec.frame_rate:g} s with these sources take {positions}; raise it, or shorten "
                        "data.seconds")
    return pattern
