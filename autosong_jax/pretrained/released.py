"""A released song model as a whole: decoder, codec and text encoder, read from one source and kept as a workdir."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from autosong_jax import config as config_file
from autosong_jax import inputs
from autosong_jax.codecs.encodec.codec import EncodecCodec
from autosong_jax.errors import UserError
from autosong_jax.layers.declaration import declarations, held_in
from autosong_jax.models.build import abstract_model, compute_dtype
from autosong_jax.models.song import SongModel
from autosong_jax.parallel.sharding import make_mesh, tree_shardings
from autosong_jax.pretrained import audiocraft, musicgen
from autosong_jax.sources.text import frozen as frozen_text
from autosong_jax.sources.text import tokenizer
from autosong_jax.sources.text.frozen import FrozenTextEncoder
from autosong_jax.weights import files, shapes
from autosong_jax.weights.files import Tensors
from autosong_jax.workdir.checkpoints import save_weights
from autosong_jax.workdir.workdir import ModelContext, assemble


@dataclasses.dataclass(frozen=True)
class Released:
    """A released model, its decoder still in its files.

    Attributes:
      config: ours, with the released defaults of sampling.
      codec: its EnCodec.
      text: its text encoder.
      tensors: of the checkpoint.
    """

    config: ml_collections.ConfigDict
    codec: EncodecCodec
    text: FrozenTextEncoder
    tensors: Tensors

    def load(self, dtype: str = "float32", device: jax.Device | None = None) -> tuple[Any, Any]:
        """The model without parameters, and the parameters, matrices in `dtype`: on one device, or sharded over all."""
        graph, shapes = abstract_model(self.config, self.codec.info, self.text.info)
        declared = declarations(graph, shapes)
        if device is None:
            shardings = tree_shardings(shapes, declared, make_mesh(self.config.mesh))
        else:
            shardings = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(device), shapes)
        return graph, musicgen.load(held_in(dtype, shapes, declared), self.config, self.tensors, shardings)

    @property
    def context(self) -> ModelContext:
        """What the model is used with."""
        return ModelContext(self.config, self.codec.info, self.text.info, lambda: self.codec,
                            lambda: self.text)

    def load_model(self) -> SongModel:
        """The model, `unstacked`, on one device and ready to compute there."""
        _, params = self.load(compute_dtype(self.config.model.dtype), jax.devices()[0])
        return assemble(self.config, self.context.codec, self.text.info, params)

    def write(self, workdir: pathlib.Path) -> None:
        """Makes `workdir` a workdir with these weights as its checkpoint 0.

        Raises:
          UserError: there is something in it already, or it cannot be written.
        """
        with files.writing(workdir, "--workdir"):
            _, params = self.load()
            self.codec.save(workdir / "codec")
            self.text.save(workdir / frozen_text.DIRECTORY)
            self.text.info.save(workdir)
            save_weights(workdir, params)
            config_file.save(self.config, workdir / "config.json")


def locate(source: str | pathlib.Path, flag: str) -> pathlib.Path:
    """`files.locate` of any model that sings: of a repository without `config.json`, the pickles are fetched."""
    if "/" not in str(source) and not pathlib.Path(source).is_dir():
        raise UserError(f"{flag}={source} does not exist: expected the directory of a model, or a hub id, OWNER/NAME")
    directory = files.locate(source, flag)
    if (directory / "config.json").exists():
        return directory
    return files.locate(source, flag, (audiocraft.DECODER, audiocraft.COMPRESSION))


def is_released(directory: pathlib.Path) -> bool:
    """Whether a directory is to be read by `read`, and is none of ours."""
    try:
        return "model_type" in files.read_json(directory / "config.json")
    except UserError:
        return (directory / audiocraft.DECODER).exists()


def read(source: str, flag: str = "--source", text_encoder: str | None = None) -> Released:
    """Reads all of a released model but its decoder's weights.

    Args:
      source: a directory or a hub id of a MusicGen, as transformers or as audiocraft has it.
      flag: what `source` was given by, for errors.
      text_encoder: a directory or a hub id of the T5 that belongs to a release of audiocraft; None is the one it names.

    Raises:
      UserError: it cannot be had, or is something else.
    """
    directory = locate(source, flag)
    path = directory / "config.json"
    if not path.exists():
        return _read_audiocraft(directory, source, flag, text_encoder)
    settings = files.read_json(path)
    kind, known = settings.get("model_type"), (musicgen.CROSS, musicgen.PREFIX)
    if not isinstance(kind, str) or kind not in known:
        expected = ", ".join(known) if flag == "--source" else f"{', '.join(known)}, or a workdir"
        raise UserError(f"{path} is of a model of type {kind!r}, expected one of {expected}")
    if text_encoder is not None:
        raise UserError(f"--text_encoder={text_encoder}: {directory} holds its own; leave it out")
    shape = inputs.check(settings, shapes.MusicGen, str(path))
    if kind == musicgen.PREFIX and shape.chroma_length is None:
        raise UserError(f"{path} lacks chroma_length")
    tensors = Tensors.open(directory)
    codec = EncodecCodec(settings["audio_encoder"], tensors.under("audio_encoder."), stereo=_is_stereo(settings))
    text = FrozenTextEncoder(settings["text_encoder"], tensors.under("text_encoder."), tokenizer.find(directory),
                             f"t5:{source}")
    return Released(musicgen.model_config(settings, codec.info), codec, text, tensors)


def _read_audiocraft(directory: pathlib.Path, source: str, flag: str, text_encoder: str | None) -> Released:
    path = directory / audiocraft.DECODER
    if not path.is_file():
        raise UserError(f"{directory} holds neither config.json nor {audiocraft.DECODER}: expected a MusicGen as "
                        "transformers or as audiocraft has it")
    tensors, metadata = audiocraft.unpickle(path)
    settings = audiocraft.settings(metadata, path)
    codec = audiocraft.read_codec(directory / audiocraft.COMPRESSION, stereo=_is_stereo(settings))
    if text_encoder is not None:
        name, place = text_encoder, files.locate(text_encoder, "--text_encoder")
    else:
        name = settings["text_encoder_name"]
        try:
            place = files.locate(name, f"{path}: conditioners.description.t5.name")
        except UserError as error:
            rest = ("give it by --text_encoder=DIR" if flag == "--source" else "`python -m autosong_jax.convert "
                    f"--source={source} --text_encoder=DIR --workdir=WORKDIR` makes a workdir to sing from")
            raise UserError(f"{error}; {rest}") from error
    text = FrozenTextEncoder.open(place, f"t5:{name}")
    config = musicgen.model_config(settings, codec.info)
    return Released(config, codec, text, audiocraft.standard_names(tensors))


def _is_stereo(settings: Mapping[str, Any]) -> bool:
    return settings["decoder"].get("audio_channels", 1) == 2
