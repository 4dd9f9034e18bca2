"""Cross-attention weights of finished songs, against naive computation and the model's own attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax.codebooks.patterns import get_pattern
from autosong_jax.errors import UserError
from autosong_jax.layers.attention import attention
from autosong_jax.models.alignment import cross_attention_weights
from tests.models.test_song import DECODER, B, K, T, encode, make_model, make_sources, random_steps

HEADS = [(1, 0), (0, 1), (1, 1)]
# Song 0 has lyrics alone, song 1 both sources; of song 1 the lyrics are dropped below.
KEEP = jnp.array([[True, True], [True, False]])


@pytest.fixture(scope="module", params=["causal", "frames", "windows"])
def song(request):
    """A model, what it reads of a song, and `local`."""
    model = make_model(window=1)
    local = {"causal": None, "frames": jnp.array(False), "windows": jnp.array(True)}[request.param]
    steps = random_steps(get_pattern("delay" if local is None else "parallel", T, K))
    return model, steps if local is None else steps[:, 1:], local


def block_of(model, layer):
    graph, parameters = nnx.split(model.decoder.blocks)
    return nnx.merge(graph, jax.tree.map(lambda x: x[layer], parameters))


def test_weights_are_a_softmax_of_queries_and_keys(song, monkeypatch):
    model, steps, local = song
    memory = encode(model, make_sources(), KEEP)
    weights = cross_attention_weights(model, steps, memory, HEADS, local=local)
    assert weights.dtype == jnp.float32 and weights.shape == (B, 3, steps.shape[1], memory.states.shape[1])
    # The model's own queries, as its blocks are applied one by one by the way that it always takes.
    unstacked, queries, outputs = model.unstacked(), [], []

    def recording(q, k, v, **options):
        out = attention(q, k, v, **options)
        if k.shape[1] == memory.states.shape[1]:
            queries.append((q, k, v))
            outputs.append(out)
        return out

    monkeypatch.setattr("autosong_jax.layers.transformer.attention", recording)
    unstacked(steps, memory, local=local)
    assert len(queries) == DECODER.layers
    for n, (layer, head) in enumerate(HEADS):
        q, k, v = (np.asarray(x, np.float64)[:, :, head] for x in queries[layer])
        for b in range(B):
            count = int(memory.lengths[b])
            scores = np.exp(q[b] @ k[b, :count].T / np.sqrt(q.shape[-1]))
            expected = scores / scores.sum(axis=1, keepdims=True)
            np.testing.assert_allclose(weights[b, n, :, :count], expected, atol=1e-5)
            assert not weights[b, n, :, count:].any()
            mixed = np.asarray(weights[b, n], np.float64) @ v[b]
            np.testing.assert_allclose(mixed, outputs[layer][b, :, head], atol=1e-5)


def test_columns_say_which_source_and_place_they_are_of():
    model = make_model()
    lyrics, genre = model.source_names.index("lyrics"), model.source_names.index("genre")
    memory = encode(model, make_sources(), KEEP)
    columns = [list(zip(memory.source[b].tolist(), memory.position[b].tolist(), strict=True)) for b in range(B)]
    assert KEEP[1, lyrics] == (lyrics == 0)
    of_lyrics = [[(lyrics, i) for i in range(7)], [(lyrics, i) for i in range(4)] if KEEP[1, lyrics] else []]
    of_genre = [[], [(genre, i) for i in range(3)] if KEEP[1, genre] else []]
    for b in range(B):
        expected = sorted(of_lyrics[b] + of_genre[b])
        assert columns[b] == expected + [(-1, -1)] * (memory.states.shape[1] - len(expected))
        assert memory.lengths[b] == len(expected)
    # A change of one slot of a source changes the keys of the column that says so, and of no other.
    changed = make_sources()
    changed["genre"]["states"][1, 2] += 1
    other = encode(model, changed, jnp.ones((B, 2), bool))
    memory = encode(model, make_sources(), jnp.ones((B, 2), bool))
    moved = np.argwhere(np.abs(memory.states - other.states).max(axis=-1) > 0).tolist()
    assert moved == [[1, memory.source[1].tolist().index(genre) + 2]]


def test_where_nothing_counts_no_weight_is(song):
    model, steps, local = song
    weights = cross_attention_weights(model, steps, encode(model, make_sources(), jnp.zeros((B, 2), bool)), HEADS,
                                      local=local)
    assert not weights.any()


def test_an_unstacked_model_has_the_same_weights(song):
    model, steps, local = song
    memory = encode(model, make_sources(), KEEP)
    np.testing.assert_allclose(cross_attention_weights(model, steps, memory, HEADS, local=local),
                               cross_attention_weights(model.unstacked(), steps, memory, HEADS, local=local), atol=1e-6)


def test_heads_and_models_that_have_none():
    model, steps = make_model(), random_steps(get_pattern("delay", T, K))
    memory = encode(model, make_sources(), KEEP)
    with pytest.raises(UserError, match="head 2 of layer 0: expected one of 2 heads, from 0, of one of 2 layers"):
        cross_attention_weights(model, steps, memory, [(0, 2)])
    with pytest.raises(UserError, match=r"expected a model of model\.fusion 'cross'"):
        cross_attention_weights(make_model("prefix"), steps, memory, HEADS)
