"""Text -> the ids that a frozen text encoder reads, by the tokenizer of its checkpoint. Imports no jax.

Checkpoints come with a `tokenizer.json`; older ones only with what one can be made of: BERT with its vocabulary, T5 and
mT5 with a model of SentencePiece, which is a protocol buffer.
"""

import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from autosong_jax import inputs
from autosong_jax.errors import UserError

FILE = "tokenizer.json"
FILES = (FILE, "vocab.txt", "spiece.model")  # any of which will do; the first is taken
SETTINGS = "tokenizer_config.json"  # beside BERT's, about case and accents
_LARGEST = 2**28  # bytes of any of them
_UNIGRAM = 1  # the type of SentencePiece models that T5 and its kin have


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
        """Reads a `tokenizer.json`, `vocab.txt` or `spiece.model`. Raises UserError where it is none."""
        path = pathlib.Path(path)
        read = {"vocab.txt": _from_vocabulary, "spiece.model": _from_sentencepiece}.get(path.name, _from_json)
        inputs.read_bytes(path, "the tokenizer", _LARGEST)
        try:
            return cls(read(path), limit)
        except UserError:
            raise
        except BaseException as error:  # the library raises nothing more special, and panics where it did not expect it
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise UserError(f"{path} is not a tokenizer ({error}): expected the {FILE} that belongs to the checkpoint"
                            ) from error

    def save(self, path: str | pathlib.Path) -> None:
        """Writes a `tokenizer.json`."""
        self._tokenizer.save(str(path))

    @property
    def special(self) -> tuple[int, ...]:
        """The ids of a text without any token of its own: [CLS] and [SEP] for BERT, the end token for T5."""
        return tuple(self._tokenizer.encode("").ids)

    @property
    def num_ids(self) -> int:
        """One more than the largest id that a text may have."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    def ids(self, text: str) -> np.ndarray:
        """int32 [L]; L is 0 for an empty text."""
        return np.array([i for piece in self.pieces(text) for i in piece], np.int32)

    def spans(self, text: str) -> np.ndarray:
        """The characters of the text, from start to before stop, that each id came from: int32 [L, 2]. Special tokens
        came from none."""
        spans, at = [], 0
        for piece in self._pieces(text):
            spans += [(at + start, at + stop) for encoding in self._encode(piece) for start, stop in encoding.offsets]
            at += len(piece) + len("\n")
        return np.array(spans, np.int32).reshape(-1, 2)

    def unknown(self, text: str) -> list[tuple[int, int]]:
        """The characters of the text, from start to before stop, that the tokenizer has no token for."""
        unknown = [i for token in ("[UNK]", "<unk>") if (i := self._tokenizer.token_to_id(token)) is not None]
        return [(int(start), int(stop)) for start, stop in self.spans(text)[np.isin(self.ids(text), unknown)]]

    def pieces(self, text: str) -> list[list[int]]:
        """The ids of each piece that the model takes in one go; none for an empty text."""
        return [encoding.ids for piece in self._pieces(text) for encoding in self._encode(piece)]

    def _pieces(self, text: str) -> list[str]:
        """The text, cut at ends of lines where it has more ids than the model has positions for."""
        if not text:
            return []
        if self._limit is None:
            return [text]
        room = self._limit - len(self.special)
        pieces, used = [], room
        for line in text.split("\n"):
            length = sum(len(encoding.ids) for encoding in self._encode(line, special=False))
            if pieces and used + length <= room:
                pieces[-1] += "\n" + line
                used += length
            else:
                pieces.append(line)
                used = length
        return pieces

    def _encode(self, text: str, special: bool = True) -> list[tokenizers.Encoding]:
        """A text, and, where it has more ids than the limit, what is left of it, and so on."""
        encoding = self._tokenizer.encode(text, add_special_tokens=special)
        return [encoding, *encoding.overflowing]


def find(directory: str | pathlib.Path) -> pathlib.Path:
    """The file of a checkpoint that its tokenizer is in. Raises UserError where there is none."""
    for name in FILES:
        if (pathlib.Path(directory) / name).is_file():
            return pathlib.Path(directory) / name
    raise UserError(f"{directory} has no tokenizer, expected one of {', '.join(FILES)}: copy that of the checkpoint "
                    "there")


def _from_json(path: pathlib.Path) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    if isinstance(tokenizer.normalizer, normalizers.BertNormalizer):
        settings = _bert_settings(path)
        if "lowercase" in settings:  # for transformers, too, this counts more than what tokenizer.json says
            tokenizer.normalizer = normalizers.BertNormalizer(**settings)
    return tokenizer


def _from_vocabulary(path: pathlib.Path) -> tokenizers.Tokenizer:
    """BERT's tokenizer from its vocabulary, a token a line."""
    tokenizer = tokenizers.BertWordPieceTokenizer(str(path), **_bert_settings(path))
    return tokenizers.Tokenizer.from_str(tokenizer.to_str())


def _bert_settings(path: pathlib.Path) -> dict[str, bool | None]:
    """What the file beside a tokenizer says of case, accents and Chinese."""
    settings = path.with_name(SETTINGS)
    values = inputs.read_json(settings, dict[str, Any], "the tokenizer's settings") if settings.exists() else {}
    names = {"do_lower_case": "lowercase", "strip_accents": "strip_accents",
             "tokenize_chinese_chars": "handle_chinese_chars"}
    wrong = [name for name in names if not isinstance(values.get(name), bool | None)]
    if wrong:
        raise UserError(f"the tokenizer's settings {settings} have {wrong[0]} {values[wrong[0]]!r}: expected true, "
                        "false or nothing")
    return {names[name]: value for name, value in values.items() if name in names}


def _from_sentencepiece(path: pathlib.Path) -> tokenizers.Tokenizer:
    """T5's tokenizer from a SentencePiece model; numbers of fields are those of `sentencepiece_model.proto`."""
    # By hand: what `tokenizers` has for it wants SentencePiece's sentencepiece_model_pb2.py in the current directory.
    pieces, trainer, normalizer = [], {}, {}
    for number, value in _fields(path.read_bytes()):
        if number == 1:
            piece = dict(_fields(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece.get(2, bytes(4)))[0]))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normalizer = dict(_fields(value))
    if trainer.get(3, _UNIGRAM) != _UNIGRAM:
        raise ValueError(f"a SentencePiece model of type {trainer[3]}, expected {_UNIGRAM}, unigram")
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=trainer.get(40, 0)))
    if normalizer.get(2):
        tokenizer.normalizer = normalizers.Precompiled(normalizer[2])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return tokenizer


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The numbers and values of the fields of a protocol buffer's message."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value

    while at < len(data):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}[wire] if wire != 2 else varint()
        at += size
        yield number, data[at - size:at]
