"""Convolutions over images of sound [B, T, M, C] and over signals [B, T, C].

Time goes on: beyond the ends of an image its first and last column repeat. Bands end: beyond them are zeros.

Letters: B batch, T time, M bands, C channels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.layers.declaration import declared
from autosong_jax.layers.lora import Linear

HALVED = nnx.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")  # of what a ReLU left (He et al. 2015)
WHOLE = nnx.initializers.lecun_normal()  # of what comes as it is
_KERNEL, _BIAS = declared("matrix", "fsdp", None, cast=True), declared("vector")


class Conv(nnx.Module):
    """[B, T, M, C] -> [B, T / stride, M / stride, C'], whose lengths the strides divide.

    Args:
      inputs, outputs: C and C'.
      size: of the kernel, in time and bands.
      stride: in time and bands.
      dilation: in time.
      init: of the kernel.
      dtype: of the computation.
      rngs: of the initial kernel.
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int] = (3, 3), stride: tuple[int, int] = (1, 1),
                 dilation: int = 1, *, init: Callable = HALVED, dtype: str, rngs: nnx.Rngs):
        time, bands = (size[0] - 1) * dilation + 1 - stride[0], size[1] - stride[1]
        self.time = (time // 2, time - time // 2)
        self.conv = nnx.Conv(inputs, outputs, size, stride, padding=((0, 0), (bands // 2, bands - bands // 2)),
                             kernel_dilation=(dilation, 1), dtype=dtype, kernel_init=init, kernel_metadata=_KERNEL,
                             bias_metadata=_BIAS, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.conv(jnp.pad(x, ((0, 0), self.time, (0, 0), (0, 0)), mode="edge"))


def linear(inputs: int, outputs: int, *, init: Callable = WHOLE, dtype: str, rngs: nnx.Rngs) -> Linear:
    """A matrix and a bias on the last dimension."""
    return Linear(inputs, outputs, dtype=dtype, kernel_init=init, kernel_metadata=_KERNEL, bias_metadata=_BIAS,
                      rngs=rngs)


def folded(x: Array) -> Array:
    """[B, 2 T, 2 M, C] -> [B, T, M, 4 C]: each square of four pixels becomes one."""
    b, t, m, c = x.shape
    return x.reshape(b, t // 2, 2, m // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, t // 2, m // 2, 4 * c)


def unfolded(x: Array) -> Array:
    """[B, T, M, 4 C] -> [B, 2 T, 2 M, C], the way back."""
    b, t, m, c = x.shape
    return x.reshape(b, t, m, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * t, 2 * m, c // 4)


class InstanceNorm(nnx.Module):
    """Each channel of each image to mean 0 and spread 1 (Ulyanov et al. 2016), then times a scale plus a bias.

    How loud an image was and how much it varied is gone after it. With `keeps_level` the scales and biases are besides
    linear in what was taken out, the means and the logarithms of the spreads of all channels; that map is 0 at first.

    Args:
      channels: C.
      keeps_level: see above.
    """

    def __init__(self, channels: int, keeps_level: bool = False, *, rngs: nnx.Rngs):
        self.scale = nnx.Param(jnp.ones(channels), **declared("vector"))
        self.bias = nnx.Param(jnp.zeros(channels), **declared("vector"))
        self.level = nnx.Param(jnp.zeros((2 * channels, 2 * channels)),
                               **declared("matrix", "fsdp", None)) if keeps_level else None

    def __call__(self, x: Array) -> Array:
        """[B, T, M, C] -> the same; its arithmetic is float32."""
        values = x.astype(jnp.float32)
        mean = values.mean(axis=(1, 2), keepdims=True)
        values = values - mean
        variance = jnp.square(values).mean(axis=(1, 2), keepdims=True) + 1e-5
        scale, bias = self.scale[...], self.bias[...]
        if self.level is not None:
            removed = jnp.concatenate([mean, 0.5 * jnp.log(variance)], axis=-1)
            more_scale, more_bias = jnp.split(removed @ self.level[...], 2, axis=-1)
            scale, bias = scale + more_scale, bias + more_bias
        return (values * jax.lax.rsqrt(variance) * scale + bias).astype(x.dtype)


class DepthwiseConv(nnx.Module):
    """Each channel of a signal convolved by itself, [B, T, C] -> the same; around the signal are zeros.

    As a sum of products: XLA on a CPU takes many times as long for a convolution of as many groups as channels.

    Args:
      channels: C.
      size: of the kernel, odd.
      dtype: of the computation.
      rngs: of the initial kernel.
    """

    def __init__(self, channels: int, size: int, *, dtype: str, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.normal(size**-0.5)(rngs.params(), (size, channels)),
                                **declared("vector"))
        self.bias = nnx.Param(jnp.zeros(channels), **declared("vector"))
        self.dtype, self.reach = dtype, size // 2

    def __call__(self, x: Array) -> Array:
        kernel, padded = self.kernel[...].astype(self.dtype), jnp.pad(x, ((0, 0), (self.reach, self.reach), (0, 0)))
        taps = (padded[:, i:i + x.shape[1]] * row for i, row in enumerate(kernel))
        return sum(taps) + self.bias[...].astype(self.dtype)
