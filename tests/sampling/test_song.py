"""What a singer makes of its samplers: windows, prompts, edits, two models for one song; models of random weights."""

import jax
import numpy as np
import pytest
from flax import nnx

from autosong_jax.codebooks.patterns import get_pattern
from autosong_jax.errors import UserError
from autosong_jax.sampling.edits import Edit
from autosong_jax.sampling.singer import Singer
from autosong_jax.workdir.workdir import ModelContext

WINDOW, K, V, RATE = 12, 3, 16, 25.0
SONGS = [{"lyrics": "la la", "genre": "pop"}, {"lyrics": "lo"}]


@pytest.fixture(scope="module")
def singers(make_singer):
    """Singers by objective; those of "next_step" and "both" have the same weights."""
    return {objective: make_singer(seed, **{"objective.name": objective})
            for objective, seed in [("next_step", 0), ("both", 0), ("masked_spans", 1)]}


@pytest.fixture(scope="module")
def sources(singers):
    return singers["both"].encode_conditions(SONGS)


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).integers(V, size=(30, K), dtype=np.uint16)


@pytest.mark.parametrize(("frames", "prompt"), [(12, 0), (7, 0), (30, 0), (12, 4), (30, 17)])
def test_masked_songs_have_the_length_that_is_asked_for_and_begin_with_the_prompt(
        singers, sources, codes, frames, prompt):
    options = {"duration": None if frames == WINDOW else frames / RATE}
    songs = singers["masked_spans"].sing(sources, [3, 4], prompt=codes[:prompt], **options)
    for song in songs:
        assert song.shape == (frames, K) and song.dtype == np.uint16 and song.max() < V
        np.testing.assert_array_equal(song[:prompt], codes[:prompt])
    assert (songs[0] != songs[1]).any()
    alone = {name: {key: x[1:] for key, x in source.items()} for name, source in sources.items()}
    np.testing.assert_array_equal(
        songs[1], singers["masked_spans"].sing(alone, [4], prompt=codes[:prompt], **options)[0])


def test_trimmed_songs_are_whole_spans_and_are_seen_alone(make_singer, sources, codes):
    """They are those of a model whose window is as long as they are."""
    def make(frames, **sampling):
        changes = {f"sampling.masked.{name}": value for name, value in sampling.items()}
        return make_singer(1, **{"objective.name": "masked_spans", "data.seconds": frames / RATE} | changes)

    trimmed = make(WINDOW, trim=True)
    for frames, made in [(11, 9), (32, 30)]:
        options = {"duration": frames / RATE}
        songs = trimmed.sing(sources, [3, 4], prompt=codes[:1], **options)
        assert [song.shape for song in songs] == [(made, K)] * 2
        if made < WINDOW:
            expected = make(made).sing(sources, [3, 4], prompt=codes[:1])
            np.testing.assert_array_equal(songs, expected)
    options = {"duration": 11 / RATE, "arrangement": "stride1"}
    np.testing.assert_array_equal(trimmed.sing(sources, [3, 4], **options),
                                  make(11, arrangement="stride1").sing(sources, [3, 4]))
    edited = trimmed.resing(sources, [3, 4], codes[:11], np.arange(11) < 8)  # of which the length is kept
    for song in edited:
        assert song.shape == (11, K) and song.max() < V
        np.testing.assert_array_equal(song[:8], codes[:8])


def test_spans_are_chosen_and_judged_as_asked(singers, sources):
    singer = singers["masked_spans"]
    plain = singer.sing(sources, [3, 4])
    for name, value in [("arrangement", "stride1"), ("confidence", "product"), ("cfg_scale_min", 9.0)]:
        songs = singer.sing(sources, [3, 4], **{name: value})
        assert (np.stack(songs) != plain).any(), name
    for name in ("arrangement", "confidence", "cfg_scale_min"):
        value = singer.config.sampling.masked[name]
        np.testing.assert_array_equal(singer.sing(sources, [3, 4], **{name: value}), plain)


