"""When lyrics are sung: the way through planted attention, against naive search, and what is written of it."""

import dataclasses
import itertools
import json
import types

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax import inputs
from autosong_jax.codebooks.patterns import get_pattern
from autosong_jax.errors import UserError
from autosong_jax.sampling import aligner, alignment
from autosong_jax.sampling.alignment import Alignment, Calibration, Text, Timed, Walk, best_heads, monotone_frames
from autosong_jax.sampling.samplers import Autoregressive, Continuous, Masked, SampledModel
from autosong_jax.sources.memory import Memory
from autosong_jax.sources.text.encoders import get_text_encoder

LYRICS = "[verse]\nla lo, la\n\n\n[Chorus 2]\n  mi é-so!\nla lo, la\n[outro]\n...\n"
SUNG = "lalola" "miéso" "lalola"


def text_of(lyrics=LYRICS, encoder="bytes"):
    return Text(lyrics, get_text_encoder(encoder).encode_lyrics(lyrics).spans)


def staircase(starts, frames, stop=None):
    """Attention 1 to a column from its start to that of the next one, or to `stop`; 0 elsewhere."""
    scores = np.zeros((frames, len(starts)), np.float32)
    for column, (start, end) in enumerate(itertools.pairwise([*starts, stop or frames])):
        scores[start:end, column] = 1
    return scores


@pytest.mark.parametrize("draw", [lambda rng, shape: rng.random(shape), lambda rng, shape: rng.integers(0, 3, shape)])
def test_the_frames_gather_the_most_of_all_that_never_go_back(draw):
    rng = np.random.default_rng(0)
    for length, columns in [(1, 1), (1, 4), (5, 1), (6, 4), (4, 6), (9, 3)]:
        scores = draw(rng, (length, columns)).astype(np.float32)
        ways = itertools.combinations_with_replacement(range(length), columns)
        gathered = {way: sum(float(scores[t, c]) for c, t in enumerate(way)) for way in ways}
        most = max(gathered.values())
        among = [way for way, value in gathered.items() if value >= most - 1e-6]
        expected = min(among, key=lambda way: way[::-1])  # the earlier frame, from the last column on
        assert tuple(monotone_frames(scores)) == expected


def test_the_way_equals_naive_dynamic_time_warping():
    scores = np.random.default_rng(1).random((70, 40))
    table = np.full((71, 41), -np.inf)
    table[:, 0] = 0
    for t in range(70):
        for c in range(40):
            table[t + 1, c + 1] = max(table[t, c + 1], table[t + 1, c] + scores[t, c])
    frames = monotone_frames(scores)
    assert (np.diff(frames) >= 0).all()
    assert scores[frames, np.arange(40)].sum() == pytest.approx(table[70, 40])


def test_a_noisy_staircase_is_climbed_step_by_step():
    text, rng = text_of("la lo\nla lo\n"), np.random.default_rng(2)  # whose lines are the same
    starts = np.sort(rng.choice(np.arange(30, 190), len(text.spans), replace=False))  # after a long silence
    noisy = 0.6 * staircase(starts, 200) * (1 - 0.1 * rng.random((200, len(starts)))) + 0.05 * rng.random((200, 1))
    walk = Walk(text, noisy)
    np.testing.assert_array_equal(walk.starts, starts)
    made = Alignment.of(walk, 10.0, [(0, 0)], spelled=True)
    assert [(line.text, line.start) for line in made.lines] == [("la lo", starts[0] / 10), ("la lo", starts[4] / 10)]
    assert made.lines[0].end == made.lines[1].start and made.duration == 20.0


def test_a_line_ends_when_its_last_character_has_lasted_as_long_as_any_other():
    walk = Walk(text_of("la lo\nmi\n"), staircase([10, 13, 17, 20, 60, 62], 100, stop=63))
    made = Alignment.of(walk, 10.0, [(0, 0)], spelled=True)
    assert [(line.start, line.end) for line in made.lines] == [(1.0, 2.4), (6.0, 6.6)]
    assert [(word.text, word.start, word.end) for word in made.words] == [
        ("la", 1.0, 1.7), ("lo", 1.7, 2.4), ("mi", 6.0, 6.6)]


