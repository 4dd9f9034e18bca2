"""Text encoders: lyrics, genres and descriptions as ids, which a model embeds.

`bytes` takes any text as its UTF-8 bytes. `pinyin` spells Han characters as syllables with a tone number, so that a
model reads how 行 sounds, xing2 here and hang2 there; all other text is as with `bytes`. Both have the same ids:

  0 padding · 1 section tag · 2 start of a syllable · 3 + b the byte b

A syllable is spelled in ASCII behind id 2, so the vocabulary depends on no dictionary. The frozen encoders (BERT, T5)
give states; what runs them is elsewhere, here is only how a dataset or a workdir says which one it was.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable

import numpy as np

from autosong_jax import inputs
from autosong_jax.errors import UserError
from autosong_jax.sources.text import sections

PADDING, SECTION, SYLLABLE, FIRST_BYTE = range(4)
VOCAB_SIZE = FIRST_BYTE + 256
NUM_LINES = 256  # lines from this one on share the last line id
INFO_FILE = "text_encoder.json"
DIRECTORY = "text_encoder"  # beside it: a frozen encoder itself, as a checkpoint

_LARGEST = 2**20  # of a table's size or a width

# CJK ideographs, their extensions and the ideographic zero.
_HAN = re.compile("([\u3007\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af]+)")


@dataclasses.dataclass(frozen=True)
class TextEncoderInfo:
    """What `text_encoder.json` holds: the encoder that a dataset's texts went through.

    Attributes:
      name: `bytes` or `pinyin`, or for a frozen encoder its kind and its hub id or path, such as `t5:ID`.
      revision: of the rules that make ids; of a frozen encoder, `weights_revision`.
      kind: what the records of a dataset hold: `ids`, which a model learns to read, `states` of a frozen encoder, or
        `tokens`, the ids that the frozen encoder reads, whose states are made when they are needed.
      vocab_size, num_sections, num_lines: for ids, the sizes of the three embedding tables; else 0.
      width: for states and tokens, the width D of the states; else 0.
    """

    name: str
    revision: str
    kind: str
    vocab_size: int = 0
    num_sections: int = 0
    num_lines: int = 0
    width: int = 0

    def __post_init__(self):
        sizes = {"ids": ("vocab_size", "num_sections", "num_lines"), "states": ("width",), "tokens": ("width",)}
        if self.kind not in sizes:
            raise UserError(f"text encoder {self.name!r} is of kind {self.kind!r}, expected one of {', '.join(sizes)}")
        for field in sizes[self.kind]:
            if not 1 <= getattr(self, field) <= _LARGEST:
                raise UserError(f"text encoder {self.name!r} has {field} {getattr(self, field)}, expected at least 1 "
                                f"and at most {_LARGEST}")

    @property
    def frozen(self) -> bool:
        """Whether what a model reads are the states of a frozen encoder."""
        return self.kind != "ids"

    @property
    def as_read(self) -> "TextEncoderInfo":
        """Of what a model reads: of states where records hold tokens."""
        return dataclasses.replace(self, kind="states") if self.frozen else self

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `text_encoder.json` into a directory that exists."""
        text = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)
        (pathlib.Path(directory) / INFO_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | pathlib.Path) -> "TextEncoderInfo":
        """Reads `text_encoder.json`. Raises UserError where there is none or it is not one."""
        path = pathlib.Path(directory) / INFO_FILE
        try:
            return inputs.read_json(path, cls, "its JSON", limit=2**20)
        except UserError as error:
            raise UserError(f"{path} does not describe a text encoder ({error}): export the songs again") from error


def weights_revision(weights: Iterable[tuple[str, np.ndarray]]) -> str:
    """The revision of a frozen encoder: a digest of its weights in float32, wherever they lie and in whatever order.

    Args:
      weights: (name, tensor) as in a checkpoint of the encoder alone.
    """
    digests = [f"{name} {hashlib.sha256(np.ascontiguousarray(tensor, np.float32)).hexdigest()}\n"
               for name, tensor in weights]
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class EncodedText:
    """Lyrics as int32 arrays [L]: ids, section ids (places in `sections.KINDS`), line numbers from 0; and spans, int32
    [L, 2]: the characters of the lyrics that each id came from, from start to before stop; none for the end of a line.
    """

    ids: np.ndarray
    sections: np.ndarray
    lines: np.ndarray
    spans: np.ndarray


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """Text -> ids in [0, vocab_size). `spell` turns a line without line ends into the ids of each of its characters."""

    name: str
    revision: str
    spell: Callable[[str], list[list[int]]]

    @property
    def vocab_size(self) -> int:
        return VOCAB_SIZE

    @property
    def info(self) -> TextEncoderInfo:
        return TextEncoderInfo(self.name, self.revision, "ids", VOCAB_SIZE, len(sections.KINDS), NUM_LINES)

    def encode(self, text: str) -> np.ndarray:
        """A genre or a description as ids, int32 [L]; brackets mean nothing in it."""
        spelled = self.spell(" ".join(line.text for line in _lines(text)))
        return np.array(list(itertools.chain.from_iterable(spelled)), np.int32)

    def spans(self, lyrics: str) -> np.ndarray:
        """int32 [L, 2], of `encode_lyrics`; a frozen encoder has the same for its own ids."""
        return self.encode_lyrics(lyrics).spans

    def encode_lyrics(self, lyrics: str) -> EncodedText:
        """Lyrics as ids with the section and the line of each.

        A section tag becomes the one id `SECTION` and is the section from there on. Every other line ends with the id
        of the byte 10; blank lines, however many, are that id alone. Lines are numbered without tags and blank lines.
        """
        ids, section_ids, line_ids = [], [], []
        starts, stops, counts = [], [], []  # of what ids are made from, and how many each gives
        section = number = 0
        for line in _lines(lyrics):
            tag = sections.tag_in(line.text)
            if tag:
                section = sections.section_id(tag)
                spelled, spans = [[SECTION]], ([line.start], [line.stop])
            else:
                spelled, spans = [*self.spell(line.text), [FIRST_BYTE + ord("\n")]], line.spans()
            new = list(itertools.chain.from_iterable(spelled))
            ids += new
            starts += spans[0]
            stops += spans[1]
            counts += map(len, spelled)
            section_ids += [section] * len(new)
            line_ids += [min(number, NUM_LINES - 1)] * len(new)
            number += bool(line.text) and not tag
        spans = np.array([starts, stops], np.int32).T.repeat(np.array(counts, int), axis=0)
        return EncodedText(*(np.array(values, np.int32) for values in (ids, section_ids, line_ids)), spans)


