"""The masked sampler against a loop over songs, passes and spans in NumPy, with the same random numbers."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax.errors import UserError
from autosong_jax.sampling.guidance import annealed_branches
from autosong_jax.sampling.masked import Passes, Plan, Request, Sampler
from autosong_jax.sampling.tokens import Choice

K, V, T, B = 3, 7, 14, 3
KEEP, WEIGHTS = annealed_branches(["lyrics"], {"lyrics": 4.0}, 1.0)
BIAS = 0.2 * np.random.default_rng(0).normal(size=(2 * B, V)).astype("f")  # what the toy model has for a memory
TABLES = 0.3 * np.random.default_rng(1).normal(size=(K, V + 1, K, V + 1)).astype("f")


class Toy(nnx.Module):
    """Frames in, logits out: of a frame, the frame before it, where it stands, the memory and the context's kind."""

    frames = types.SimpleNamespace(special=V)

    def __init__(self, ends=(), frames=T):
        # Logits of the end of song.
        self.end = nnx.Param(np.where(np.isin(np.arange(frames), ends), 99.0, -99.0).astype("f"))

    def __call__(self, ids, memory, *, local, codebook, xp=jnp):
        x = sum(xp.asarray(TABLES[k])[ids[..., k]] for k in range(K))
        x = x + 0.5 * xp.concatenate([xp.zeros_like(x[:, :1]), x[:, :-1]], axis=1)
        x = x + xp.sin(xp.arange(ids.shape[1])[:, None, None] * xp.arange(1.0, V + 2))
        x = xp.where(local, x, -0.7 * x)
        end = xp.broadcast_to(xp.asarray(self.end[...])[:ids.shape[1], None, None], (*x.shape[:-1], 1))
        x = xp.concatenate([x[..., :V] + memory[:, None, None], end], axis=-1)
        return xp.take(x, xp.asarray([codebook]), axis=2)


TOY = Toy()


def naive(given, plan, choice, rescore=None, toy=TOY):
    """One song at a time, in float64."""
    songs, surprise = [], None
    for b in range(B):
        key, free = jax.random.key(b), ~given[b, :LENGTHS[b]]
        song, count = np.where(free[:, None], V, CODES[b, :LENGTHS[b]]), 0
        for stage, steps in enumerate(plan.steps):
            redo = free
            for i in range(steps):
                share = Passes.of([0], [steps]).share[i]  # a test of their own is below
                if i > 0 and plan.arrangement == "nonoverlap":
                    redo = free & naive_chunks(surprise, redo, free, share, plan)
                elif i > 0:
                    redo = free & naive_spans(np.where(redo, surprise, -1e4), int(share * np.float32(free.sum())), plan)
                song[redo, stage] = V
                heat = max(choice.temperature * (steps - 1 - i) / steps, 0.01) if choice.temperature else 1.0
                logits = naive_logits(toy, song, b, stage, share)
                over = redo & (logits.argmax(axis=-1) == V) & (np.cumsum(~free[::-1])[::-1] == 0)
                if stage == 0 and over.any():
                    song, free, redo, logits = (x[:over.argmax()] for x in (song, free, redo, logits))
                log_p = log_softmax(logits[:, :V] / heat)
                kept = np.where(nucleus(log_p, choice.top_p), log_p, -np.inf)
                noise = jax.random.gumbel(jax.random.fold_in(key, count), (T, V))[:len(song)]
                drawn = (kept + noise if choice.temperature else log_p).argmax(axis=-1)
                song[redo, stage] = drawn[redo]
                surprise = -log_p[np.arange(len(song)), drawn]
                if rescore:
                    surprise = -np.log(rescore(song, stage, np.exp(-surprise)))
                count += 1
        songs.append(padded(song))
    return np.stack(songs)


def padded(song):
    return np.pad(song, ((0, T - len(song)), (0, 0)), constant_values=V)


