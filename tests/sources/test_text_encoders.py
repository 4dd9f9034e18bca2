import dataclasses
import itertools
import json
import sys
import unicodedata

import numpy as np
import pytest

from autosong_jax.errors import UserError
from autosong_jax.sources.text import sections
from autosong_jax.sources.text.encoders import (
    FIRST_BYTE,
    SECTION,
    SYLLABLE,
    TextEncoderInfo,
    get_text_encoder,
    rebuild_text_encoder,
)

BYTES = get_text_encoder("bytes")


def readable(ids: np.ndarray) -> str:
    """The text that ids stand for: § for a section tag, ' for the start of a syllable."""
    return b"".join({1: "§".encode(), 2: b"'"}.get(i) or bytes([i - 3]) for i in ids.tolist()).decode()


def test_lyrics_become_bytes_with_their_section_and_line():
    lyrics = "hm\r\n\n\n[Verse 1]\none é\ntwo\n\n[Chorus]\n  la \n[Solo]\n\n"
    encoded = BYTES.encode_lyrics(lyrics)
    expected = [  # text, section, line
        ("hm\n", "none", 0), ("\n", "none", 1), ("§", "verse", 1), ("one é\n", "verse", 1), ("two\n", "verse", 2),
        ("\n", "verse", 3), ("§", "chorus", 3), ("la\n", "chorus", 3), ("§", "solo", 4),
    ]
    assert readable(encoded.ids) == "".join(text for text, _, _ in expected)
    # Of the texts only é and § are more than one byte; § is one id.
    lengths = [len(text.replace("§", "_").encode()) for text, _, _ in expected]
    kinds = [sections.KINDS[i] for i in encoded.sections]
    assert kinds == np.repeat([kind for _, kind, _ in expected], lengths).tolist()
    assert encoded.lines.tolist() == np.repeat([line for _, _, line in expected], lengths).tolist()
    assert encoded.ids.dtype == encoded.sections.dtype == encoded.lines.dtype == np.int32


@pytest.mark.parametrize("lyrics", ["", "\n \r\n", "\ufeff"])
def test_no_lyrics_are_no_ids(lyrics):
    encoded = BYTES.encode_lyrics(lyrics)
    assert encoded.ids.shape == encoded.sections.shape == encoded.lines.shape == (0,)
    assert BYTES.encode(lyrics).shape == (0,)


def test_ways_to_write_the_same_lyrics():
    expected = BYTES.encode_lyrics("caf\u00e9\nnoir").ids
    for same in ("cafe\u0301\nnoir", "café\r\nnoir\r\n", "café\rnoir", "\ufeffcafé\u2028noir", " café \n noir\n\n\n"):
        assert BYTES.encode_lyrics(same).ids.tolist() == expected.tolist()


def test_every_text_has_ids_within_the_vocabulary():
    text = "".join(map(chr, [*range(0x3000), 0x1F600, 0xD800]))
    for name in ("bytes", "pinyin"):
        encoder = get_text_encoder(name)
        ids = encoder.encode_lyrics(text).ids
        assert ids.min() >= 1
        assert ids.max() < encoder.vocab_size == encoder.info.vocab_size


def test_lines_far_down_share_one_id():
    encoded = BYTES.encode_lyrics("a\n" * 300)
    assert encoded.lines.tolist() == np.repeat(np.minimum(np.arange(300), 255), 2).tolist()
    assert encoded.lines.max() < BYTES.info.num_lines


def test_genre_is_one_line_in_which_brackets_mean_nothing():
    assert readable(BYTES.encode(" [Chorus]\nrock\n")) == "[Chorus] rock"


@pytest.mark.parametrize(("kind", "tags"), [
    ("verse", ["verse", "Verse 2", "VERSE II", "Verse 1: Ana & Bo", "verse (quiet)", "Verse 1 - Ana", "Strophe 2",
               "1절", "主歌二", "Ａメロ", "Couplet", "Estrofa 1"]),
    ("pre-chorus", ["Pre-Chorus", "pre chorus", "PreChorus 2", "Pré-refrain", "预副歌", "Bメロ"]),
    ("chorus", ["Chorus x2", "2x chorus", "Final Chorus", "Refrain", "Coro", "estribillo", "副歌", "サビ", "후렴"]),
    ("post-chorus", ["Post-Chorus"]),
    ("bridge", ["Bridge", "Puente", "Brücke", "Pont", "ブリッジ", "Middle 8"]),
    ("instrumental", ["Instrumental"]),
    ("break", ["Instrumental Break", "Breakdown"]),
    ("solo", ["Guitar Solo", "solo"]),
    ("intro", ["Intro", "Introducción", "前奏"]),
    ("interlude", ["间奏", "Interlude 1"]),
    ("outro", ["Outro", "尾声"]),
    ("other", ["Other"]),
])
def test_section_tags(kind, tags, recwarn):
    assert {sections.KINDS[sections.section_id(tag)] for tag in tags} == {kind}
    assert all(map(sections.is_known, tags))
    assert not recwarn


@pytest.mark.parametrize("tag", ["Kazoo", "12", "?!", "verse chorus kazoo"])
def test_unknown_tags_are_other_and_named(tag):
    with pytest.warns(UserWarning, match="not known and counts as 'other'; known tags: .*pre-chorus") as caught:
        encoded = BYTES.encode_lyrics(f"[{tag}]\nla")
    assert f"[{tag}]" in str(caught[0].message) and not sections.is_known(tag)
    assert {sections.KINDS[i] for i in encoded.sections} == {"other"}