@pytest.mark.parametrize("gaps", [[(0, 7)], [(22, 30)], [(4, 6), (20, 23)], [(5, 25)], [(0, 30)]])
def test_edits_keep_the_codes_of_the_rest(singers, sources, codes, gaps):
    given = np.ones(30, bool)
    for start, stop in gaps:
        given[start:stop] = False
    songs = [singers["masked_spans"].resing(sources, seeds, codes, given) for seeds in ([0, 0], [1, 1])]
    for song in songs[0] + songs[1]:
        np.testing.assert_array_equal(song[given], codes[given])
        assert song.shape == (30, K) and song.max() < V
    assert (songs[0][0] != songs[1][0]).any() and (songs[0][0] != codes).any()
    # What stands in the gap is not read.
    others = np.where(given[:, None], codes, (codes + 1) % V)
    np.testing.assert_array_equal(singers["masked_spans"].resing(sources, [0, 0], others, given)[0], songs[0][0])


def test_edits_of_audio_and_of_codes(singers, codes):
    singer = singers["masked_spans"]
    song = singer.edit(Edit([codes[:9], codes[9:12]], [(0.08, 0.16)], before=0.08, between=0.2, after=0.04),
                       lyrics="la")
    expected = np.concatenate([[99] * 2, range(2), [99] * 2, range(4, 9), [99] * 5, range(9, 12), [99]])
    assert len(song.codes) == len(expected)
    kept = expected < 99
    np.testing.assert_array_equal(song.codes[kept], codes[expected[kept]])
    audio = singer.codec.decode(codes[:12])
    songs = singer.edit(Edit([audio], [(0.2, 0.4)]), lyrics=["la", "mi"], seed=1)
    for song in songs:
        kept = np.r_[0:5, 10:12]
        np.testing.assert_array_equal(song.codes[kept], singer.codec.encode(audio)[kept])
    assert song.audio.shape == audio.shape


def test_the_beginning_may_be_sung_step_by_step(singers, sources, codes):
    """By the model itself, or by another; they are the songs of that one, filled in to the end."""
    for prompt, lead, total in [(0, 5, 12), (4, 16, 30)]:
        first = singers["next_step"].sing(sources, [1, 2], prompt=codes[:prompt], duration=lead / RATE)
        options = {"duration": total / RATE, "hybrid_seconds": lead / RATE}
        leader = singers["masked_spans"].helper(singers["next_step"], SONGS)
        songs = singers["both"].sing(sources, [1, 2], prompt=codes[:prompt], **options)
        others = singers["masked_spans"].sing(sources, [1, 2], prompt=codes[:prompt], leader=leader, **options)
        for i in range(2):
            for song in songs[i], others[i]:
                assert song.shape == (total, K) and len(first[i]) == lead
                np.testing.assert_array_equal(song[:lead], first[i])
        assert (songs[0] != others[0]).any()


def test_a_model_of_both_does_as_one_of_each(singers, sources):
    """With all or nothing of a song sung step by step."""
    options = {"duration": 0.4, "hybrid_seconds": 9.0}
    np.testing.assert_array_equal(singers["both"].sing(sources, [5, 6], **options),
                                  singers["next_step"].sing(sources, [5, 6], duration=0.4))


def test_a_judge_says_what_it_would_have_said_while_singing(singers, sources, codes):
    """Against its own decoding, step by step; codebooks that are not there yet are the special id."""
    singer = singers["next_step"]
    model = nnx.merge(singer._graph, singer._params)
    pattern = get_pattern("delay", WINDOW, K)
    both = np.stack([codes[:WINDOW], codes[12:24]]).astype(np.int32)
    memory = model.encode(sources, np.ones((2, 2), bool))
    read_one = nnx.jit(lambda model, ids, step, cache: model.step(ids, step, cache))
    for stage in range(K):
        known = np.where(np.arange(K) <= stage, both, V)
        steps = np.asarray(pattern.interleave(known, V))
        cache = model.start(memory, steps[:, :0], pattern.num_steps)
        expected = np.zeros((2, WINDOW))
        for step in range(pattern.num_steps - 1):
            logits, cache = read_one(model, steps[:, step], step, cache)
            frame = pattern.frames[step + 1, stage]
            if frame >= 0:
                expected[:, frame] = jax.nn.log_softmax(logits[:, stage])[np.arange(2), both[:, frame, stage]]
        got = singer.judge((singer._params, sources), known, np.int32(stage))
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_rescorer_has_a_say_by_its_weight(singers, sources, monkeypatch):
    """What it reads of its conditions is cut where a window begins, as the model's own are."""
    singer = singers["masked_spans"]
    rescorer = singer.helper(singers["next_step"], SONGS)
    plain = singer.sing(sources, [0, 1])
    none, half, all_of_it = (
        singer.sing(sources, [0, 1], rescorer=rescorer, rescore_weight=weight)
        for weight in (0.0, 0.5, 1.0))
    np.testing.assert_array_equal(none, plain)
    assert (half[0] != plain[0]).any() and (all_of_it[0] != plain[0]).any()
    seconds = {"ours": [], "theirs": []}
    for name, conditions in [("ours", singer._conditions), ("theirs", singers["next_step"]._conditions)]:
        monkeypatch.setattr(conditions, "at", lambda sources, second, name=name, at=conditions.at: (
            seconds[name].append(second), at(sources, second))[1])
    singer.sing(sources, [0, 1], rescorer=rescorer, duration=30 / RATE)
    assert seconds["ours"] == seconds["theirs"] and len(set(seconds["ours"])) > 1