def naive_logits(toy, song, b, stage, share):
    null, full = (
        toy(padded(song)[None], BIAS[[row]], local=stage > 0, codebook=stage, xp=np)[0, :len(song), 0].astype(float)
        for row in (b, B + b))
    return null + (share * 4.0 + (1 - share) * 1.0) * (full - null)


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def nucleus(log_p, top_p):
    order = np.argsort(-log_p, axis=-1)
    p = np.take_along_axis(np.exp(log_p), order, axis=-1)
    kept = np.zeros(log_p.shape, bool)
    np.put_along_axis(kept, order, np.cumsum(p, axis=-1) - p <= top_p, axis=-1)
    return kept


def naive_chunks(surprise, redone, free, share, plan):
    """The frames of the least certain chunks of those that were done anew in the last pass."""
    last = max(len(free) // plan.span_length, 1) - 1
    of_frame = np.minimum(np.arange(len(free)) // plan.span_length, last)
    chunks = [of_frame == c for c in range(last + 1) if free[of_frame == c].any()]
    reduce = np.min if plan.confidence == "max" else np.sum
    ranked = sorted((c for c in chunks if redone[c].any()), key=lambda c: -reduce(surprise[c]))
    return np.any(ranked[:max(int(share * np.float32(len(chunks))), 1)], axis=0)


def released(codes, bias, frames, plan, temperature):
    """One song as MAGNeT's released sampler makes it after a prompt, always of the most probable codes, in float64.

    It cuts the frames to whole chunks. A chunk that the prompt fills but in part is made as the others are, and its
    certainty is of what was drawn, though the prompt's codes stay.
    """
    prompt, length, toy = len(codes), plan.span_length, Toy(frames=frames)
    by_chunk = plan.arrangement == "nonoverlap" and length > 1
    unit = length if by_chunk else 1  # frames that one score is of
    song = np.full((frames - frames % unit, K), V)
    song[:prompt] = codes
    for stage, steps in enumerate(plan.steps):
        row = np.full(len(song), V)
        scores = np.where(np.arange(len(song) // unit) < prompt // unit, -1e4, 0.0)
        count = len(scores) - prompt // unit
        for i in range(steps):
            share = np.cos(np.pi / 2 * i / max(steps - 1, 1))
            wanted = max(int(share * count), 1)
            if plan.arrangement == "stride1":
                chosen = naive_spans(scores, wanted, plan)
            else:
                chosen = np.isin(np.arange(len(scores)), np.argsort(-scores, kind="stable")[:wanted])
            row[np.repeat(chosen, unit)] = V
            row[:prompt] = codes[:, stage]
            song[:, stage] = row
            null, full = (toy(song[None], side[None], local=stage > 0, codebook=stage, xp=np)[0, :, 0, :V].astype(float)
                          for side in bias)
            logits = null + (share * 4.0 + (1 - share) * 1.0) * (full - null)
            drawn, hidden = logits.argmax(axis=-1), row == V
            row[hidden] = song[hidden, stage] = drawn[hidden]
            heat = max(temperature * ((steps - 1 - i) / steps if plan.anneal else 1), 0.01)
            p = np.exp(log_softmax(logits / heat))[np.arange(len(song)), drawn].reshape(-1, unit)
            scores = 1 - p.max(axis=1) if by_chunk and plan.confidence == "max" else -np.log(p).sum(axis=1)
            scores[~(chosen if by_chunk else hidden)] = -1e4
    return song


def naive_spans(score, target, plan):
    """Bisection for the number of spans, as the released sampler does it."""
    starts = range(len(score) - plan.span_length + 1)
    ranked = sorted(starts, key=lambda s: -score[s:s + plan.span_length].sum())

    def cover(number):
        covered = np.zeros(len(score), bool)
        for s in ranked[:number]:
            covered[s:s + plan.span_length] = True
        return covered

    target = max(target, plan.span_length)
    low, high = target // plan.span_length, target - plan.span_length + 1
    tried = middle = round((low + high) / 2)
    while low < middle < high:
        tried = middle
        low, high = (low, middle) if cover(middle).sum() > target else (middle, high)
        middle = round((low + high) / 2)
    return cover(tried)


CODES = np.random.default_rng(2).integers(0, V, (B, T, K))
PROMPT = np.arange(T)[None] < np.array([[0], [3], [5]])
HOLES = ~((np.arange(T)[None] % 8 > 1) & (np.arange(T)[None] < np.array([[14], [7], [9]])))
LENGTHS = np.array([14, 12, 10])


def sampled(plan, given, choice, seeds=(0, 1, 2), toy=TOY, judge=None, weight=0.0):
    rows = np.array(seeds) % B
    graph, params = nnx.split(toy)
    request = Request(WEIGHTS, jax.vmap(jax.random.key)(np.array(seeds)), CODES[rows], given[rows], LENGTHS[rows],
                      choice, weight=weight)
    codes, ends = Sampler(graph)(params, BIAS[np.concatenate([rows, B + rows])], request, plan, judge)
    np.testing.assert_array_equal(ends, (np.asarray(codes)[..., 0] < V).sum(axis=1))
    return np.asarray(codes)


@pytest.mark.parametrize("given", [PROMPT, HOLES], ids=["prompts", "holes"])
@pytest.mark.parametrize(("plan", "choice"), [
    (Plan((5, 3, 1)), Choice(2.0, 0, 0.8)),
    (Plan((4, 2, 3), confidence="product"), Choice(1.0, 0, 1.0)),
    (Plan((5, 3, 4), arrangement="stride1"), Choice(2.0, 0, 0.8)),
    (Plan((4, 3, 2), span_length=1), Choice(0.0, 0, 1.0)),
    (Plan((6, 3, 2), span_length=2, arrangement="stride1"), Choice(1.5, 0, 0.9)),
])
def test_sampler_equals_the_naive_loop(plan, choice, given):
    got = sampled(plan, given, choice)
    np.testing.assert_array_equal(got, naive(given, plan, choice))
    inside = np.arange(T)[None] < LENGTHS[:, None]
    np.testing.assert_array_equal(got[given & inside], CODES[given & inside])
    assert (got[inside] < V).all() and (got[~inside] == V).all()


@pytest.mark.parametrize("plan", [Plan((5, 3, 2)), Plan((5, 3, 2), arrangement="stride1")])
def test_songs_end_where_the_model_says_so_and_nothing_given_follows(plan):
    toy, choice = Toy(ends=[7, 11]), Choice(2.0, 0, 0.8)
    for given, lengths in [(PROMPT, [7, 7, 7]), (HOLES, [11, 12, 10]), (PROMPT & False, [7, 7, 7])]:
        got = sampled(plan, given, choice, toy=toy)
        assert (got[..., 0] < V).sum(axis=1).tolist() == lengths
        np.testing.assert_array_equal(got, naive(given, plan, choice, toy=toy))


@pytest.mark.parametrize("frames", [100, 500])  # one and two more than whole spans
@pytest.mark.parametrize(("plan", "choice"), [
    (Plan((6, 3, 2), trim=True), Choice(5.0, 0, 1e-6)),
    (Plan((6, 3, 2), trim=True, confidence="product", anneal=False), Choice(5.0, 1, 1.0)),
    (Plan((6, 3, 2), trim=True, arrangement="stride1"), Choice(5.0, 0, 1e-6)),
    (Plan((6, 3, 2), trim=True, span_length=1), Choice(5.0, 0, 1e-6)),
])
def test_songs_are_those_of_the_released_sampler(plan, choice, frames):
    made = plan.window(frames, 1500)
    graph, params = nnx.split(Toy(frames=made))
    codes = np.random.default_rng(frames).integers(0, V, (B, made, K))
    for prompt in (0, 31):
        given = np.broadcast_to(np.arange(made) < prompt, (B, made))
        request = Request(WEIGHTS, jax.vmap(jax.random.key)(np.arange(B)), codes, given, np.full(B, made), choice)
        got, _ = Sampler(graph)(params, BIAS, request, plan)
        for b in range(B):
            np.testing.assert_array_equal(
                got[b], released(codes[b, :prompt], BIAS[[b, B + b]], frames, plan, choice.temperature))


def test_how_many_frames_are_made_together():
    trimmed, stride1, padded = Plan((1,), trim=True), Plan((1,), trim=True, arrangement="stride1"), Plan((1,))
    for frames, expected in [(500, (498, 500, 1500)), (100, (99, 100, 1500)), (99, (99, 99, 1500)), (2, (2, 2, 1500)),
                             (4000, (1500, 1500, 1500))]:
        assert tuple(plan.window(frames, 1500) for plan in (trimmed, stride1, padded)) == expected
    assert [plan.frames(500) for plan in (trimmed, stride1, padded)] == [498, 500, 500]


def test_counts_of_the_released_sampler():
    passes = Passes.of([0], [10])
    chunks = 500 // 3
    assert np.maximum(np.floor(passes.share * np.float32(chunks)), 1).tolist() == [
        166, 163, 155, 143, 127, 106, 82, 56, 28, 1]
    passes = Passes.of([1, 2], [20, 2, 3])
    assert passes.index.tolist() == [20, 21, 22, 23, 24] and passes.stage.tolist() == [1, 1, 2, 2, 2]
    np.testing.assert_allclose(passes.share, [1, 0, 1, np.sqrt(0.5), 0], atol=1e-6)
    np.testing.assert_allclose(passes.heat, [1 / 2, 0, 2 / 3, 1 / 3, 0], atol=1e-6)
    assert Passes.of([0], [1]).share.tolist() == [1.0]


@pytest.mark.parametrize("steps", [10, 20, 60])
def test_counts_are_rounded_as_in_torch(steps):
    torch = pytest.importorskip("torch")
    shares = torch.cos(torch.linspace(0, 1, steps) * np.pi * 0.5)
    counts = torch.arange(1, 1000, dtype=torch.float32)[:, None]
    np.testing.assert_array_equal((Passes.of([0], [steps]).share * counts.numpy()).astype(int), (shares * counts).int())


def test_a_song_does_not_depend_on_its_company():
    plan, choice = Plan((4, 2, 2)), Choice(2.0, 0, 0.9)
    together, others = sampled(plan, PROMPT, choice), sampled(plan, PROMPT, choice, seeds=(5, 1))
    np.testing.assert_array_equal(together[1], others[1])
    assert (together[2] != others[0]).any()  # the same prompt, another seed


@pytest.mark.parametrize("plan", [Plan((4, 3, 2)), Plan((4, 3, 2), arrangement="stride1")])
def test_codes_are_judged_by_a_rescorer(plan):
    table, choice = np.random.default_rng(3).random((V, K)).astype("f"), Choice(2.0, 0, 0.9)

    def judge(judged_by, ids, stage):
        return jnp.log(jnp.asarray(table)[ids[..., stage], stage])

    def naive_rescore(song, stage, p):
        return 0.9 * table[song[:, stage], stage] + 0.1 * p

    got = sampled(plan, HOLES, choice, judge=judge, weight=0.9)
    np.testing.assert_array_equal(got, naive(HOLES, plan, choice, naive_rescore))
    assert (got != sampled(plan, HOLES, choice)).any()


@pytest.mark.parametrize(("plan", "words"), [
    (Plan((20, 10, 10, 10)), ["[20, 10, 10, 10]", "expected 3"]), (Plan((20, 0, 10)), ["[20, 0, 10]", "at least 1"]),
    (Plan((1, 1, 1), arrangement="stride2"), ["'stride2'", "nonoverlap, stride1"]),
    (Plan((1, 1, 1), confidence="min"), ["'min'", "max, product"]),
])
def test_plans_that_mean_nothing_are_named(plan, words):
    with pytest.raises(UserError) as error:
        plan.check(K)
    assert all(word in str(error.value) for word in words)
