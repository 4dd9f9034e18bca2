"""Frozen text encoders in JAX: T5, mT5, umT5 and BERT from their released files, which are also how we keep them.

A dataset or a workdir whose texts went through one holds it in `text_encoder/`, as a checkpoint of its own, beside the
`text_encoder.json` that says which it is. So a workdir is enough to sing from.

Letters: B texts, L tokens, D width.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autosong_jax.cli import log
from autosong_jax.errors import UserError
from autosong_jax.parallel.sharding import BATCH, put
from autosong_jax.sources.text import bert_names as bert
from autosong_jax.sources.text import t5_names as t5
from autosong_jax.sources.text import tokenizer
from autosong_jax.sources.text.bert import BertEncoder
from autosong_jax.sources.text.encoders import DIRECTORY, TextEncoderInfo, weights_revision
from autosong_jax.sources.text.t5 import T5Encoder
from autosong_jax.sources.text.tokenizer import Tokenizer
from autosong_jax.weights import files, parameters
from autosong_jax.weights.files import Tensors

Sources = Mapping[str, Mapping[str, Array]]

GROUP_TOKENS = 4096  # texts are encoded in groups of about so many tokens, whatever the batch: memory stays bounded


@dataclasses.dataclass(frozen=True)
class _Model:
    """An encoder without its weights: what creates the module, and how it is read from a checkpoint."""

    architecture: str  # the name that config.json has for the encoder alone
    width: int
    create: Callable[[], nnx.Module]
    recipes: Mapping[str, parameters.Recipe]
    standard_names: Callable[[Tensors], Tensors]
    ignored: str


def _t5(config: Mapping[str, Any], _: Tokenizer, where: str) -> _Model:
    own = t5.read_config(config, where)
    architectures = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
    return _Model(architectures[config["model_type"]], own.width, lambda: T5Encoder(own, rngs=nnx.Rngs(0)),
                  t5.recipes(own), t5.standard_names, t5.IGNORED)


def _bert(config: Mapping[str, Any], words: Tokenizer, where: str) -> _Model:
    if len(words.special) != 2:
        raise ValueError(f"the tokenizer beside it puts {len(words.special)} special tokens around a text, expected 2")
    own = bert.read_config(config, *words.special, where)
    return _Model("BertModel", own.width, lambda: BertEncoder(own, rngs=nnx.Rngs(0)), bert.recipes(own),
                  bert.standard_names, bert.IGNORED)


_MODELS = {"t5": _t5, "mt5": _t5, "umt5": _t5, "bert": _bert}


class FrozenTextEncoder:
    """Text -> the last hidden states of a pretrained encoder, its special tokens among them.

    Attributes:
      info: what `text_encoder.json` says of it.
      tokenizer: text -> ids.
    """

    def __init__(self, config: Mapping[str, Any], tensors: Tensors, tokenizer_file: pathlib.Path, name: str,
                 revision: str | None = None):
        """Reads the weights onto the first device, in float32.

        Args:
          config: of the checkpoint: its `config.json`.
          tensors: of the checkpoint: of the encoder alone or of a whole model.
          tokenizer_file: `tokenizer.json`, or what older checkpoints have in its place (`tokenizer.find`).
          name: for `info`.
          revision: for `info`; by default it is made of the weights.

        Raises:
          UserError: the config is of another kind of model, or the tensors or the tokenizer do not fit it.
        """
        path, kind = f"{tensors.origin('')}/config.json", config.get("model_type")
        if not isinstance(kind, str) or kind not in _MODELS:
            raise UserError(f"{path} is of a model of type {kind!r}, expected one of {', '.join(_MODELS)}")
        positions = config.get("max_position_embeddings")
        if positions is not None and (not isinstance(positions, int) or not 4 <= positions <= 2**20):
            raise UserError(f"{path} has max_position_embeddings {positions!r}: expected 4 to {2**20}")
        self.tokenizer = Tokenizer.load(tokenizer_file, positions)
        try:
            model = _MODELS[kind](config, self.tokenizer, path)
        except ValueError as error:
            raise UserError(f"{path} cannot be used: {error}") from error
        self._config, self._model = dict(config), model
        self._graph, abstract = nnx.split(nnx.eval_shape(model.create))
        self.params = parameters.load(nnx.to_pure_dict(abstract), model.recipes, model.standard_names(tensors),
                                      what=f"a {kind} encoder", ignored=model.ignored)
        self.info = TextEncoderInfo(name, revision or weights_revision(self._tensors()), "states", width=model.width)
        self._encode = jax.jit(functools.partial(_encode, self._graph))

    @classmethod
    def open(cls, directory: str | pathlib.Path, name: str, revision: str | None = None) -> "FrozenTextEncoder":
        """The encoder of a checkpoint's directory. Raises UserError where there is none."""
        directory = pathlib.Path(directory)
        config = files.read_json(directory / "config.json")
        return cls(config, Tensors.open(directory), tokenizer.find(directory), name, revision)

    def ids(self, text: str) -> np.ndarray:
        """int32 [L]; L is 0 for an empty text."""
        return self.tokenizer.ids(text)

    def spans(self, text: str) -> np.ndarray:
        """int32 [L, 2], the characters (start, stop) of the text that each id came from; see `Tokenizer.spans`."""
        return self.tokenizer.spans(text)

    def encode(self, text: str) -> np.ndarray:
        """The states of a text, bfloat16 [L, D]; L is 0 for an empty text."""
        return self._states(self.ids(text)).astype(ml_dtypes.bfloat16)

    def encode_ids(self, ids: Array, lengths: Array) -> Array:
        """The states of texts.

        Args:
          ids: int [B, L], each text's as `ids` gives them, then padding.
          lengths: int [B].

        Returns:
          float32 [B, L, D]; at padding, something finite.
        """
        with jax.default_matmul_precision("float32"):
            return self._encode(self.params, ids, lengths)

    def source(self, name: str, text: str, max_length: int) -> dict[str, np.ndarray]:
        """The text of source `name` as a model reads it: {"states": float32 [max_length, D], "length": int32 []}."""
        ids = self.ids(text)
        if len(ids) > max_length:
            log.warning("%s of length %d: the model reads the first %d", name, len(ids), max_length)
        if self.info.kind == "tokens":  # a batch of training holds no more of them either
            ids = ids[:max_length]
        states = self._states(ids)[:max_length]
        padded = np.zeros((max_length, self.info.width), np.float32)
        padded[: len(states)] = states
        return {"states": padded, "length": np.int32(len(states))}

    def states_of(self, sources: Sources) -> Sources:
        """The sources of a batch, by name, with states in place of tokens.

        Of {"ids": int [B, L], "length": int [B]} it makes {"states": bfloat16 [B, L, D], "length": int [B]}; a source
        without ids stays as it is.
        """
        return _states_of(self.encode_ids, sources)

    def on(self, mesh: Mesh) -> Callable[[Sources], Sources]:
        """`states_of` for batches on `mesh`, each device its own rows, as fast as bfloat16 states allow."""
        params = jax.tree.map(lambda x: put(np.asarray(x), NamedSharding(mesh, PartitionSpec())), self.params)
        encode = jax.shard_map(functools.partial(_encode, self._graph), mesh=mesh,
                               in_specs=(PartitionSpec(), BATCH, BATCH), out_specs=BATCH)

        @jax.jit
        def states_of(params: Any, sources: Sources) -> Sources:
            return _states_of(functools.partial(encode, params), sources)

        def on_mesh(sources: Sources) -> Sources:
            # Three passes on a TPU, TF32 on a GPU.
            with jax.default_matmul_precision("tensorfloat32"):
                return states_of(params, sources)

        return on_mesh

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes a checkpoint of the encoder alone: `config.json`, `model.safetensors`, `tokenizer.json`."""
        directory = pathlib.Path(directory)
        files.write(directory, self._tensors())
        config = self._config | {"architectures": [self._model.architecture]}
        (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        self.tokenizer.save(directory / tokenizer.FILE)

    def _tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        return parameters.unload(self.params, self._model.recipes)

    def _states(self, ids: np.ndarray) -> np.ndarray:
        """int [L] -> float32 [L, D]."""
        if not len(ids):
            return np.zeros((0, self.info.width), np.float32)
        # Padded to a power of two, so that few lengths have to be compiled for.
        padded = np.zeros((1, max(16, 1 << (len(ids) - 1).bit_length())), np.int32)
        padded[0, : len(ids)] = ids
        states = self.encode_ids(padded, np.array([len(ids)], np.int32))
        return np.asarray(states[0, : len(ids)])


def _encode(graph: nnx.GraphDef, params: Any, ids: Array, lengths: Array) -> Array:
    """`FrozenTextEncoder.encode_ids` as a pure function."""
    model = nnx.merge(graph, params)
    batch, length = ids.shape
    size = max(1, GROUP_TOKENS // length)
    if batch <= size:
        return model(ids, lengths)
    groups = -(-batch // size)
    ids, lengths = (jnp.pad(x, [(0, groups * size - batch)] + [(0, 0)] * (x.ndim - 1)) for x in (ids, lengths))
    states = jax.lax.map(lambda group: model(*group),
                         (ids.reshape(groups, size, length), lengths.reshape(groups, size)))
    return states.reshape(groups * size, length, -1)[:batch]


def _states_of(encode_ids: Callable[[Array, Array], Array], sources: Sources) -> Sources:
    def convert(source: Mapping[str, Array]) -> Mapping[str, Array]:
        if "ids" not in source:
            return source
        ids, lengths = source["ids"], source["length"]
        counts = jnp.arange(ids.shape[1]) < lengths[:, None]
        states = jnp.where(counts[..., None], encode_ids(ids, lengths), 0)  # padding is 0, as where states are stored
        return {"states": states.astype(jnp.bfloat16), "length": lengths}

    return {name: convert(source) for name, source in sources.items()}


def load(directory: str | pathlib.Path) -> FrozenTextEncoder:
    """The encoder that the texts of a dataset or a workdir go through.

    Raises:
      UserError: the directory has none, or another than its `text_encoder.json` describes.
    """
    directory = pathlib.Path(directory)
    info = TextEncoderInfo.load(directory)
    if not (directory / DIRECTORY).is_dir():
        raise UserError(f"{directory} has no {DIRECTORY}/ with the text encoder {info.name!r}: export the songs again, "
                        "or copy the directory from the dataset")
    encoder = FrozenTextEncoder.open(directory / DIRECTORY, info.name, info.revision)
    if encoder.info.width != info.width:
        raise UserError(f"{directory / DIRECTORY} has states of width {encoder.info.width}, but "
                        f"{directory / 'text_encoder.json'} says {info.width}: export the songs again")
    encoder.info = info
    return encoder


def text_states(directory: str | pathlib.Path, mesh: Mesh | None = None) -> Callable[[Sources], Sources]:
    """What is left to do for the texts in a batch of a dataset: nothing, or to make states of tokens.

    Args:
      directory: of the dataset.
      mesh: where the batch is; None for the first device.

    Returns:
      Sources as the records hold them -> sources as a model reads them.

    Raises:
      UserError: the dataset holds tokens, but not the frozen encoder that reads them.
    """
    if TextEncoderInfo.load(directory).kind != "tokens":
        return lambda sources: sources
    encoder = load(directory)
    return encoder.states_of if mesh is None else encoder.on(mesh)