@pytest.mark.parametrize(("objective", "arguments", "words"), [
    ("next_step", {"hybrid_seconds": 0.2}, ["hybrid_seconds", "fill in"]),
    ("next_step", {"rescorer": "next_step"}, ["rescorer", "fill in"]),
    ("masked_spans", {"hybrid_seconds": 0.2}, ["hybrid_seconds 0.20", "leader"]),
    ("masked_spans", {"leader": "next_step"}, ["leader has nothing to sing", "hybrid_seconds"]),
    ("masked_spans", {"leader": "masked_spans", "hybrid_seconds": 0.2}, ["masked_spans cannot help", "next_step or"]),
    ("masked_spans", {"rescorer": "next_step", "rescore_weight": 1.5}, ["rescore_weight 1.5", "0 to 1"]),
    ("next_step", {"arrangement": "stride1"}, ["arrangement", "fill in"]),
    ("next_step", {"cfg_scale_min": 1.0}, ["cfg_scale_min", "fill in"]),
    ("masked_spans", {"arrangement": "stride2"}, ["arrangement 'stride2'", "nonoverlap, stride1"]),
    ("masked_spans", {"confidence": "min"}, ["confidence 'min'", "max, product"]),
    ("masked_spans", {"cfg_scale_min": float("nan")}, ["cfg_scale_min nan"]),
    ("masked_spans", {"steps": [20, 10]}, ["[20, 10]", "expected 3"]),
    ("masked_spans", {"duration": -1.0}, ["duration -1.0", "more than 0 s"]),
    ("next_step", {"duration": float("nan")}, ["duration nan"]),
    ("next_step", {"temperature": float("nan")}, ["temperature nan"]),
    ("next_step", {"top_k": 10**11}, ["top_k 100000000000"]),
    ("next_step", {"cfg_scale": float("nan")}, ["guidance scale of", "nan"]),
    ("next_step", {"description": []}, ["empty list"]),
    ("next_step", {"prompt_audio": np.zeros(9, np.float32)}, ["prompt_audio is float32 of shape [9]", "samples]"]),
    ("next_step", {"prompt_audio": np.zeros((1, 9), np.int16)}, ["prompt_audio is int16"]),
    ("next_step", {"prompt_audio": np.full((1, 9), np.nan, np.float32)}, ["prompt_audio holds NaN"]),
    ("both", {"hybrid_seconds": -1.0}, ["hybrid_seconds -1.0", "at least 0"]),
])
def test_what_cannot_be_sung_is_named(singers, objective, arguments, words):
    helpers = {name: singers[arguments[name]] for name in ("leader", "rescorer") if name in arguments}
    with pytest.raises(UserError) as error:
        singers[objective].generate(**SONGS[0], **arguments | helpers)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_only_models_that_fill_in_can_edit(singers, codes):
    with pytest.raises(UserError, match="edit: this model can only sing step by step"):
        singers["next_step"].edit(Edit([codes], [(0.2, 0.4)]))


def test_helpers_sing_over_the_same_codec(singers, toy_dataset):
    one = singers["next_step"]
    other = Singer(ModelContext.read(one.config, toy_dataset), nnx.merge(one._graph, one._params))
    other.codec.codebooks = other.codec.codebooks + 1
    with pytest.raises(UserError, match="another codec"):
        singers["masked_spans"].helper(other, SONGS)