def test_tags_blanks_and_punctuation_are_not_sung():
    text = text_of()
    assert [LYRICS[slice(*line)] for line in text.lines] == ["la lo, la", "mi é-so!", "la lo, la"]
    assert [LYRICS[slice(*word)] for word in text.words] == ["la", "lo,", "la", "mi", "é-so!", "la", "lo,", "la"]
    assert "".join(LYRICS[slice(*span)] for span in text.spans) == SUNG
    # Attention to both bytes of é is attention to it, and that to a tag is to nothing that is sung.
    spans = get_text_encoder("bytes").encode_lyrics(LYRICS).spans
    weights = np.arange(2 * len(spans), dtype=np.float32).reshape(2, -1)
    expected = [weights[:, (spans == span).all(axis=1)].sum(axis=1) for span in text.spans]
    np.testing.assert_allclose(text.scores(weights), np.transpose(expected))


def test_pieces_of_words_and_characters_that_are_words():
    lyrics = "[Verse]\nlovely night\n"
    pieces = Text(lyrics, [(0, 7), (0, 0), (8, 12), (12, 14), (14, 20), (20, 20)])  # a blank before the last word
    assert pieces.spans.tolist() == [[8, 12], [12, 14], [14, 20]] and pieces.at.tolist() == [8, 12, 15]
    made = Alignment.of(Walk(pieces, staircase([0, 3, 5], 8)), 1.0, [(0, 0)], spelled=False)
    assert made.characters is None and [word.start for word in made.words] == [0.0, 5.0]
    assert len(text_of("行行\n", "pinyin").spans) == 2  # each of several ids


def test_what_the_model_does_not_read_has_no_time():
    spans = get_text_encoder("bytes").encode_lyrics(LYRICS).spans
    text = Text(LYRICS, spans[:9])  # [verse] and "la lo, l"
    made = Alignment.of(Walk(text, staircase([0, 1, 2, 3, 4], 6)), 1.0, [(0, 0)], spelled=True)
    assert len(made.lines) == 1 and len(made.words) == 3 and len(made.characters) == 5


def test_attention_to_everything_is_no_confidence():
    text = text_of("la lo\nmi\n")
    made = Alignment.of(Walk(text, np.full((20, 6), 1 / 6)), 1.0, [(0, 0)], spelled=True)
    # Of six columns those at the ends have one neighbour, the others two.
    assert [line.confidence for line in made.lines] == [round((2 + 3 + 3 + 3) / 24, 3), round((3 + 2) / 12, 3)]
    assert made.words[1].confidence == 0.5 and made.characters[0].confidence == round(2 / 6, 3)


def test_the_planted_heads_are_found():
    text, rng = text_of("la lo mi\n"), np.random.default_rng(3)
    starts = np.arange(6) * 5 + 2
    flat = np.full((40, 6), 1 / 6, np.float32)
    first = np.eye(6, dtype=np.float32)[np.zeros(40, int)]
    backwards = staircase(starts, 40)[:, ::-1]
    heads = {(0, 0): flat, (0, 1): first, (1, 0): 0.9 * staircase(starts, 40), (1, 1): backwards,
             (2, 0): rng.dirichlet(np.full(6, 0.3), 40), (2, 1): 0.8 * staircase(starts, 40)}
    found = best_heads((head, Walk(text, scores)) for head, scores in heads.items())
    assert list(found) == [(1, 0), (2, 1)]
    # A calibration finds the one that is right, however sure the others are.
    late = {(0, 0): staircase(starts + 3, 40), (0, 1): 0.3 * staircase(starts, 40), (0, 2): backwards}
    times = list(zip(text.at.tolist(), (starts / 10.0).tolist(), strict=True))
    chosen = alignment.calibrate([(text, lambda heads: ((head, late[head]) for head in heads), times)], list(late),
                                 10.0)
    assert chosen == Calibration([(0, 1)], 1, 6, 0.0)
    with pytest.raises(UserError, match=r"no time of a syllable is known; expected songs with notes\.json"):
        alignment.calibrate([(text, None, [])], list(late), 10.0)