@pytest.mark.parametrize("line", ["[Chorus] la", "la [Chorus]", "(Chorus)", "[[Chorus]]", "[]", "Chorus:"])
def test_lines_that_are_no_tags(line):
    encoded = BYTES.encode_lyrics(line)
    assert readable(encoded.ids) == line + "\n"
    assert not encoded.sections.any()


def test_pinyin_reads_words_and_passes_other_scripts_through():
    encode = get_text_encoder("pinyin").encode
    assert readable(encode("银行")) == "'yin2'hang2"
    assert readable(encode("行走")) == "'xing2'zou3"
    assert readable(encode("女儿, 好吗? la")) == "'nv3'er2, 'hao3'ma5? la"
    assert readable(encode("さくら café")) == "さくら café"
    assert readable(encode("𠮷")) == "𠮷", "a character that the dictionary lacks"


def test_pinyin_without_han_is_bytes():
    lyrics = "[Verse]\nhello, é 후렴\n\nla"
    np.testing.assert_equal(dataclasses.asdict(get_text_encoder("pinyin").encode_lyrics(lyrics)),
                            dataclasses.asdict(BYTES.encode_lyrics(lyrics)))


def test_pinyin_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pypinyin", None)
    with pytest.raises(UserError, match="pip install pypinyin"):
        get_text_encoder("pinyin")


def test_unknown_encoder():
    with pytest.raises(UserError, match="'t5:x' does not make ids, expected one of bytes, pinyin"):
        get_text_encoder("t5:x")


def test_info_is_saved_and_rebuilds_the_encoder(tmp_path):
    BYTES.info.save(tmp_path)
    info = TextEncoderInfo.load(tmp_path)
    assert info == BYTES.info
    assert rebuild_text_encoder(info) is BYTES
    with pytest.raises(UserError, match="revision 0, but this version of autosong_jax has revision 1"):
        rebuild_text_encoder(dataclasses.replace(info, revision="0"))


def test_frozen_encoders_are_described_by_name_revision_and_width(tmp_path):
    info = TextEncoderInfo("bert:some/model", "0a1b2c", "states", width=8)
    info.save(tmp_path)
    assert TextEncoderInfo.load(tmp_path) == info


@pytest.mark.parametrize("content", [
    None, "", "[]", "{}", '{"name": "bytes", "revision": "1", "kind": "ids", "colour": 3}',
])
def test_unreadable_info(content, tmp_path):
    if content is not None:
        (tmp_path / "text_encoder.json").write_text(content)
    with pytest.raises(UserError, match=r"text_encoder.json does not describe a text encoder"):
        TextEncoderInfo.load(tmp_path)


@pytest.mark.parametrize(("change", "message"), [
    ({"kind": "pictures"}, "of kind 'pictures', expected one of ids, states, tokens"),
    ({"vocab_size": 0}, "has vocab_size 0, expected at least 1"),
    ({"kind": "states"}, "has width 0, expected at least 1"),
])
def test_info_that_contradicts_itself(change, message, tmp_path):
    (tmp_path / "text_encoder.json").write_text(json.dumps(dataclasses.asdict(BYTES.info) | change))
    with pytest.raises(UserError, match=message):
        TextEncoderInfo.load(tmp_path)


@pytest.mark.parametrize("name", ["bytes", "pinyin"])
@pytest.mark.parametrize("lyrics", [
    "\ufeff  [Verse 1] \r\n  caf\u00e9, cafe\u0301 noir\t\n\n\n 银行 行走 la\u2028\u1112\u1161\u11ab x",
    "", "\n \n", "[chorus]", "a\u0323\u0307 \u212b \ud800 \U0001f600"])
def test_spans_are_the_characters_that_ids_came_from(name, lyrics):
    encoder = get_text_encoder(name)
    encoded = encoder.encode_lyrics(lyrics)
    assert encoded.spans.shape == (len(encoded.ids), 2) and encoded.spans.dtype == np.int32
    assert (np.diff(encoded.spans[:, 0]) >= 0).all()
    came_from = [lyrics[start:stop] for start, stop in encoded.spans]
    for (i, text), section in zip(zip(encoded.ids, came_from, strict=True), encoded.sections, strict=True):
        assert bool(text) == (i != FIRST_BYTE + 10), "all but the ends of lines"
        assert i != SECTION or (text.startswith("[") and text.endswith("]") and section)
    for (start, stop), ids in itertools.groupby(zip(encoded.spans.tolist(), encoded.ids, strict=True),
                                                lambda pair: tuple(pair[0])):
        ids = [i for _, i in ids]
        if start < stop and SECTION not in ids and SYLLABLE not in ids:  # the bytes of those characters alone
            normal = unicodedata.normalize("NFC", lyrics[start:stop]).encode("utf-8", "replace")
            assert ids == [FIRST_BYTE + byte for byte in normal]
    covered = {c for start, stop in encoded.spans for c in range(start, stop)}
    assert all(c in covered for c, character in enumerate(lyrics) if not character.isspace() and character != "\ufeff")
