"""Text -> the ids that a frozen text encoder reads, by the tokenizer of its checkpoint. Imports no jax."""

import pathlib

import numpy as np
import tokenizers

from autosong_jax.errors import UserError

FILE = "tokenizer.json"


class Tokenizer:
    """Ids of texts, special tokens among them.

    A text longer than the model has positions for (BERT: 512) is cut into pieces, between lines where that can be, each
    with special tokens of its own; so no lyrics are lost. The ids of a text are those of its pieces one after another.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, limit: int | None = None):
        """Args: the tokenizer of the library; how many ids a piece may have, None for any number."""
        self._tokenizer = tokenizer
        self._limit = limit
        tokenizer.no_padding()
        if limit is None:
            tokenizer.no_truncation()
        else:
            tokenizer.enable_truncation(limit)

    @classmethod
    def load(cls, path: str | pathlib.Path, limit: int | None = None) -> "Tokenizer":
        """Reads a `tokenizer.json`. Raises UserError where it is none."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)), limit)
        except Exception as error:  # the library raises nothing more special
            raise UserError(f"{path} is not a tokenizer ({error}): expected the tokenizer.json that belongs to the "
                            "checkpoint") from error

    def save(self, path: str | pathlib.Path) -> None:
        """Writes a `tokenizer.json`."""
        self._tokenizer.save(str(path))

    @property
    def special(self) -> tuple[int, ...]:
        """The ids of a text without any token of its own: [CLS] and [SEP] for BERT, the end token for T5."""
        return tuple(self._tokenizer.encode("").ids)

    def ids(self, text: str) -> np.ndarray:
        """int32 [L]; L is 0 for an empty text."""
        return np.array([i for piece in self.pieces(text) for i in piece], np.int32)

    def pieces(self, text: str) -> list[list[int]]:
        """The ids of each piece that the model takes in one go; none for an empty text."""
        if not text:
            return []
        if self._limit is None:
            return self._encode(text)
        room = self._limit - len(self.special)
        pieces, used = [], room
        for line in text.split("\n"):
            length = sum(map(len, self._encode(line, special=False)))
            if pieces and used + length <= room:
                pieces[-1] += "\n" + line
                used += length
            else:
                pieces.append(line)
                used = length
        return [ids for piece in pieces for ids in self._encode(piece)]

    def _encode(self, text: str, special: bool = True) -> list[list[int]]:
        """The ids of a text, and, where they are more than the limit, of what is left of it, and so on."""
        encoding = self._tokenizer.encode(text, add_special_tokens=special)
        return [encoding.ids, *(rest.ids for rest in encoding.overflowing)]