@pytest.fixture
def made():
    return Alignment.of(Walk(text_of(), staircase([5, 8, 10, 11, 13, 14, 30, 31, 33, 34, 35, 1500, 1502, 1504, 1505,
                                                   1507, 1509], 1600)), 25.0, [(1, 0), (0, 3)], spelled=True)


def test_lrc(made):
    assert made.lrc() == (
        "[00:00.20]la lo, la\n[00:01.20]mi é-so!\n[00:01.52]\n[01:00.00]la lo, la\n[01:00.48]\n")
    lines = [Timed("a", 59.996, 60.0, 1.0), Timed("b", 6000.004, 6001.0, 1.0)]
    assert dataclasses.replace(made, lines=lines, duration=6001.5).lrc() == (
        "[01:00.00]a\n[01:00.00]\n[100:00.00]b\n")


def test_files(made, tmp_path):
    for suffix in (".lrc", ".json", ".png"):
        made.write(tmp_path / f"song{suffix}")
    assert (tmp_path / "song.lrc").read_text() == made.lrc()
    assert (tmp_path / "song.png").read_bytes().startswith(b"\x89PNG")

    @dataclasses.dataclass
    class Written:
        note: str
        lines: list[Timed]
        words: list[Timed]
        characters: list[Timed] | None
        duration: float
        frame_rate: float
        heads: list[tuple[int, int]]

    read = inputs.read_json(tmp_path / "song.json", Written, "times")
    assert read.note == alignment.CAVEAT
    assert all(getattr(read, field.name) == getattr(made, field.name) for field in dataclasses.fields(read)[1:])
    assert json.loads(dataclasses.replace(made, characters=None).json())["characters"] is None
    Calibration([(1, 0)], 2, 3, 0.5).save(tmp_path)
    assert Calibration.load(tmp_path) == Calibration([(1, 0)], 2, 3, 0.5) and Calibration.load(tmp_path / "no") is None
    (tmp_path / alignment.FILE).write_text('{"heads": [[0]], "songs": 1, "syllables": 1, "mean_error": 0}')
    with pytest.raises(UserError, match=r"calibration .*alignment\.json lacks heads"):
        Calibration.load(tmp_path)


T, SONG = 8, 21
"""Frames of a window, and of a song that is longer."""


class Planted(nnx.Module):
    """As much of a model as is asked for where its attention is planted."""

    source_names = ("genre", "lyrics")
    frames = types.SimpleNamespace(special=99)


def planted(monkeypatch, sampler, pattern, lyrics, of_frame):
    """An aligner whose model attends, where the code of frame t in the first codebook is decided, to slot of_frame[t].

    That code is t itself, so what the model is to attend to follows from what it reads: at step s from step s + 1."""
    def attention(model, steps, memory, heads, *, local):
        decided = np.asarray(steps[0, :, 0])
        if local is None:
            decided = np.append(decided[1:], model.frames.special)
        weights = np.zeros((1, len(heads), len(decided), memory.states.shape[1]), np.float32)
        inside = decided < SONG
        weights[0, :, np.flatnonzero(inside), 1 + of_frame[decided[inside]]] = 1
        return jnp.asarray(weights)

    slots = len(get_text_encoder("bytes").encode_lyrics(lyrics).ids)
    monkeypatch.setattr(aligner, "cross_attention_weights", attention)
    # The first slot is of another source.
    monkeypatch.setattr(aligner, "_encoded", lambda graph, params, sources: Memory(
        jnp.zeros((1, 1 + slots, 4)), jnp.array([1 + slots]), jnp.array([[0] + [1] * slots]),
        jnp.arange(1 + slots)[None]))
    graph, params = nnx.split(Planted())
    config = types.SimpleNamespace(model=types.SimpleNamespace(fusion="cross", layers=2, heads=2),
                                   sampling=types.SimpleNamespace(overlap=0.4))
    model = SampledModel(graph, config, pattern, Planted.source_names)
    conditions = types.SimpleNamespace(encode=lambda songs: {"lyrics": {"length": [slots]}},
                                       at=lambda sources, seconds: sources)
    return params, aligner.Aligner(model, sampler(model), conditions, lambda: get_text_encoder("bytes"), T, 10.0)


