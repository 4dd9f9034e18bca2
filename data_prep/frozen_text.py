"""Frozen text encoders: BERT, T5 and mT5 hidden states through `transformers`, in bfloat16.

Shape letters: L tokens, D width.
"""

import functools

import ml_dtypes
import numpy as np
import torch
import transformers

from autosong_jax.data.text import TextEncoderInfo
from data_prep import hub

_FLAG = "--text_encoder"
# The pooling layer, which not every BERT has, is of no use here.
_MODELS = {"bert": (transformers.BertModel, {"add_pooling_layer": False}),
           "t5": (transformers.T5EncoderModel, {}), "mt5": (transformers.MT5EncoderModel, {})}


class FrozenTextEncoder:
    """Text -> the last hidden states of a pretrained encoder, its special tokens among them.

    A text longer than the model has positions for (BERT: 512) is cut into pieces, between lines where that can be, and
    the pieces' states follow each other; so no lyrics are lost. T5's positions are relative and have no end.
    """

    def __init__(self, kind: str, source: str):
        """Loads the model and its tokenizer onto the GPU, if there is one.

        Args:
          kind: `bert`, `t5` or `mt5`.
          source: a hub id or a directory.

        Raises:
          UserError: there is no such model, or it is of another kind.
        """
        model_class, options = _MODELS[kind]
        self._model = hub.load(model_class, source, _FLAG, **options)
        self._tokenizer = hub.from_pretrained(transformers.AutoTokenizer, source, _FLAG)
        self._limit = getattr(self._model.config, "max_position_embeddings", None)
        self.info = TextEncoderInfo(f"{kind}:{source}", hub.revision(source, self._model), "states",
                                    width=self._model.config.hidden_size)
        # Genres and descriptions repeat; lyrics do not, and are long.
        self.encode_short = functools.lru_cache(maxsize=1024)(self.encode)

    @torch.inference_mode()
    def encode(self, text: str) -> np.ndarray:
        """The states of a text, bfloat16 [L, D]; L is 0 for an empty text. Texts go through one by one, so that a state
        depends on its text alone."""
        if not text:
            return np.zeros((0, self.info.width), ml_dtypes.bfloat16)
        states = [self._model(input_ids=torch.tensor([ids], device=self._model.device)).last_hidden_state[0]
                  for ids in self._token_windows(text)]
        return torch.cat(states).cpu().numpy().astype(ml_dtypes.bfloat16)

    def _token_windows(self, text: str) -> list[list[int]]:
        """Ids, special tokens included, of each piece of the text that the model takes in one go."""
        if self._limit is None:
            return [self._tokenizer(text)["input_ids"]]
        room = self._limit - self._tokenizer.num_special_tokens_to_add()
        pieces, used = [], room
        for line in text.split("\n"):
            length = len(self._tokenizer(line, add_special_tokens=False)["input_ids"])
            if used + length <= room:
                pieces[-1] += "\n" + line
                used += length
            else:
                pieces.append(line)
                used = length
        return self._tokenizer(pieces, truncation=True, max_length=self._limit,
                               return_overflowing_tokens=True)["input_ids"]
