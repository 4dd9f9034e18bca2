"""The best of several songs: likelihoods against naive loops, and which candidate is kept; models of random weights."""

import functools
import itertools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import autosong_jax
from autosong_jax.errors import UserError
from autosong_jax.sampling import ranking, samplers
from autosong_jax.sampling.edits import Edit
from autosong_jax.sampling.ranking import Ranker
from tests.sampling.test_continuous import make_memory, make_model

WINDOW, K, V, RATE = 12, 3, 16, 25.0
SONG = {"lyrics": "la la", "genre": "pop"}
LIKELIHOOD = autosong_jax.ranker("likelihood")


@pytest.fixture(scope="module")
def singers(make_singer):
    """Singers by objective, the last of which ends some of its songs."""
    return {name: make_singer(seed, **{"objective.name": objective, "model.pattern": pattern, "data.end_of_song": ends})
            for name, seed, objective, pattern, ends in [
                ("next_step", 0, "next_step", "delay", False), ("masked_spans", 1, "masked_spans", "parallel", False),
                ("ends", 0, "next_step", "delay", True)]}


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum())


def by(values, **how):
    """A ranker that gives these scores one after another."""
    values = iter(values)
    return Ranker("by hand", lambda candidate: next(values), **how)


def recorded(singer, monkeypatch):
    """The windows that it sings from now on."""
    windows, sampler = [], singer._samplers[-1]
    prepare = sampler.prepare

    def record(*arguments):
        made = prepare(*arguments)

        def sing(params, sources, window, stride):
            windows.append((window.start, window.given[0].copy()))
            return made.sing(params, sources, window, stride)

        return type(made)(made.length, made.overlap, sing)

    monkeypatch.setattr(sampler, "prepare", record)
    return windows


@functools.cache
def decoder(singer):
    """Its model's encode, start and step, compiled."""
    model = nnx.merge(singer._graph, singer._params)
    return (jax.jit(lambda sources: model.encode(sources, jnp.ones((1, 2), bool))),
            jax.jit(lambda memory: model.start(memory, jnp.zeros((1, 0, K), int), singer.pattern.num_steps)),
            jax.jit(model.step))


def step_by_step(singer, codes, windows):
    """The log probabilities of the codes that were made in these windows, by decoding each of them."""
    (encode, start_of, step_of), pattern = decoder(singer), singer.pattern
    found = []
    for start, given in windows:
        window = np.full((WINDOW, K), V)
        inside = codes[start:start + WINDOW]
        window[:len(inside)] = inside
        steps = np.asarray(pattern.interleave(window[None], V))
        sources = singer._conditions.at(singer.encode_conditions([SONG]), start / RATE)
        cache = start_of(encode(sources))
        for step in range(pattern.num_steps - 1):
            logits, cache = step_of(steps[:, step], step, cache)
            for k in range(K):
                frame = pattern.frames[step + 1, k]
                if 0 <= frame < len(inside) and not given[frame]:
                    found.append(log_softmax(logits[0, k, :V])[window[frame, k]])
    return found


@pytest.mark.parametrize(("name", "frames", "prompt"), [("next_step", 12, 0), ("next_step", 30, 5), ("ends", 30, 0)])
def test_the_likelihood_is_the_mean_of_what_decoding_says_of_each_code(singers, monkeypatch, name, frames, prompt):
    """Of what is made, in the windows in which it was: over several windows, after a prompt, of songs that end."""
    singer, windows = singers[name], []
    begin = np.random.default_rng(0).integers(V, size=(prompt, K)) if prompt else None
    asked = SONG | {"duration": frames / RATE, "prompt_audio": begin, "temperature": 2.0}
    best = singer.generate(candidates=3, rank_by=LIKELIHOOD, seed=3, **asked)
    scores, lengths = [], set()
    for seed in range(3, 6):
        with monkeypatch.context() as patch:
            windows = recorded(singer, patch)
            song = singer.generate(seed=seed, **asked)
        found = step_by_step(singer, song.codes, windows)
        assert len(found) == K * (len(song.codes) - prompt)
        lengths.add(len(song.codes))
        scores.append(np.mean(found))
        assert best.ranking.candidates[seed - 3].seconds == pytest.approx(len(song.codes) / RATE)
    np.testing.assert_allclose(best.ranking.scores, scores, atol=1e-4)
    assert best.ranking.chosen == np.argmax(scores) and (len(lengths) > 1) == (name == "ends")


