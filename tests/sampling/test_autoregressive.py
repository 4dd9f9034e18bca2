"""The sampler against a loop that recomputes the whole sequence at every step, without cache, guidance trick or jit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax.codebooks.patterns import get_pattern
from autosong_jax.layers.transformer import TransformerConfig
from autosong_jax.models.frames import CodeFrames
from autosong_jax.models.song import SongModel
from autosong_jax.sampling import stepwise
from autosong_jax.sampling.autoregressive import Request, Sampler
from autosong_jax.sampling.guidance import branches
from autosong_jax.sampling.tokens import Choice
from autosong_jax.sources.text.module import IdSource

K, V, T, B = 2, 9, 6, 3
DECODER = TransformerConfig(width=16, heads=2, layers=1, mlp_width=32)


@functools.cache
def make_model(end_of_song=True, end_scale=1.0, fusion="cross"):
    rngs = nnx.Rngs(0)
    source = IdSource(20, 0, 0, dataclasses.replace(DECODER, causal=False), 16, rngs=rngs)
    model = SongModel(functools.partial(CodeFrames, K, V, end_of_song), DECODER, fusion, {"lyrics": source}, rngs=rngs)
    heads = 3 * model.frames.heads[...]
    if end_of_song:
        heads = heads.at[..., V].multiply(end_scale)
    model.frames.heads[...] = heads
    return model


def make_memory(model, keep):
    ids = np.random.default_rng(1).integers(0, 20, (B, 5))
    sources = {"lyrics": {"ids": np.tile(ids, (len(keep), 1)), "length": np.tile([5, 3, 4], len(keep))}}
    return model.encode(sources, jnp.repeat(keep, B, axis=0))


# Whose programs serve all models of one architecture.
forward = nnx.jit(lambda model, steps, memory: model(steps, memory))


@functools.cache
def sampler_of(graph, pattern_name):
    return Sampler(graph, get_pattern(pattern_name, T, K))


def naive_greedy(model, pattern_name, keep, weights, prompt, prompt_frames, max_frames):
    """Codes and lengths, song by song and step by step."""
    memory, pattern = make_memory(model, keep), get_pattern(pattern_name, T, K)
    steps = np.full((B, pattern.num_steps, K), V)
    end = np.array(max_frames)
    for s in range(1, pattern.num_steps):
        logits = np.asarray(forward(model, np.tile(steps, (len(keep), 1, 1)), memory))
        logits = np.einsum("gbskv,g->bskv", logits.reshape(len(keep), *steps.shape, -1), weights)[:, s - 1]
        for b in range(B):
            for k in range(K):
                frame = pattern.frames[s, k]
                if frame < 0 or frame >= end[b]:
                    continue
                allowed = logits[b, k] if k == 0 else logits[b, k, :V]
                choice = prompt[b, frame, k] if frame < prompt_frames[b] else allowed.argmax()
                if choice == V:
                    end[b] = min(end[b], frame)
                else:
                    steps[b, s, k] = choice
    codes = steps[:, pattern.steps, np.arange(K)]
    return np.where(np.arange(T)[None, :, None] < end[:, None, None], codes, V), end


def run(model, pattern_name, keep, weights, prompt, prompt_frames, max_frames, choice=None, seeds=(0, 1, 2)):
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    graph, params = nnx.split(model.unstacked())
    request = Request(weights, keys, jnp.asarray(prompt), prompt_frames, max_frames, choice or Choice(temperature=0.0))
    return sampler_of(graph, pattern_name)(params, make_memory(model, keep), request)


@pytest.mark.parametrize(("pattern_name", "end_scale", "fusion"), [
    *(("delay", end_scale, fusion) for end_scale in (0.3, -3.0) for fusion in ("cross", "prefix")),
    # What is read beside them does not depend on the pattern.
    ("flatten", -3.0, "prefix"), ("parallel", 0.3, "cross"), ("coarse_first", -3.0, "cross")])
def test_sampler_equals_the_naive_loop(pattern_name, end_scale, fusion):
    model = make_model(end_scale=end_scale, fusion=fusion)
    keep, weights = branches(["lyrics"], {"lyrics": 2.0})
    prompt = np.random.default_rng(2).integers(0, V, (B, T, K))
    prompt_frames, max_frames = np.array([0, 2, 3]), np.array([6, 6, 5])
    codes, ends = run(model, pattern_name, keep, weights, prompt, prompt_frames, max_frames)
    expected, expected_ends = naive_greedy(model, pattern_name, keep, weights, prompt, prompt_frames, max_frames)
    np.testing.assert_array_equal(ends, expected_ends)
    # After its end a song holds no codes that count.
    counts = np.arange(T)[None, :, None] < expected_ends[:, None, None]
    np.testing.assert_array_equal(np.where(counts, codes, V), expected)
    np.testing.assert_array_equal(codes[2, :min(3, expected_ends[2])], prompt[2, :min(3, expected_ends[2])])


@pytest.mark.parametrize(("pattern_name", "fusion"), [("delay", "prefix"), ("flatten", "cross")])
def test_caches_that_grow_and_prompts_that_are_read_at_once_change_nothing(pattern_name, fusion, monkeypatch):
    """With rooms and blocks so small that there are several of both."""
    monkeypatch.setattr(stepwise, "ROOM", 2)
    monkeypatch.setattr(stepwise, "BLOCK", 2)
    model = make_model(end_scale=-3.0, fusion=fusion)
    keep, weights = branches(["lyrics"], {"lyrics": 2.0})
    prompt = np.random.default_rng(2).integers(0, V, (B, T, K))
    for prompt_frames, max_frames in [([0, 0, 0], [6, 6, 5]), ([3, 4, 3], [6, 5, 6]), ([5, 5, 5], [6, 2, 0]),
                                      ([6, 6, 6], [6, 6, 6])]:
        arguments = pattern_name, keep, weights, prompt, np.array(prompt_frames), np.array(max_frames)
        codes, ends = run(model, *arguments)
        expected, expected_ends = naive_greedy(model, *arguments)
        np.testing.assert_array_equal(ends, expected_ends)
        counts = np.arange(T)[None, :, None] < expected_ends[:, None, None]
        np.testing.assert_array_equal(np.where(counts, codes, V), expected)


def test_a_state_goes_on_from_where_it_stands(monkeypatch):
    monkeypatch.setattr(stepwise, "ROOM", 4)
    model, pattern = make_model(end_of_song=False), get_pattern("delay", T, K)
    keep, weights = branches(["lyrics"], {"lyrics": 1.5})
    request = Request(weights, jax.vmap(jax.random.key)(jnp.arange(B)), np.zeros((B, T, K), int), np.zeros(B, int),
                      np.full(B, T), Choice())
    graph, params = nnx.split(model.unstacked())
    sampler, memory = Sampler(graph, pattern), make_memory(model, keep)
    state = sampler.begin(params, memory, request)
    for until in range(1, pattern.num_steps):
        state = sampler.advance(params, state, request, until)
        assert state.step == until and state.cache.room >= until
    np.testing.assert_array_equal(pattern.deinterleave(state.written), sampler(params, memory, request)[0])


def test_songs_end_where_the_model_says_so_and_only_where_it_may():
    keep, weights = branches(["lyrics"], {"lyrics": 1.0})
    arguments = ("delay", keep, weights, np.zeros((B, T, K), int), np.zeros(B, int), np.full(B, T))
    _, ends = run(make_model(end_scale=-10.0), *arguments)
    codes, never = run(make_model(end_of_song=False), *arguments)
    assert (np.asarray(ends) < T).any() and (np.asarray(never) == T).all() and np.asarray(codes).max() < V


def test_a_song_does_not_depend_on_its_company():
    model = make_model()
    keep, weights = branches(["lyrics"], {"lyrics": 1.5})
    arguments = (keep, weights, np.zeros((B, T, K), int), np.zeros(B, int), np.full(B, T), Choice(temperature=1.3))
    codes, _ = run(model, "delay", *arguments, seeds=(5, 6, 7))
    others, _ = run(model, "delay", *arguments, seeds=(5, 8, 9))
    np.testing.assert_array_equal(codes[0], others[0])
    assert np.any(codes[1] != others[1])
