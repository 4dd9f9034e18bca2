"""Section tags of lyrics: a line such as `[Chorus 2]` names the section of the lines below it.

Tags as people write them (numbers, singers' names, other languages) become one of a few kinds, and a model embeds the
id of the kind.
"""

import re
import unicodedata
import warnings

# An id is a place in this tuple: datasets and checkpoints hold ids, so a new kind goes to the end, with a new revision
# of the text encoders. "none" is the section of whatever stands before the first tag.
KINDS = ("none", "other", "intro", "verse", "pre-chorus", "chorus", "post-chorus", "bridge", "hook", "interlude",
         "instrumental", "solo", "break", "drop", "outro")

# What else a kind is called: in English, Spanish, French, German, Chinese, Japanese and Korean.
_OTHER_NAMES = {
    "intro": "introduction introducción prelude vorspiel 前奏 序曲 引子 イントロ 인트로 전주",
    "verse": "vers verso estrofa couplet strophe 主歌 Aメロ 平歌 ヴァース 절 벌스",
    "pre-chorus": "precoro preestribillo prérefrain lift 导歌 預副歌 预副歌 Bメロ 프리코러스",
    "chorus": "refrain coro estribillo kehrreim 副歌 サビ 大サビ コーラス 후렴 코러스",
    "post-chorus": "postcoro postestribillo postrefrain",
    "bridge": "puente pont brücke middle8 桥段 橋段 过渡 過渡 ブリッジ Cメロ 브릿지 브리지",
    "hook": "gancho フック 훅",
    "interlude": "interludio zwischenspiel 间奏 間奏 간주",
    "instrumental": "instrumentale instrumento 器乐 器樂 纯音乐 純音樂 インスト 연주",
    "solo": "独奏 獨奏 ソロ 솔로",
    "break": "breakdown ブレイク 브레이크",
    "drop": "ドロップ 드롭",
    "outro": "ending coda final finale nachspiel 尾奏 尾声 尾聲 アウトロ エンディング 아웃트로 후주",
}

_TAG = re.compile(r"\[([^\[\]]+)\]")
_REPEATS = re.compile(r"\b[x×] ?\d+|\b\d+ ?[x×]\b")
_NUMBER = re.compile(r"[\d一二三四五六七八九十]+|\b[ivx]+$")


def tag_in(line: str) -> str | None:
    """What stands between the square brackets of a line that holds nothing else; None for a line of lyrics."""
    match = _TAG.fullmatch(line.strip())
    return match and match.group(1)


def section_id(tag: str) -> int:
    """The id of a tag's kind: its place in `KINDS`.

    Case, accents, numbers (`Verse 2`, `Verse II`, `Chorus x2`) and what follows a colon or parenthesis (`Verse: Ana`)
    do not count. A name that is not known as a whole goes by its last word: `Guitar Solo` is a solo. Any other tag is
    "other", with a warning that names it.
    """
    if (known := _known_id(tag)) is not None:
        return known
    shown = tag if len(tag) <= 60 else f"{tag[:57]}..."
    warnings.warn(f"section tag [{shown}] is not known and counts as 'other'; known tags: {', '.join(KINDS[1:])}",
                  stacklevel=2)
    return KINDS.index("other")


def is_known(tag: str) -> bool:
    """Whether a tag's kind is one of `KINDS`, as `section_id` reads it."""
    return _known_id(tag) is not None


def _known_id(tag: str) -> int | None:
    words = _words(tag)
    return next((_IDS[name] for name in ("".join(words), words[-1] if words else "") if name in _IDS), None)


def _words(tag: str) -> list[str]:
    """The words of a tag without case, accents, numbers, repeats and remarks."""
    name = re.split(r"[:(|]|\s[-–—]\s", unicodedata.normalize("NFKC", tag))[0].casefold()
    name = _NUMBER.sub(" ", _REPEATS.sub(" ", name).strip())
    letters = (c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", "".join(letters))


_IDS = {"".join(_words(name)): i for i, kind in enumerate(KINDS[1:], start=1)
        for name in [kind, *_OTHER_NAMES.get(kind, "").split()]}