def pseudo(singer, codes, given):
    """The mean log probability of the codes of one window that are not given, each from what the others of its stage
    tell: of every four spans of three frames the one that it is in is hidden."""
    model = nnx.merge(singer._graph, singer._params)
    memory = model.encode(singer.encode_conditions([SONG]), np.ones((1, 2), bool))
    forward = nnx.jit(lambda model, ids, local, k: model(ids, memory, local=local)[0, :, k, :V])
    found = []
    for k, group in itertools.product(range(K), range(4)):
        ids = np.full((1, WINDOW, K), V)
        for t, j in itertools.product(range(len(codes)), range(K)):
            if j < k or (j == k and (t // 3) % 4 != group):
                ids[0, t, j] = codes[t, j]
        logits = forward(model, ids, jnp.array(k > 0), k)
        found += [log_softmax(logits[t])[codes[t, k]] for t in range(len(codes))
                  if (t // 3) % 4 == group and not given[t]]
    return np.mean(found)


def test_a_model_that_fills_in_is_judged_by_its_pseudo_likelihood_or_by_its_rescorer(singers):
    singer, asked = singers["masked_spans"], SONG | {"duration": 11 / RATE, "seed": 3}
    songs = [singer.generate(**asked | {"seed": 3 + i}).codes for i in range(3)]
    none = np.zeros(WINDOW, bool)
    best = singer.generate(candidates=3, rank_by=LIKELIHOOD, **asked)
    np.testing.assert_allclose(best.ranking.scores, [pseudo(singer, song, none) for song in songs], atol=1e-4)
    np.testing.assert_array_equal(best.codes, songs[best.ranking.chosen])
    rescored = singer.generate(candidates=3, rank_by=LIKELIHOOD, rescorer=singers["next_step"], rescore_weight=0.0,
                               **asked)  # which changes no code
    theirs = [np.mean(step_by_step(singers["next_step"], song, [(0, none)])) for song in songs]
    np.testing.assert_allclose(rescored.ranking.scores, theirs, atol=1e-4)


def test_of_an_edit_what_is_made_anew_is_judged(singers):
    singer, codes = singers["masked_spans"], np.random.default_rng(0).integers(V, size=(WINDOW, K), dtype=np.uint16)
    edit, given = Edit([codes], [(0.12, 0.32)]), (np.arange(WINDOW) < 3) | (np.arange(WINDOW) >= 8)
    best = singer.edit(edit, candidates=3, rank_by=LIKELIHOOD, seed=1, **SONG)
    songs = [singer.edit(edit, seed=1 + i, **SONG).codes for i in range(3)]
    np.testing.assert_allclose(best.ranking.scores, [pseudo(singer, song, given) for song in songs], atol=1e-4)
    np.testing.assert_array_equal(best.codes, songs[int(np.argmax(best.ranking.scores))])


def log_density(targets, log_weights, means, log_scales):
    """Of a mixture of Gaussians, by the textbook."""
    log_weights, means, scales = (np.asarray(x, np.float64) for x in (log_weights, means, np.exp(log_scales)))
    densities = np.exp(-0.5 * ((targets[:, None] - means) / scales) ** 2) / (scales * np.sqrt(2 * np.pi))
    return np.log((np.exp(log_weights) * densities.prod(axis=-1)).sum(axis=-1))


def test_latents_are_as_likely_as_the_mixture_says_of_each_step():
    """Each step from a sequence that ends there, so that nothing of it or after it can be read."""
    model = make_model("raster", "mixture")
    memory = make_memory(model, np.ones((1, 1), bool))
    columns, count = np.random.default_rng(3).normal(size=(3, 6, 4)).astype(np.float32), 5
    steps = np.asarray(model.frames.steps(columns))
    expected = np.zeros(steps.shape[:2])

    @nnx.jit
    def parameters(model, steps, before, s):
        states = model.frames.predict(model.hidden(model.frames.inputs(steps), memory))
        return model.frames.head.parameters(model.frames.condition(states, before)[:, s])

    for s in range(steps.shape[1]):
        known = np.where(np.arange(steps.shape[1])[:, None] < s, steps, 9.0)
        before = np.pad(known, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        target = steps[:, s] - before[:, s]
        expected[:, s] = log_density(target, *parameters(model, known, before, s)) / target.shape[1]
    config = types.SimpleNamespace(latents=types.SimpleNamespace(residual=True))
    sampler = types.SimpleNamespace(_model=types.SimpleNamespace(config=config))
    found = nnx.jit(functools.partial(samplers.Continuous.log_probabilities, sampler))(
        model, memory, columns, jnp.int32(count))
    np.testing.assert_allclose(found[:, :count], expected.reshape(3, 6, -1).mean(axis=-1)[:, :count], rtol=1e-3,
                               atol=1e-4)


@pytest.mark.parametrize("name", ["next_step", "masked_spans"])
def test_candidates_are_the_songs_of_their_seeds_and_the_best_is_kept(singers, monkeypatch, name):
    """However many are made together; a song depends on its seed alone."""
    monkeypatch.setattr(ranking, "AT_ONCE", 5)
    singer, asked = singers[name], {"lyrics": ["la la", "lo"], "genre": "pop", "temperature": 2.0}
    alone = [[singer.generate(**asked | {"lyrics": lyrics}, seed=10 + 3 * i + c) for c in range(3)]
             for i, lyrics in enumerate(asked["lyrics"])]
    assert len({song.codes.tobytes() for songs in alone for song in songs}) == 6
    heard = []

    def score(candidate):
        heard.append((candidate.conditions["lyrics"], candidate.song.audio, candidate.song.codes))
        return [0.5, 2.0, 1.0, 3.0, -1.0, 2.0][len(heard) - 1]

    for lowest, chosen in [(False, [1, 0]), (True, [0, 1])]:
        heard.clear()
        songs = singer.generate(candidates=3, rank_by=Ranker("mine", score, lowest), seed=10, **asked)
        assert [lyrics for lyrics, _, _ in heard] == 3 * ["la la"] + 3 * ["lo"]
        for (_, audio, codes), one in zip(heard, itertools.chain(*alone), strict=True):
            np.testing.assert_array_equal(codes, one.codes)
            np.testing.assert_array_equal(audio, one.audio)
        for i, song in enumerate(songs):
            assert song.ranking.chosen == chosen[i] and song.ranking.ranker == "mine"
            assert [one.seed for one in song.ranking.candidates] == [10 + 3 * i + c for c in range(3)]
            np.testing.assert_array_equal(song.codes, alone[i][chosen[i]].codes)
            np.testing.assert_array_equal(song.audio, alone[i][chosen[i]].audio)


@pytest.mark.parametrize("name", ["next_step", "masked_spans"])
def test_one_candidate_is_the_song_without_any(singers, name):
    asked = {"lyrics": ["la la", "lo", "mi"], "seed": 4}
    plain, one, ranked = (singers[name].generate(**asked, **how) for how in (
        {}, {"candidates": 1}, {"candidates": 1, "rank_by": by([1.0, 2.0, 3.0])}))
    for songs in zip(plain, one, ranked, strict=True):
        for song in songs[1:]:
            np.testing.assert_array_equal(song.codes, songs[0].codes)
            np.testing.assert_array_equal(song.audio, songs[0].audio)
    assert [song.ranking.scores for song in ranked] == [[1.0], [2.0], [3.0]]


@pytest.mark.parametrize(("scores", "lowest", "chosen", "kept"), [
    ([1.0, 2.0, 2.0], False, 1, [1.0, 2.0, 2.0]), ([2.0, 1.0, 1.0], True, 1, [2.0, 1.0, 1.0]),
    ([0.0, -0.0, 0.0], True, 0, [0.0, 0.0, 0.0]), ([None, -9.0, np.nan], False, 1, [None, -9.0, None]),
    ([np.inf, 3.0, None], True, 1, [None, 3.0, None]), ([None, np.nan, None], False, 0, [None] * 3)])
def test_of_equal_scores_the_first_is_kept_and_without_one_none(singers, tmp_path, scores, lowest, chosen, kept):
    asked = SONG | {"temperature": 2.0, "duration": 0.12}
    song = singers["next_step"].generate(candidates=3, rank_by=by(scores, lowest=lowest), **asked)
    assert song.ranking.chosen == chosen and song.ranking.scores == kept
    np.testing.assert_array_equal(song.codes, singers["next_step"].generate(seed=chosen, **asked).codes)
    song.ranking.write(tmp_path / "scores.json")
    written = json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)
    assert written == {"rank_by": "by hand", "kept": "lowest" if lowest else "highest", "candidates": [
        {"seed": i, "score": kept[i], "seconds": 0.12, "kept": i == chosen} for i in range(3)]}
    assert [line.endswith("kept") for line in song.ranking.lines()] == [i == chosen for i in range(3)]


def test_candidates_that_are_one_song_are_no_choice(singers, caplog):
    asked = SONG | {"temperature": 0.0}
    song = singers["next_step"].generate(candidates=2, rank_by=LIKELIHOOD, **asked)
    assert song.ranking.chosen == 0 and "all candidates are the same: at temperature 0" in caplog.text


@pytest.mark.parametrize(("how", "words"), [
    ({"candidates": 0}, "candidates 0: .* at least 1"), ({"candidates": 2.5}, "candidates 2.5"),
    ({"candidates": True}, "candidates True"), ({"candidates": 2}, "candidates 2 without rank_by"),
    ({"candidates": 2, "rank_by": "likelihood"}, r"rank_by 'likelihood': .*autosong_jax.ranker\('likelihood'\)")])
def test_what_cannot_be_chosen_from_is_named(singers, how, words):
    with pytest.raises(UserError, match=words):
        singers["next_step"].generate(**SONG, **how)
    with pytest.raises(UserError, match="candidates of a stream"):
        singers["next_step"].stream(**SONG, **how | {"candidates": 2})
