"""The BERT encoder against transformers' with the same random weights."""

import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from autosong_jax.sources.text import bert_names as bert
from autosong_jax.sources.text.bert import BertEncoder
from autosong_jax.weights import parameters
from autosong_jax.weights.files import Tensors

torch.set_num_threads(1)
BEGIN, END = 2, 3
SHAPES = {
    "plain": {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
              "max_position_embeddings": 40},
    "odd": {"hidden_size": 15, "num_hidden_layers": 3, "num_attention_heads": 5, "intermediate_size": 7,
            "max_position_embeddings": 37, "type_vocab_size": 1, "layer_norm_eps": 1e-2, "hidden_act": "relu"}}


def reference_and_ours(shape):
    """The encoder of transformers, all its weights random, and ours with the same."""
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=50, **SHAPES[shape])
    reference = transformers.BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(0, 0.5)
    state = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    own = bert.read_config(config.to_dict(), BEGIN, END)
    graph, abstract = nnx.split(nnx.eval_shape(lambda: BertEncoder(own, rngs=nnx.Rngs(0))))
    params = parameters.load(nnx.to_pure_dict(abstract), bert.recipes(own), Tensors.of(state, "here"), what="test",
                             ignored=bert.IGNORED)
    return reference, nnx.merge(graph, params)


def texts(lengths, width):
    ids = np.random.default_rng(0).integers(4, 50, size=(len(lengths), width))
    ids[:, 0] = BEGIN
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1] = END
        row[length:] = 0
    return ids


@pytest.mark.parametrize("shape", SHAPES)
def test_states_with_padding(shape):
    reference, model = reference_and_ours(shape)
    lengths = np.array([37, 2, 20])
    ids = texts(lengths, 37)
    ids[0, 9] = BEGIN  # a "[CLS]" that somebody wrote into a text begins no piece
    mask = np.arange(37) < lengths[:, None]
    with torch.inference_mode():
        expected = reference(torch.tensor(ids), torch.tensor(mask)).last_hidden_state.numpy()
    encode = nnx.jit(lambda model, ids: model(ids, lengths))
    states = np.asarray(encode(model, ids))
    np.testing.assert_allclose(states[mask], expected[mask], atol=1e-4)
    other = np.asarray(encode(model, np.where(mask, ids, 7)))
    np.testing.assert_array_equal(states[mask], other[mask])


def test_pieces_of_a_text_do_not_see_each_other():
    reference, model = reference_and_ours("plain")
    pieces = [texts([length], length)[0] for length in (40, 3, 25, 2)]
    ids = np.concatenate([*pieces, np.zeros(50, int)])[None]  # more padding than there are positions
    length = sum(map(len, pieces))
    with torch.inference_mode():
        expected = [reference(torch.tensor(piece[None])).last_hidden_state[0].numpy() for piece in pieces]
    states = model(ids, np.array([length]))
    np.testing.assert_allclose(states[0, :length], np.concatenate(expected), atol=1e-4)
