"""Are the words of the lyrics sung? Error rates of what a speech recogniser hears, word by word, character by character
and, where a language has a phonemiser, phoneme by phoneme.

The recogniser is a program of its own, `data_prep.transcribe`, as it needs PyTorch; here its transcripts are read. It
errs by itself, in songs much more than in speech: a rate means something beside that of true recordings.

Both texts are made alike first. Of lyrics and transcripts, what stands in square brackets goes (section tags, [Music]);
then, in NFKC and without case, apostrophes go, and whatever is no letter, mark or digit parts words. Accents count, and
so does how numbers are written: 2 is not two. Languages that put no spaces between words (`UNSPACED`) have no words
here: of them the characters are compared, as of all others, too, without spaces.
"""

import dataclasses
import math
import pathlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from autosong_jax import inputs
from autosong_jax.evaluation.edits import edit_distance

LANGUAGES = (
    "af", "am", "ar", "as", "az", "ba", "be", "bg", "bn", "bo", "br", "bs", "ca", "cs", "cy", "da", "de", "el",
    "en", "es", "et", "eu", "fa", "fi", "fo", "fr", "gl", "gu", "ha", "haw", "he", "hi", "hr", "ht", "hu", "hy",
    "id", "is", "it", "ja", "jw", "ka", "kk", "km", "kn", "ko", "la", "lb", "ln", "lo", "lt", "lv", "mg", "mi",
    "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "nn", "no", "oc", "pa", "pl", "ps", "pt", "ro", "ru",
    "sa", "sd", "si", "sk", "sl", "sn", "so", "sq", "sr", "su", "sv", "sw", "ta", "te", "tg", "th", "tk", "tl",
    "tr", "tt", "uk", "ur", "uz", "vi", "yi", "yo", "yue", "zh",
)
"""Codes of those that Whisper tells apart, after which results are called."""
UNSPACED = frozenset(("bo", "ja", "km", "lo", "my", "th", "yue", "zh"))
"""Of these, those written without spaces between words."""
KINDS = ("word", "character", "phoneme")

_BRACKETS = re.compile(r"\[[^\[\]\n]*\]")
_APOSTROPHES = re.compile("['\u2018\u2019\u02bc`\u00b4]")
_HAN = re.compile("([\u3007\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af]+)")
_LIMIT = 2**30  # bytes of transcripts: of a million songs

Phonemiser = Callable[[str], Sequence[str]]  # of a text as `normalized` gives it


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What a recogniser heard in a song, a line of what `data_prep.transcribe` writes.

    Attributes:
      song: its name.
      text: what was heard.
      language: in which, a code.
      told: whether the language was given, and not found by the recogniser.
      model: which recogniser.
      digest: of the audio file.
    """

    song: str
    text: str
    language: str
    told: bool
    model: str
    digest: str


def normalized(text: str) -> str:
    """A text as it is compared (see the module's docstring): words with one space between them."""
    text = _BRACKETS.sub(" ", unicodedata.normalize("NFKC", text)).casefold()
    text = unicodedata.normalize("NFKC", _APOSTROPHES.sub("", text))
    return " ".join("".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text).split())


def pinyin(text: str) -> list[str]:
    """The initials and finals of Mandarin, without tones, which a melody hides; what is not Han, by its characters."""
    import pypinyin

    phonemes = []
    for i, run in enumerate(_HAN.split(text)):
        if i % 2 == 0:
            phonemes += run.replace(" ", "")
            continue
        # A list of characters for those that the dictionary lacks, in both.
        parts = (pypinyin.lazy_pinyin(run, style=style, strict=False, errors=list)
                 for style in (pypinyin.Style.INITIALS, pypinyin.Style.FINALS))
        for initial, final in zip(*parts, strict=True):
            phonemes += [initial] if initial == final else filter(None, (initial, final))
    return phonemes


PHONEMISERS: Mapping[str, Phonemiser] = {"zh": pinyin}
"""By language. Those of other languages are for the caller to give."""


def units(text: str, language: str, phonemisers: Mapping[str, Phonemiser] = PHONEMISERS) -> dict[str, Sequence[str]]:
    """What a text is compared by: its words, characters and phonemes, those that the language has.

    Args:
      text: lyrics or a transcript.
      language: its code.
      phonemisers: by language.
    """
    text = normalized(text)
    found = {} if language in UNSPACED else {"word": text.split()}
    found["character"] = text.replace(" ", "")
    if language in phonemisers:
        found["phoneme"] = phonemisers[language](text)
    return found


def errors(lyrics: str, heard: str, language: str, phonemisers: Mapping[str, Phonemiser] = PHONEMISERS
           ) -> dict[str, np.ndarray]:
    """How many errors there are in what was heard, to be added to those of other songs; see `rates`.

    Args:
      lyrics: what should be sung.
      heard: what a recogniser heard.
      language: the code of their language; whatever is not in `LANGUAGES` counts together.
      phonemisers: by language.

    Returns:
      For each of `KINDS`, "KIND errors" (the edit distance) and "KIND count" (units of the lyrics): float64
      [languages + 1], 0 but for the song's language. In lyrics without a unit nothing counts.
    """
    wanted, sung = (units(text, language, phonemisers) for text in (lyrics, heard))
    place = LANGUAGES.index(language) if language in LANGUAGES else len(LANGUAGES)
    sums = {f"{kind} {what}": np.zeros(len(LANGUAGES) + 1) for kind in KINDS for what in ("errors", "count")}
    for kind, reference in wanted.items():
        if reference:
            sums[f"{kind} errors"][place] = edit_distance(reference, sung[kind])
            sums[f"{kind} count"][place] = len(reference)
    return sums


def rates(sums: Mapping[str, np.ndarray], kind: str) -> dict[str, float]:
    """The error rate of songs whose `errors` were added: "" of all together, and "LANGUAGE" of each that there is.

    It is errors over units of the lyrics (of words the WER, of characters the CER), so long songs count for more. It is
    0 where all is heard as it is written, and may exceed 1 where more is heard than written.
    """
    wrong, count = sums[f"{kind} errors"], sums[f"{kind} count"]
    found = {"": float(wrong.sum() / count.sum()) if count.sum() else math.nan}
    return found | {name: float(wrong[i] / count[i]) for i, name in enumerate([*LANGUAGES, "other"]) if count[i]}


def read_transcripts(path: str | pathlib.Path, what: str) -> dict[str, Transcript]:
    """The transcripts in a file of `data_prep.transcribe`, by song. A last line that was cut off is left out.

    Args:
      path: of the file.
      what: what it was given by, for errors.

    Raises:
      UserError: it cannot be read, or holds something else.
    """
    lines = inputs.read_bytes(path, what, _LIMIT).split(b"\n")
    return {found.song: found for number, line in enumerate(lines[:-1], start=1)
            for found in [inputs.parse_json(line, Transcript, f"{what} {path}, line {number}")]}
