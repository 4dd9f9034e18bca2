"""Frozen text encoders: BERT, T5, mT5 and umT5 hidden states through `transformers`, in bfloat16.

Shape letters: L tokens, D width.
"""

import functools
import pathlib

import ml_dtypes
import numpy as np
import torch
import transformers

from autosong_jax.data import tokenizer
from autosong_jax.data.text import TextEncoderInfo, weights_revision
from autosong_jax.pretrained import files
from data_prep import hub

_FLAG = "--text_encoder"
# The pooling layer, which not every BERT has, is of no use here.
_MODELS = {"bert": (transformers.BertModel, {"add_pooling_layer": False}),
           "t5": (transformers.T5EncoderModel, {}), "mt5": (transformers.MT5EncoderModel, {}),
           "umt5": (transformers.UMT5EncoderModel, {})}


class FrozenTextEncoder:
    """Text -> the last hidden states of a pretrained encoder, its special tokens among them.

    A text longer than the model has positions for (BERT: 512) is cut into pieces, see `autosong_jax.data.tokenizer`,
    and the pieces' states follow each other. T5's positions are relative and have no end.
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
        self._kind, self._source = kind, source
        config = self._model.config if info is None else hub.from_pretrained(transformers.AutoConfig, source, _FLAG)
        directory = files.locate(source, _FLAG, (*tokenizer.FILES, tokenizer.SETTINGS))
        self._tokenizer = tokenizer.Tokenizer.load(tokenizer.find(directory),
                                                   getattr(config, "max_position_embeddings", None))
        self.info = info or TextEncoderInfo(f"{kind}:{source}", self._revision(), records_hold,
                                            width=config.hidden_size)
        # Genres and descriptions repeat; lyrics do not, and are long.
        self.encode_short = functools.lru_cache(maxsize=1024)(self.encode)

    @functools.cached_property
    def _model(self) -> transformers.PreTrainedModel:
        model_class, options = _MODELS[self._kind]
        return hub.load(model_class, self._source, _FLAG, **options)

    def _revision(self) -> str:
        weights = self._model.named_parameters()
        return weights_revision((name, weight.detach().cpu().numpy()) for name, weight in weights)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._model.device

    @torch.inference_mode()
    def encode(self, text: str) -> np.ndarray:
        """The states of a text, bfloat16 [L, D]; L is 0 for an empty text. Texts go through one by one, so that a state
        depends on its text alone."""
        if not text:
            return np.zeros((0, self.info.width), ml_dtypes.bfloat16)
        states = [self._model(input_ids=torch.tensor([ids], device=self._model.device)).last_hidden_state[0]
                  for ids in self._tokenizer.pieces(text)]
        return torch.cat(states).cpu().numpy().astype(ml_dtypes.bfloat16)

    def ids(self, text: str) -> np.ndarray:
        """The ids that the states are made from, int32 [L]."""
        return self._tokenizer.ids(text)

    def save(self, directory: pathlib.Path) -> None:
        """Writes a checkpoint of the encoder alone, from which `autosong_jax.pretrained.text` makes the same states."""
        self._model.save_pretrained(directory)
        self._tokenizer.save(directory / tokenizer.FILE)