def get_text_encoder(name: str) -> TextEncoder:
    """The id encoder of that name. Raises UserError for any other name, and for `pinyin` without pypinyin."""
    if name not in _ENCODERS:
        raise UserError(f"text encoder {name!r} does not make ids, expected one of {', '.join(_ENCODERS)}")
    if name == "pinyin":
        _import_pypinyin()
    return _ENCODERS[name]


def rebuild_text_encoder(info: TextEncoderInfo) -> TextEncoder:
    """The id encoder that `info` describes. Raises UserError where this version's encoder of that name differs."""
    encoder = get_text_encoder(info.name)
    if encoder.info != info:
        raise UserError(f"the texts went through the encoder {info.name!r} of revision {info.revision}, but this "
                        f"version of autosong_jax has revision {encoder.revision}: use the version that exported the "
                        "songs, or export and train again")
    return encoder


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line, stripped and in NFC, of the characters `start` to before `stop` of a text, which are `raw`."""

    raw: str
    start: int

    @property
    def stop(self) -> int:
        return self.start + len(self.raw)

    @functools.cached_property
    def text(self) -> str:
        return unicodedata.normalize("NFC", self.raw)

    def spans(self) -> tuple[list[int], list[int]]:
        """Where what each character of the line was made from starts in the text, the line's end among them, and where
        it stops.
        """
        if self.text == self.raw:
            return [*range(self.start, self.stop), self.stop], [*range(self.start + 1, self.stop + 1), self.stop]
        starts, stops, at = [], [], self.start
        for cluster in _clusters(self.raw):
            made = len(unicodedata.normalize("NFC", cluster))
            starts += [at] * made
            at += len(cluster)
            stops += [at] * made
        if len(starts) != len(self.text):  # a character that joins others in a way not known here
            starts, stops = [self.start] * len(self.text), [self.stop] * len(self.text)
        return [*starts, self.stop], [*stops, self.stop]


def _clusters(text: str) -> list[str]:
    """The text in pieces: characters, each with what may join it in NFC, marks and the vowels and finals of Hangul."""
    clusters = []
    for character in text:
        if clusters and (unicodedata.category(character).startswith("M") or "\u1160" <= character <= "\u11ff"):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters


def _lines(text: str) -> list[_Line]:
    """The lines of a text, with no blank line at either end and no two in a row."""
    lines, at = [], 0
    for raw in text.splitlines(keepends=True):
        kept = raw.removeprefix("\ufeff") if not at else raw
        stripped = kept.strip()
        lines.append(_Line(stripped, at + len(raw) - len(kept.lstrip())))
        at += len(raw)
    lines = [line for before, line in itertools.pairwise([_Line("", 0), *lines]) if line.raw or before.raw]
    return lines[:-1] if lines and not lines[-1].raw else lines


def _spell_bytes(text: str) -> list[list[int]]:
    return list(map(_spell_character, text))


@functools.lru_cache(2**14)
def _spell_character(character: str) -> list[int]:
    # "replace" for half a surrogate pair, which JSON can hold and UTF-8 cannot.
    return [FIRST_BYTE + byte for byte in character.encode("utf-8", "replace")]


def _spell_pinyin(text: str) -> list[list[int]]:
    pypinyin = _import_pypinyin()
    ids = []
    for i, run in enumerate(_HAN.split(text)):
        if i % 2 == 0:  # between runs of Han characters
            ids += _spell_bytes(run)
            continue
        # The whole run at once, because its words decide how a character is read; a list of characters for those that
        # the dictionary lacks.
        syllables = pypinyin.lazy_pinyin(run, style=pypinyin.Style.TONE3, errors=list)
        for character, syllable in zip(run, syllables, strict=True):
            if syllable.isascii():  # the fifth, neutral tone goes without a number in pypinyin
                syllable += "" if syllable[-1].isdigit() else "5"
                ids.append([SYLLABLE, *itertools.chain.from_iterable(_spell_bytes(syllable))])
            else:
                ids.append(_spell_character(character))
    return ids


def _import_pypinyin():
    try:
        import pypinyin
    except ImportError as error:
        raise UserError("the text encoder 'pinyin' needs the package pypinyin: pip install pypinyin") from error
    return pypinyin


_ENCODERS = {"bytes": TextEncoder("bytes", "1", _spell_bytes), "pinyin": TextEncoder("pinyin", "1", _spell_pinyin)}
