"""EnCodec's layers against those of PyTorch and transformers, wherever in an array of rubbish the signal lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from transformers.models.encodec import modeling_encodec

from autosong_jax.codecs.encodec import module as encodec
from autosong_jax.codecs.encodec.module import Stretch
from autosong_jax.codecs.encodec.settings import EncodecConfig

torch.set_num_threads(1)
N, BEGIN = 96, 12  # room for the padding on either side


def set_parameters(module, theirs):
    """Gives our layer the parameters of theirs."""
    weight = theirs.conv.weight.detach().numpy()
    module.kernel = nnx.Param(jnp.asarray(weight.T))
    module.bias = nnx.Param(jnp.asarray(theirs.conv.bias.detach().numpy()))
    if module.norm:
        with torch.no_grad():
            theirs.norm.weight.normal_()
            theirs.norm.bias.normal_()
        module.norm.scale = nnx.Param(jnp.asarray(theirs.norm.weight.detach().numpy()))
        module.norm.bias = nnx.Param(jnp.asarray(theirs.norm.bias.detach().numpy()))


def check(module, theirs, lengths):
    """Our layer gives what theirs gives for signals of those lengths, and one program suffices for all of them."""
    set_parameters(module, theirs)
    graph, state = nnx.split(module)
    apply = jax.jit(lambda x, begin, end: nnx.merge(graph, state)(Stretch(x, begin, end)))
    rng = np.random.default_rng(0)
    for length in lengths:
        x = rng.standard_normal((2, N, 3)).astype(np.float32) * 10
        signal = torch.from_numpy(x[:, BEGIN:BEGIN + length].swapaxes(1, 2).copy())
        with torch.inference_mode():
            expected = theirs(signal).numpy().swapaxes(1, 2)
        stretch = apply(x, BEGIN, BEGIN + length)
        begin, end = int(stretch.begin), int(stretch.end)
        assert end - begin == expected.shape[1]
        np.testing.assert_allclose(stretch.x[:, begin:end], expected, rtol=1e-4, atol=1e-4)
    assert apply._cache_size() == 1


@pytest.mark.parametrize("settings", [
    {}, {"pad_mode": "constant"}, {"use_causal_conv": False}, {"use_causal_conv": False, "pad_mode": "constant"},
    {"use_causal_conv": False, "norm_type": "time_group_norm"}])
@pytest.mark.parametrize(("width", "stride", "dilation"), [(7, 1, 1), (8, 4, 1), (6, 3, 1), (3, 1, 4), (1, 1, 1)])
def test_convolution(settings, width, stride, dilation):
    torch.manual_seed(0)
    theirs = modeling_encodec.EncodecConv1d(transformers.EncodecConfig(**settings), 3, 5, width, stride, dilation)
    ours = encodec.Conv(EncodecConfig(**settings), 3, 5, width, stride, dilation, rngs=nnx.Rngs(0))
    check(ours, theirs.eval(), [1, 2, 3, 4, 5, 8, 9, 12, 31, 48, 71, 72])


@pytest.mark.parametrize("settings", [
    {}, {"trim_right_ratio": 0.5}, {"trim_right_ratio": 0.0}, {"use_causal_conv": False},
    {"use_causal_conv": False, "norm_type": "time_group_norm"}])
@pytest.mark.parametrize("stride", [2, 5])
def test_transposed_convolution(settings, stride):
    torch.manual_seed(0)
    theirs = modeling_encodec.EncodecConvTranspose1d(transformers.EncodecConfig(**settings), 3, 5, 2 * stride, stride)
    ours = encodec.TransposedConv(EncodecConfig(**settings), 3, 5, stride, rngs=nnx.Rngs(0))
    check(ours, theirs.eval(), [1, 2, 7, 40])


def test_lstm_goes_on_where_it_stopped():
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(6, 6, 2)
    ours = encodec.LSTM(6, 2, rngs=nnx.Rngs(0))
    for i, layer in enumerate(ours.layers):
        weights = {name: getattr(theirs, f"{name}_l{i}").detach().numpy().T
                   for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        layer.input, layer.hidden = nnx.Param(weights["weight_ih"]), nnx.Param(weights["weight_hh"])
        layer.bias = nnx.Param(weights["bias_ih"] + weights["bias_hh"])
    x = np.random.default_rng(0).standard_normal((3, 11, 6)).astype(np.float32)
    with torch.inference_mode():
        expected = x + theirs(torch.from_numpy(x).swapaxes(0, 1))[0].swapaxes(0, 1).numpy()
    first, states = ours(x[:, :4], [(jnp.zeros((3, 6)), jnp.zeros((3, 6)))] * 2)
    second, _ = ours(x[:, 4:], states)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), expected, atol=1e-6)


def test_quantizer_takes_the_nearest_of_what_is_left():
    config = EncodecConfig(hidden_size=6, codebook_size=32, target_bandwidths=(1.2, 2.4), sampling_rate=24000)
    quantizer = encodec.Quantizer(config, rngs=nnx.Rngs(0))
    books = np.asarray(quantizer.codebooks[...], np.float64)
    assert books.shape == (6, 32, 6)
    x = np.random.default_rng(0).standard_normal((2, 9, 6)).astype(np.float32)
    codes = np.asarray(quantizer.encode(x, 4))
    assert codes.shape == (2, 9, 4)
    for b, t in np.ndindex(2, 9):
        left = x[b, t].astype(np.float64)
        for level in range(4):
            code = int(np.argmin([np.sum((left - entry) ** 2) for entry in books[level]]))
            assert codes[b, t, level] == code
            left = left - books[level, code]
        np.testing.assert_allclose(quantizer.decode(codes)[b, t], x[b, t] - left, atol=1e-5)