@pytest.mark.parametrize("pattern", ["delay", "parallel", "flatten", "coarse_first"])
def test_a_frame_is_what_its_first_code_was_decided_by_in_every_pattern(pattern, monkeypatch):
    check_planted(Autoregressive, get_pattern(pattern, T, 3), monkeypatch)


def test_models_that_fill_in_attend_where_they_write(monkeypatch):
    check_planted(Masked, get_pattern("parallel", T, 3), monkeypatch)


def check_planted(sampler, pattern, monkeypatch):
    lyrics, starts = "[solo]\nla lo\nmi\n", np.array([3, 4, 9, 10, 14, 20])
    slots = np.flatnonzero([byte in b"laomi" for byte in b"?\nla lo\nmi\n"])  # of which the first is the tag
    slots = slots - 1  # whose line has no end
    of_frame = np.append(np.zeros(3, int), slots.repeat(np.diff([*starts, SONG])))
    params, singer = planted(monkeypatch, sampler, pattern, lyrics, of_frame)
    frames = np.repeat(np.arange(SONG, dtype=np.int32)[:, None], 3, axis=1)
    for heads in ([(0, 1), (1, 0)], None):
        made = singer.align(params, aligner.SungSong(frames, {"lyrics": lyrics}), heads)
        np.testing.assert_array_equal(made.walk.starts, starts)
        assert [(line.start, line.confidence) for line in made.lines] == [(0.3, 1.0), (1.4, 1.0)]
    assert singer.calibrate(params, [(aligner.SungSong(frames, {"lyrics": lyrics}), [(7, 0.3), (13, 1.4)])],
                            False).mean_error == 0


def test_songs_and_lyrics_of_which_nothing_is_read_are_named(monkeypatch):
    params, singer = planted(monkeypatch, Masked, get_pattern("parallel", T, 3), "[solo]\nla\n", np.zeros(SONG, int))
    with pytest.raises(UserError, match="the song is empty"):
        singer.align(params, aligner.SungSong(np.zeros((0, 3), np.int32), {"lyrics": "la"}), None)
    singer._conditions.encode = lambda songs: {"lyrics": {"length": [1]}}  # of the tag alone
    with pytest.raises(UserError, match="reads no word of them"):
        singer.align(params, aligner.SungSong(np.zeros((T, 3), np.int32), {"lyrics": "[solo]\nla\n"}), None)


def test_columns_of_latents_are_decided_where_their_first_step_is():
    latents = types.SimpleNamespace(per_column=2, steps=lambda columns: columns.reshape(1, 8, -1),
                                    inputs=lambda steps: jnp.pad(steps, ((0, 0), (1, 0), (0, 0)))[:, :-1])
    columns = jnp.arange(1, 13.0).reshape(1, 3, 4)
    read = Continuous.read(types.SimpleNamespace(_columns=4), types.SimpleNamespace(frames=latents), columns)
    # The step before that of a column is the last that stands when the column is begun.
    assert read.decided.tolist() == [0, 2, 4, 6] and read.local is None
    np.testing.assert_array_equal(read.steps[0, read.decided[1:4]], [[3, 4], [7, 8], [11, 12]])


@pytest.mark.parametrize(("names", "fusion", "lyrics", "words"), [
    (["genre"], "cross", "la", "not trained with lyrics; expected one that was"),
    (["lyrics"], "prefix", "la", "reads its lyrics as a prefix; expected one that attends"),
    (["lyrics"], "cross", "", "hold no words to sing; expected some"),
    (["lyrics"], "cross", None, "hold no words to sing; expected some"),
    (["lyrics"], "cross", "[verse]\n...\n\n", "hold no words to sing; expected some"),
])
def test_what_cannot_be_aligned_is_named(names, fusion, lyrics, words):
    config = types.SimpleNamespace(model=types.SimpleNamespace(fusion=fusion))
    with pytest.raises(UserError, match=words):
        aligner.Aligner(SampledModel(None, config, None, names), None, None, None, T, 10.0).check({"lyrics": lyrics})
