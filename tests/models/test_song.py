"""The song model: decoding step by step, causality, padding, against teacher forcing and naive computation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax.codebooks.patterns import get_pattern
from autosong_jax.layers import decoding
from autosong_jax.layers.transformer import Transformer, TransformerConfig
from autosong_jax.models.frames import CodeFrames
from autosong_jax.models.song import SongModel
from autosong_jax.sources.text.module import IdSource, StateSource

K, V, T, B = 3, 11, 5, 2
DECODER = TransformerConfig(width=16, heads=2, layers=2, mlp_width=32, max_positions=64)
ENCODER = dataclasses.replace(DECODER, causal=False, layers=1)


# One program each, where op by op there would be hundreds.
forward = nnx.jit(lambda model, steps, memory: model(steps, memory))
encode = nnx.jit(lambda model, sources, keep: model.encode(sources, keep))
read_at_once = nnx.jit(lambda model, memory, steps, room: model.start(memory, steps, room), static_argnums=3)
read_one = nnx.jit(lambda model, ids, step, cache: model.step(ids, step, cache))


@functools.cache
def make_model(fusion="cross", **decoder):
    rngs = nnx.Rngs(0)
    sources = {
        "lyrics": IdSource(20, 4, 6, ENCODER, DECODER.width, rngs=rngs),
        "genre": StateSource(6, DECODER.width, "float32", rngs=rngs),
    }
    frames = functools.partial(CodeFrames, K, V, True)
    model = SongModel(frames, dataclasses.replace(DECODER, **decoder), fusion, sources, rngs=rngs)
    # Biases and norms start at zero and one; random ones let a wrong use of them show.
    params = nnx.state(model, nnx.Param)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [p + 0.1 * jax.random.normal(key, p.shape) for p, key in zip(leaves, keys, strict=True)]
    nnx.update(model, jax.tree.unflatten(tree, leaves))
    return model


def make_sources(lyrics_length=7, rng=None):
    rng = rng or np.random.default_rng(0)
    return {
        "lyrics": {"ids": rng.integers(1, 20, (B, lyrics_length)), "sections": rng.integers(0, 4, (B, lyrics_length)),
                   "lines": rng.integers(0, 6, (B, lyrics_length)), "length": np.array([lyrics_length, 4])},
        "genre": {"states": rng.normal(size=(B, 3, 6)).astype(np.float32), "length": np.array([0, 3])},
    }


def random_steps(pattern, seed=0):
    codes = np.random.default_rng(seed).integers(0, V, (B, pattern.steps.shape[0], K))
    return pattern.interleave(jnp.asarray(codes), V)


def decode_by_steps(model, steps, memory):
    model = model.unstacked()

    @jax.jit
    def run(steps, memory):
        cache = model.start(memory, steps[:, :0], steps.shape[1])

        def one(cache, xs):
            logits, cache = model.step(xs[1], xs[0], cache)
            return cache, logits

        return jax.lax.scan(one, cache, (jnp.arange(steps.shape[1]), steps.swapaxes(0, 1)))[1].swapaxes(0, 1)

    return run(steps, memory)


# Positions that are added to the inputs are added before either fusion; rotary ones are in the layers.
PLACES = pytest.mark.parametrize(("positions", "fusion"), [
    ("sinusoidal", "cross"), ("learned", "prefix"), ("rotary", "cross"), ("rotary", "prefix")])


@PLACES
def test_decoding_step_by_step_equals_teacher_forcing(positions, fusion):
    model = make_model(fusion, positions=positions)
    steps = random_steps(get_pattern("delay", T, K))  # the model sees steps, whatever pattern they are of
    memory = encode(model, make_sources(), jnp.ones((B, 2), bool))
    np.testing.assert_allclose(decode_by_steps(model, steps, memory), forward(model, steps, memory), atol=1e-4)


@PLACES
def test_steps_that_are_read_at_once_are_those_read_one_by_one(positions, fusion):
    model = make_model(fusion, positions=positions)
    steps = random_steps(get_pattern("delay", T, K))
    memory = encode(model, make_sources(), jnp.array([[True, True], [False, False]]))
    forced, model = forward(model, steps, memory), model.unstacked()
    for read in (1, 4, steps.shape[1]):
        first = steps.at[:, read - 1:].set(V)  # of what is read, the last may be anything
        cache = read_at_once(model, memory, first[:, :read], read)
        cache = decoding.grown(cache, steps.shape[1])
        for s in range(read - 1, steps.shape[1]):
            logits, cache = read_one(model, steps[:, s], jnp.int32(s), cache)
            np.testing.assert_allclose(logits, forced[:, s], atol=1e-4)


def test_unstacking_frees_what_it_consumes_and_keeps_the_rest():
    model = make_model.__wrapped__(bias=True)  # one of its own, since it is consumed
    steps, memory = random_steps(get_pattern("delay", T, K)), encode(model, make_sources(), jnp.ones((B, 2), bool))
    expected = forward(model, steps, memory)
    kept = model.unstacked()
    assert not any(x.is_deleted() for x in jax.tree.leaves(nnx.state(model)))
    consumed = model.unstacked(consume=True)
    assert all(x.is_deleted() for x in jax.tree.leaves(nnx.state(model.decoder.blocks)))
    for unstacked in kept, consumed:
        np.testing.assert_allclose(forward(unstacked, steps, memory), expected, atol=1e-5)


@pytest.mark.parametrize("options", [{"norm": "post", "bias": True, "activation": "relu"}, {"remat": "full"},
                                     {"unroll": True}], ids=str)
def test_decoding_equals_teacher_forcing_for_other_blocks(options):
    model = make_model(**options)
    steps = random_steps(get_pattern("delay", T, K))
    memory = encode(model, make_sources(), jnp.ones((B, 2), bool))
    np.testing.assert_allclose(decode_by_steps(model, steps, memory), forward(model, steps, memory), atol=1e-4)


@pytest.mark.parametrize("fusion", ["cross", "prefix"])
def test_a_step_depends_on_no_later_step(fusion):
    model = make_model(fusion)
    memory = encode(model, make_sources(), jnp.ones((B, 2), bool))
    graph, params = nnx.split(model)
    steps = random_steps(get_pattern("delay", T, K))
    logits = forward(model, steps, memory)
    for s in range(steps.shape[1]):
        changed = steps.at[:, s + 1:].set((steps[:, s + 1:] + 1) % V)
        np.testing.assert_array_equal(forward(model, changed, memory)[:, : s + 1], logits[:, : s + 1])

    @jax.jit
    @jax.grad
    def embedded(x, s):
        """The gradient of a scalar of step s's output by the decoder's inputs."""
        decoder = nnx.merge(graph, params).decoder
        kwargs = {"memory": memory.states, "memory_lengths": memory.lengths} if fusion == "cross" else {}
        return decoder(x, **kwargs)[:, s].sum()

    x = jax.random.normal(jax.random.key(0), (B, steps.shape[1], DECODER.width))
    for s in (0, 3):
        gradient = embedded(x, s)
        assert np.all(gradient[:, s + 1:] == 0) and np.any(gradient[:, s] != 0)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_odd_and_even_numbers_of_steps_agree(positions):
    # Nine positions: none is left for the step that is added to an odd number of them.
    transformer = Transformer(
        dataclasses.replace(DECODER, positions=positions, max_positions=9, layers=1), rngs=nnx.Rngs(0))
    graph, params = nnx.split(transformer)
    x = jax.random.normal(jax.random.key(0), (B, 9, DECODER.width))

    def loss(params, steps):
        out = nnx.merge(graph, params)(x[:, :steps])[:, :8]
        return jnp.sin(out).sum(), out

    (_, odd), of_odd = jax.jit(jax.value_and_grad(lambda params: loss(params, 9), has_aux=True))(params)
    (_, even), of_even = jax.jit(jax.value_and_grad(lambda params: loss(params, 8), has_aux=True))(params)
    np.testing.assert_allclose(odd, even, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), of_odd, of_even)


@pytest.mark.parametrize("fusion", ["cross", "prefix"])
def test_padding_of_the_sources_changes_nothing(fusion):
    model = make_model(fusion)
    sources, keep = make_sources(), jnp.ones((B, 2), bool)
    steps = random_steps(get_pattern("delay", T, K))
    expected = forward(model, steps, encode(model, sources, keep))
    padded = {name: {k: v if k == "length" else np.concatenate([v, np.ones_like(v[:, :2]) * 3], axis=1)
                     for k, v in source.items()} for name, source in sources.items()}
    padded["lyrics"]["ids"][1, 4:] = 19
    padded["genre"]["states"][0] = 1e6
    np.testing.assert_allclose(forward(model, steps, encode(model, padded, keep)), expected, atol=1e-5)


@pytest.mark.parametrize("fusion", ["cross", "prefix"])
def test_a_dropped_source_is_as_if_absent_and_alone(fusion):
    model = make_model(fusion)
    steps = random_steps(get_pattern("delay", T, K))
    sources = make_sources()
    keep = jnp.array([[True, False], [True, True]])
    dropped = forward(model, steps, encode(model, sources, keep))
    absent = make_sources()
    absent["lyrics"]["length"] = np.array([0, 4])
    both = jnp.ones((B, 2), bool)
    np.testing.assert_allclose(dropped, forward(model, steps, encode(model, absent, both)), atol=1e-5)
    sources["lyrics"]["ids"] = (sources["lyrics"]["ids"] + 1) % 20
    other = forward(model, steps, encode(model, sources, keep))
    np.testing.assert_allclose(other[0], dropped[0], atol=1e-5)
    assert np.abs(other[1] - dropped[1]).max() > 1e-3


def test_frames_are_filled_in_from_all_sides_or_within_the_window():
    model = make_model(window=2, layers=2)
    memory = encode(model, make_sources(), jnp.ones((B, 2), bool))
    frames = jnp.asarray(np.random.default_rng(0).integers(0, V + 1, (B, 40, K)))
    fill = nnx.jit(lambda model, frames, local: model(frames, memory, local=local))
    changed = frames.at[:, 20].set((frames[:, 20] + 1) % V)
    for local, reach in [(False, 40), (True, 4)]:
        difference = np.abs(fill(model, changed, local) - fill(model, frames, local)).max(axis=(0, 2, 3))
        inside = np.abs(np.arange(40) - 20) <= reach
        assert np.all(difference[inside] > 0) and np.all(difference[~inside] == 0)
    np.testing.assert_allclose(fill(model.unstacked(), frames, True), fill(model, frames, True), atol=1e-5)


def test_no_memory_at_all_is_finite_and_has_finite_gradients():
    model = make_model()
    steps = random_steps(get_pattern("delay", T, K))

    def loss(model):
        return jnp.square(model(steps, model.encode(make_sources(), jnp.zeros((B, 2), bool)))).mean()

    value, gradients = nnx.jit(nnx.value_and_grad(loss))(model)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_songs_of_a_batch_do_not_touch_each_other():
    model = make_model("prefix")
    steps = random_steps(get_pattern("delay", T, K))
    memory = encode(model, make_sources(), jnp.ones((B, 2), bool))
    flipped = forward(model, steps[::-1], jax.tree.map(lambda x: x[::-1], memory))
    np.testing.assert_allclose(flipped[::-1], forward(model, steps, memory), atol=1e-5)


def test_dropout_is_drawn_per_layer_and_off_without_a_key():
    model = make_model(dropout=0.5)
    steps = random_steps(get_pattern("delay", T, K))
    memory = encode(model, make_sources(), jnp.ones((B, 2), bool))
    drawn = nnx.jit(lambda model, key: model(steps, memory, key))
    one, same, other = (drawn(model, jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-2 and np.abs(one - forward(model, steps, memory)).max() > 1e-2
