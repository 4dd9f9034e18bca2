"""Frozen text encoders: BERT, T5, mT5 and umT5 hidden states through `transformers`, in bfloat16.

Shape letters: L tokens, D width.
"""

import dataclasses
import functools
import pathlib
from typing import Annotated, Literal

import ml_dtypes
import numpy as np
import torch
import transformers
from pydantic import Field

from autosong_jax import inputs
from autosong_jax.errors import UserError
from autosong_jax.sources.text import tokenizer
from autosong_jax.sources.text.encoders import TextEncoderInfo, weights_revision
from data_prep import hub

_FLAG = "--text_encoder"
_SHORT = 256  # characters of a text whose states are kept
_Size = Annotated[int, Field(ge=1, le=2**22)]
_Count = Annotated[int, Field(ge=1, le=1000)]
_Epsilon = Annotated[float, Field(ge=0, le=1)]


@dataclasses.dataclass(frozen=True)
class _T5Settings:
    """Those of a `config.json` that the encoder's states depend on."""

    vocab_size: _Size
    d_model: _Size
    d_kv: _Size
    d_ff: _Size
    num_layers: _Count
    num_heads: _Count
    relative_attention_num_buckets: Annotated[int, Field(ge=4, le=2**16)] | None = None
    relative_attention_max_distance: _Size | None = None
    layer_norm_epsilon: _Epsilon | None = None
    feed_forward_proj: str | None = None

    @property
    def width(self) -> int:
        return self.d_model


@dataclasses.dataclass(frozen=True)
class _BertSettings:
    """Likewise. There have been kinds of positions that `transformers` no longer has."""

    vocab_size: _Size
    hidden_size: _Size
    num_hidden_layers: _Count
    num_attention_heads: _Count
    intermediate_size: _Size
    max_position_embeddings: Annotated[int, Field(ge=8, le=2**22)]
    hidden_act: str | None = None
    type_vocab_size: _Size | None = None
    layer_norm_eps: _Epsilon | None = None
    position_embedding_type: Literal["absolute"] | None = None

    @property
    def width(self) -> int:
        return self.hidden_size


# The pooling layer, which not every BERT has, is of no use here.
_MODELS = {"bert": (transformers.BertModel, _BertSettings, {"add_pooling_layer": False}),
           "t5": (transformers.T5EncoderModel, _T5Settings, {}), "mt5": (transformers.MT5EncoderModel, _T5Settings, {}),
           "umt5": (transformers.UMT5EncoderModel, _T5Settings, {})}


class FrozenTextEncoder:
    """Text -> the last hidden states of a pretrained encoder, its special tokens among them.

    A text longer than the model has positions for (BERT: 512) is cut into pieces, see
    `autosong_jax.sources.text.tokenizer`, and the pieces' states follow each other. T5's positions are relative and
    have no end.
    """

    def __init__(self, kind: str, source: str, *, records_hold: str = "states", info: TextEncoderInfo | None = None):
        """Loads the model, onto the GPU if there is one, and its tokenizer.

        Args:
          kind: `bert`, `t5`, `mt5` or `umt5`.
          source: a hub id or a directory.
          records_hold: `states` or `tokens`, for `info`.
          info: of the encoder that `save` wrote to `source`; then the model is loaded when it is first needed.

        Raises:
          UserError: there is no such model, or it is of another kind.
        """
        self._source = source
        self._class, settings, self._options = _MODELS[kind]
        config = hub.read_config(source, _FLAG, kind)
        self._settings = inputs.check(config, settings, f"{_FLAG}={kind}:{source}: its config.json")
        with hub.plainly(_FLAG, f"{kind}:{source}"):
            self._tokenizer = tokenizer.Tokenizer.load(tokenizer.find(hub.locate(source, _FLAG)),
                                                       getattr(self._settings, "max_position_embeddings", None))
        if self._tokenizer.num_ids > self._settings.vocab_size:
            raise UserError(f"{_FLAG}={kind}:{source}: its tokenizer has {self._tokenizer.num_ids} ids, but the model "
                            f"{self._settings.vocab_size} embeddings: they do not belong together")
        self.info = info or TextEncoderInfo(f"{kind}:{source}", self._revision(), records_hold,
                                            width=self._settings.width)
        # Genres and descriptions repeat; lyrics do not, and are long.
        self._encode_short = functools.lru_cache(maxsize=1024)(self._encode)

    @functools.cached_property
    def _model(self) -> transformers.PreTrainedModel:
        return hub.load(self._class, self._source, _FLAG, self._settings, **self._options)

    def _revision(self) -> str:
        weights = self._model.named_parameters()
        return weights_revision((name, weight.detach().cpu().numpy()) for name, weight in weights)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._model.device

    def encode(self, text: str) -> np.ndarray:
        """The states of a text, bfloat16 [L, D]; L is 0 for an empty text. Texts go through one by one, so that a state
        depends on its text alone."""
        return self._encode_short(text) if len(text) <= _SHORT else self._encode(text)

    @torch.inference_mode()
    def _encode(self, text: str) -> np.ndarray:
        if not text:
            return np.zeros((0, self.info.width), ml_dtypes.bfloat16)
        states = [self._model(input_ids=torch.tensor([ids], device=self._model.device)).last_hidden_state[0]
                  for ids in self._tokenizer.pieces(text)]
        return torch.cat(states).cpu().numpy().astype(ml_dtypes.bfloat16)

    def ids(self, text: str) -> np.ndarray:
        """The ids that the states are made from, int32 [L]."""
        return self._tokenizer.ids(text)

    def save(self, directory: pathlib.Path) -> None:
        """Writes a checkpoint of the encoder alone, of which `sources.text.frozen` makes the same states."""
        self._model.save_pretrained(directory)
        self._tokenizer.save(directory / tokenizer.FILE)
