"""T5, mT5 and umT5 encoders against transformers' with the same random weights."""

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from autosong_jax.sources.text import t5_names as t5
from autosong_jax.sources.text.biased_attention import CHUNK
from autosong_jax.sources.text.t5 import T5Encoder, distance_buckets
from autosong_jax.weights import parameters
from autosong_jax.weights.files import Tensors

torch.set_num_threads(1)
SHAPES = {
    "plain": {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2},
    "odd": {"d_model": 10, "d_kv": 3, "d_ff": 7, "num_layers": 3, "num_heads": 5, "layer_norm_epsilon": 1e-3,
            "relative_attention_num_buckets": 10, "relative_attention_max_distance": 24}}


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (32, 256), (8, 20), (10, 30), (64, 200)])
def test_buckets(buckets, max_distance):
    length = 3000
    reference = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket(
        torch.arange(1 - length, length), True, buckets, max_distance)
    np.testing.assert_array_equal(distance_buckets(length, buckets, max_distance), reference)


def reference_and_ours(kind, feed_forward, shape):
    """The encoder of transformers, its weights all random and large enough to matter, and ours with the same."""
    torch.manual_seed(0)
    model_class = {"t5": transformers.T5EncoderModel, "mt5": transformers.MT5EncoderModel,
                   "umt5": transformers.UMT5EncoderModel}[kind]
    config = model_class.config_class(vocab_size=50, feed_forward_proj=feed_forward, **SHAPES[shape])
    reference = model_class(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(0, 0.5)
    state = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    own = t5.read_config(config.to_dict())
    graph, abstract = nnx.split(nnx.eval_shape(lambda: T5Encoder(own, rngs=nnx.Rngs(0))))
    params = parameters.load(nnx.to_pure_dict(abstract), t5.recipes(own), t5.standard_names(Tensors.of(state, "here")),
                             what="test", ignored=t5.IGNORED)
    return reference, nnx.merge(graph, params)


@pytest.mark.parametrize(("kind", "feed_forward", "shape"), [
    ("t5", "relu", "plain"), ("t5", "gated-gelu", "odd"), ("mt5", "gated-gelu", "plain"), ("umt5", "gated-gelu", "odd"),
    ("umt5", "gated-silu", "plain")])
def test_states_with_padding(kind, feed_forward, shape):
    reference, model = reference_and_ours(kind, feed_forward, shape)
    lengths = np.array([37, 1, 20])
    ids = np.random.default_rng(0).integers(50, size=(3, 37))
    mask = np.arange(37) < lengths[:, None]
    with torch.inference_mode():
        expected = reference(torch.tensor(ids), torch.tensor(mask)).last_hidden_state.numpy()
    states = np.asarray(nnx.jit(lambda model, ids: model(ids, lengths))(model, ids))
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(states[mask], expected[mask], atol=1e-4)
    # Whatever stands at the padding: the states of the text are the same to the last bit.
    other = np.asarray(nnx.jit(lambda model, ids: model(ids, lengths))(model, np.where(mask, ids, 7)))
    np.testing.assert_array_equal(states[mask], other[mask])


def test_long_texts_are_attended_in_chunks():
    reference, model = reference_and_ours("t5", "relu", "plain")
    ids = np.random.default_rng(0).integers(50, size=(1, 2 * CHUNK + 5))
    with torch.inference_mode():
        expected = reference(torch.tensor(ids)).last_hidden_state.numpy()
    states = jax.jit(model)(ids, np.array([ids.shape[1]]))
    np.testing.assert_allclose(states, expected, atol=1e-4)
