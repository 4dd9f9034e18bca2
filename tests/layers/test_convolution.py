"""Convolutions and norms of images against torch's, with the same weights."""

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from autosong_jax.layers.convolution import Conv, DepthwiseConv, InstanceNorm, folded, unfolded


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("size", "stride", "dilation"),
                         [((3, 3), (1, 1), 1), ((4, 4), (2, 2), 1), ((3, 9), (1, 2), 4)])
def test_images_are_convolved_as_in_torch(size, stride, dilation):
    conv, x = Conv(3, 5, size, stride, dilation, dtype="float32", rngs=nnx.Rngs(0)), noise(2, 12, 8, 3)
    kernel = torch.from_numpy(np.asarray(conv.conv.kernel[...]).transpose(3, 2, 0, 1).copy())
    time, bands = (size[0] - 1) * dilation + 1 - stride[0], size[1] - stride[1]
    padded = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    padded = torch.nn.functional.pad(padded, (0, 0, time // 2, time - time // 2), mode="replicate")
    padded = torch.nn.functional.pad(padded, (bands // 2, bands - bands // 2))
    expected = torch.nn.functional.conv2d(padded, kernel, None, stride, dilation=(dilation, 1))
    np.testing.assert_allclose(conv(x), expected.numpy().transpose(0, 2, 3, 1), atol=1e-5)


def test_each_channel_is_convolved_by_itself_as_in_torch():
    conv, x = DepthwiseConv(6, 7, dtype="float32", rngs=nnx.Rngs(0)), noise(2, 20, 6)
    kernel = torch.from_numpy(np.asarray(conv.kernel[...]).T[:, None].copy())
    expected = torch.nn.functional.conv1d(torch.from_numpy(x.swapaxes(1, 2).copy()), kernel, padding=3, groups=6)
    np.testing.assert_allclose(conv(x), expected.numpy().swapaxes(1, 2), atol=1e-5)


def test_squares_are_folded_and_unfolded():
    x = noise(2, 4, 6, 3)
    assert folded(x).shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(folded(x)[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(unfolded(folded(x)), x)


def test_the_norm_is_torchs():
    norm, x = InstanceNorm(3, rngs=nnx.Rngs(0)), 5 + 3 * noise(2, 8, 4, 3)
    norm.scale[...], norm.bias[...] = noise(3), noise(3)[::-1]
    expected = torch.nn.functional.instance_norm(
        torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), weight=torch.from_numpy(noise(3)),
        bias=torch.from_numpy(noise(3)[::-1].copy()))
    np.testing.assert_allclose(norm(x), expected.numpy().transpose(0, 2, 3, 1), atol=1e-4)


def test_only_the_norm_that_keeps_level_sees_it():
    x = noise(1, 8, 4, 3)
    plain, keeping = (InstanceNorm(3, keeps_level=keeps, rngs=nnx.Rngs(0)) for keeps in (False, True))
    np.testing.assert_array_equal(plain(x), keeping(x))  # at first they are the same
    keeping.level[...] = noise(6, 6)
    for louder in (x + 2, 3 * x):
        np.testing.assert_allclose(plain(louder), plain(x), atol=1e-3)
        assert np.abs(keeping(louder) - keeping(x)).max() > 0.5


def test_the_norm_that_keeps_level_can_give_back_what_it_took():
    """With all spreads alike, a linear map of their logarithm and of the means is enough for this."""
    norm, x = InstanceNorm(2, keeps_level=True, rngs=nnx.Rngs(0)), noise(1, 8, 4, 2)
    x = (x - x.mean(axis=(1, 2))) / x.std(axis=(1, 2))
    for mean in (np.float32([0, 0]), np.float32([3, -1])):
        norm.level[...] = jax.numpy.eye(4)[:, [2, 3, 0, 1]]  # means to biases, logarithms of spreads to scales
        np.testing.assert_allclose(norm(x + mean), x + mean, atol=1e-3)
