"""The sampler of latents against a loop that goes through the whole sequence at every step, and its laws."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax.latents.table import HEADS
from autosong_jax.layers.transformer import TransformerConfig
from autosong_jax.models.autoencoder import MelAutoencoder
from autosong_jax.models.latent_frames import LatentFrames, Latents
from autosong_jax.models.song import SongModel
from autosong_jax.sampling import stepwise
from autosong_jax.sampling.continuous import Request, Sampler
from autosong_jax.sampling.guidance import branches
from autosong_jax.sources.text.module import IdSource

B, N, R, C = 3, 6, 2, 2
DECODER = TransformerConfig(width=16, heads=2, layers=1, mlp_width=32)


def make_model(order="column", head="regression", short_context=3):
    rngs = nnx.Rngs(0)
    source = IdSource(20, 0, 0, dataclasses.replace(DECODER, causal=False), 16, rngs=rngs)
    latents = Latents(MelAutoencoder(C, 2, rngs=rngs), R)
    made = functools.partial(HEADS[head], **({"layers": 1, "hidden": 8, "steps": 2} if head == "flow" else {}))
    frames = functools.partial(LatentFrames, latents, order, made, short_context, True)
    model = SongModel(frames, DECODER, "cross", {"lyrics": source}, rngs=rngs)
    leaves, tree = jax.tree.flatten(nnx.state(model.frames))
    keys = jax.random.split(jax.random.key(1), len(leaves))  # so that nothing is zero, as it is before training
    random = [leaf + 0.3 * jax.random.normal(key, leaf.shape) / max(leaf.shape) ** 0.5
              for key, leaf in zip(keys, leaves, strict=True)]
    nnx.update(model.frames, jax.tree.unflatten(tree, random))
    model.frames.end.bias[...] = jnp.full(1, -10.0)  # songs are never over
    return model


def make_memory(model, keep, songs=B):
    ids = np.random.default_rng(1).integers(0, 20, (B, 5))[:songs]
    sources = {"lyrics": {"ids": np.tile(ids, (len(keep), 1)), "length": np.tile([5, 3, 4][:songs], len(keep))}}
    return model.encode(sources, jnp.repeat(keep, songs, axis=0))


@functools.cache
def sampler_of(graph, per_column, residual):
    return Sampler(graph, N, per_column, residual)


def run(model, residual=False, scale=2.0, prompt_frames=(0, 1, 2), seeds=(0, 1, 2), temperature=0.0, stride=None):
    """Columns [B, N, R C] and ends, piece by piece."""
    keep, weights = branches(["lyrics"], {"lyrics": scale})
    graph, params = nnx.split(model.unstacked())
    songs = len(seeds)
    prompt = np.random.default_rng(2).normal(size=(B, N, R * C)).astype(np.float32)[:songs]
    request = Request(weights, jax.vmap(jax.random.key)(jnp.array(seeds)), prompt, np.array(prompt_frames)[:songs],
                      np.array([6, 6, 5])[:songs], jnp.float32(temperature))
    sampler = sampler_of(graph, model.frames.per_column, residual)
    pieces = list(sampler.pieces(params, make_memory(model, keep, songs), request, stride))
    first = pieces[0].start
    columns = np.concatenate([prompt[:, :first], *(piece.frames for piece in pieces)], axis=1)
    return columns, pieces[-1].ends, prompt


@functools.partial(nnx.jit, static_argnames="residual")
def forward(model, steps, memory, weights, residual):
    """What is predicted of steps [B, S, F], greedily, and where songs are over [B, S]."""
    frames, before = model.frames, jnp.pad(steps, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    inputs = jnp.tile(frames.inputs(steps), (len(weights), 1, 1))
    states = frames.predict(model.hidden(inputs, memory))
    states = jnp.einsum("gbsd,g->bsd", states.reshape(len(weights), *steps.shape[:2], -1), weights)
    condition = frames.condition(states, before)
    value = frames.head.sample(condition.reshape(-1, condition.shape[-1]), None, 0.0).reshape(steps.shape)
    return value + before if residual else value, frames.end(states)[..., 0] > 0


def naive(model, prompt, prompt_frames, residual, scale):
    """Greedy latents, song by song, from the whole sequence at every step."""
    keep, weights = branches(["lyrics"], {"lyrics": scale})
    memory, per, frames = make_memory(model, keep), model.frames.per_column, model.frames
    count = N * per
    known = np.asarray(frames.steps(jnp.asarray(prompt)))
    steps, end = np.zeros((B, count, frames.size), np.float32), np.array([6, 6, 5])

    for s in range(count):
        values, over = (np.asarray(x) for x in forward(model, jnp.asarray(steps), memory, weights, residual))
        for b in range(B):
            given = s // per < prompt_frames[b]
            if s % per == 0 and over[b, s] and not given:
                end[b] = min(end[b], s // per)
            if s // per < end[b]:
                steps[b, s] = known[b, s] if given else values[b, s]
    return np.asarray(frames.columns(jnp.asarray(steps))), end


@pytest.mark.parametrize("order, residual", [("column", False), ("raster", True)])
def test_sampler_equals_the_naive_loop(order, residual, monkeypatch):
    """With caches so small that there are several, and read in blocks of two."""
    monkeypatch.setattr(stepwise, "ROOM", 2)
    monkeypatch.setattr(stepwise, "BLOCK", 2)
    model = make_model(order)
    for bias in (-10.0, 0.0):  # songs that are never over, and songs that may be
        model.frames.end.bias[...] = jnp.full(1, bias)
        columns, ends, prompt = run(model, residual, prompt_frames=(1, 2, 2))
        expected, expected_ends = naive(model, prompt, (1, 2, 2), residual, 2.0)
        np.testing.assert_array_equal(ends, expected_ends)
        inside = (np.arange(N) < ends[:, None])[..., None]
        np.testing.assert_allclose(np.where(inside, columns, 0), np.where(inside, expected, 0), atol=2e-5)


def test_a_song_depends_on_its_seed_alone_and_pieces_are_the_whole():
    model = make_model(head="flow")
    columns, ends, _ = run(model, temperature=1.0, prompt_frames=(0, 0, 0))
    in_pieces, same_ends, _ = run(model, temperature=1.0, prompt_frames=(0, 0, 0), stride=2)
    np.testing.assert_array_equal(ends, same_ends)
    np.testing.assert_array_equal(columns, in_pieces)
    alone, _, _ = run(model, temperature=1.0, prompt_frames=(0,), seeds=(0,))
    np.testing.assert_allclose(alone[0], columns[0], atol=1e-5)
    other, _, _ = run(model, temperature=1.0, prompt_frames=(0, 0, 0), seeds=(7, 1, 2))
    assert np.abs(other[0] - columns[0]).max() > 1e-2 and np.array_equal(other[1], columns[1])


def test_guidance_of_one_changes_nothing_and_no_temperature_draws_nothing():
    model = make_model(head="flow")
    keep, weights = branches(["lyrics"], {"lyrics": 1.0})
    assert len(weights) == 1 and keep.all()
    cold, _, _ = run(model, scale=1.0, prompt_frames=(0, 0, 0))
    other_seeds, _, _ = run(model, scale=1.0, prompt_frames=(0, 0, 0), seeds=(5, 6, 7))
    np.testing.assert_array_equal(cold, other_seeds)
