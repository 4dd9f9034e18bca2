"""DAC (Kumar et al. 2023): convolutions on either side of a residual vector quantiser whose codebooks are narrow.

As in `encodec.module`, a signal goes through in windows that hold as much more on either side as can reach their own
frames; here nothing else goes from one window to the next. Modules are called as Hugging Face calls them.

Letters: B batch, N positions of a signal, T frames, C channels, K codebooks, V entries of each, D width of the signal
that is coded, W width of an entry.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from autosong_jax.codecs.dac.settings import DacConfig
from autosong_jax.codecs.stretch import Reach, Stretch, reach


def _uniform(rngs: nnx.Rngs, shape: Sequence[int], fan_in: int) -> nnx.Param:
    bound = 1 / math.sqrt(fan_in)
    return nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound))


class Snake(nnx.Module):
    """x + sin(alpha x)^2 / alpha (Ziyin et al. 2020), one alpha for each channel."""

    reaches = ()

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.alpha = nnx.Param(nnx.initializers.ones(rngs.params(), (1, channels, 1)))

    def __call__(self, stretch: Stretch) -> Stretch:
        alpha = self.alpha[...].reshape(-1)
        return stretch._replace(x=stretch.x + (1 / (alpha + 1e-9)) * jnp.square(jnp.sin(alpha * stretch.x)))


class Conv(nnx.Module):
    """A convolution of N positions, a multiple of the stride, to N / stride; around the signal are zeros."""

    def __init__(self, inputs: int, outputs: int, width: int, stride: int = 1, dilation: int = 1, *, rngs: nnx.Rngs):
        self.kernel = _uniform(rngs, (width, inputs, outputs), width * inputs)
        self.bias = _uniform(rngs, (outputs,), width * inputs)
        self.stride, self.dilation = stride, dilation
        padding = (width - 1) * dilation + 1 - stride
        self.left = -(-padding // 2)
        self.right = padding - self.left

    @property
    def reaches(self) -> tuple[Reach, ...]:
        return (Reach(self.left, self.right, Fraction(self.stride)),)

    def __call__(self, stretch: Stretch) -> Stretch:
        x = jnp.where(stretch.inside(), stretch.x, 0)
        y = lax.conv_general_dilated(x, self.kernel[...], (self.stride,), [(self.left, self.right)],
                                     rhs_dilation=(self.dilation,), dimension_numbers=("NHC", "HIO", "NHC"))
        return Stretch(y + self.bias[...], stretch.begin // self.stride, stretch.end // self.stride)


class TransposedConv(nnx.Module):
    """A transposed convolution, twice as wide as its stride, of N positions to N * stride.

    Of an odd stride the signal loses its last position.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.kernel = _uniform(rngs, (2 * stride, outputs, inputs), 2 * inputs)
        self.bias = _uniform(rngs, (outputs,), 2 * inputs)
        self.stride = stride

    @property
    def reaches(self) -> tuple[Reach, ...]:
        return (Reach(1, 1, Fraction(1, self.stride)),)

    def __call__(self, stretch: Stretch) -> Stretch:
        """One matrix product gives what every position adds to 2 * stride outputs; halves of neighbours overlap."""
        x = jnp.where(stretch.inside(), stretch.x, 0)
        parts = jnp.einsum("bni,koi->bnko", x, self.kernel[...])
        near, far = parts[:, :, :self.stride], parts[:, :, self.stride:]
        y = jnp.pad(near, ((0, 0), (0, 1), (0, 0), (0, 0))) + jnp.pad(far, ((0, 0), (1, 0), (0, 0), (0, 0)))
        cut = -(-self.stride // 2)  # on either side
        y = y.reshape(y.shape[0], -1, y.shape[3])[:, cut:cut + x.shape[1] * self.stride] + self.bias[...]
        return Stretch(y, stretch.begin * self.stride, stretch.end * self.stride - self.stride % 2)


class ResidualUnit(nnx.Module):
    """A wide and a narrow convolution, beside a shortcut."""

    def __init__(self, channels: int, dilation: int, *, rngs: nnx.Rngs):
        self.snake1 = Snake(channels, rngs=rngs)
        self.conv1 = Conv(channels, channels, 7, dilation=dilation, rngs=rngs)
        self.snake2 = Snake(channels, rngs=rngs)
        self.conv2 = Conv(channels, channels, 1, rngs=rngs)

    @property
    def reaches(self) -> tuple[Reach, ...]:
        return self.conv1.reaches

    def __call__(self, stretch: Stretch) -> Stretch:
        y = self.conv2(self.snake2(self.conv1(self.snake1(stretch))))
        return stretch._replace(x=stretch.x + y.x)


class EncoderBlock(nnx.Module):
    """Three residual units, and a step down to twice the channels."""

    def __init__(self, channels: int, stride: int, *, rngs: nnx.Rngs):
        self.res_unit1 = ResidualUnit(channels, 1, rngs=rngs)
        self.res_unit2 = ResidualUnit(channels, 3, rngs=rngs)
        self.res_unit3 = ResidualUnit(channels, 9, rngs=rngs)
        self.snake1 = Snake(channels, rngs=rngs)
        self.conv1 = Conv(channels, 2 * channels, 2 * stride, stride, rngs=rngs)

    @property
    def layers(self) -> list[nnx.Module]:
        return [self.res_unit1, self.res_unit2, self.res_unit3, self.snake1, self.conv1]


class DecoderBlock(nnx.Module):
    """A step up to half the channels, and three residual units."""

    def __init__(self, channels: int, stride: int, *, rngs: nnx.Rngs):
        self.snake1 = Snake(channels, rngs=rngs)
        self.conv_t1 = TransposedConv(channels, channels // 2, stride, rngs=rngs)
        self.res_unit1 = ResidualUnit(channels // 2, 1, rngs=rngs)
        self.res_unit2 = ResidualUnit(channels // 2, 3, rngs=rngs)
        self.res_unit3 = ResidualUnit(channels // 2, 9, rngs=rngs)

    @property
    def layers(self) -> list[nnx.Module]:
        return [self.snake1, self.conv_t1, self.res_unit1, self.res_unit2, self.res_unit3]


class Network(nnx.Module):
    """A convolution, blocks, an activation, and a convolution.

    Attributes:
      before, after: how many frames beside its own a window of the input needs on either side.
      rate_in, rate_out: positions of the input and of the output in a frame.
    """

    def __init__(self, conv1: Conv, block: Sequence[EncoderBlock | DecoderBlock], snake1: Snake, conv2: Conv,
                 rate_in: int):
        self.conv1, self.block, self.snake1, self.conv2 = conv1, nnx.List(block), snake1, conv2
        self.before, self.after, size = reach(self.layers, Fraction(1, rate_in))
        self.rate_in, self.rate_out = rate_in, int(1 / size)

    @property
    def layers(self) -> list[nnx.Module]:
        return [self.conv1, *(layer for block in self.block for layer in block.layers), self.snake1, self.conv2]

    def __call__(self, x: Array, seen: Array, rest: Array) -> Array:
        """One window of M frames.

        Args:
          x: [B, (before + M + after) * rate_in, C].
          seen: how many frames of the signal come before the window's own.
          rest: at which position after the beginning of the window's own frames the signal ends.

        Returns:
          The output for the window's own frames [B, M * rate_out, C']. What is after the signal's end has no meaning.
        """
        frames = x.shape[1] // self.rate_in - self.before - self.after
        stretch = Stretch(x, jnp.maximum(self.before - seen, 0) * self.rate_in, self.before * self.rate_in + rest)
        for layer in self.layers:
            stretch = layer(stretch)
        return stretch.x[:, self.before * self.rate_out:][:, :frames * self.rate_out]


class Quantizer(nnx.Module):
    """Residual vector quantisation: each codebook codes the direction of what the ones before have left, made narrow.

    Parameters: codebooks [K, V, W]; into an entry's width in_kernel [K, 1, D, W] and in_bias [K, W]; and back
    out_kernel [K, 1, W, D] and out_bias [K, D].
    """

    def __init__(self, config: DacConfig, *, rngs: nnx.Rngs):
        levels, wide, narrow = config.n_codebooks, config.hidden_size, config.codebook_dim
        self.codebooks = nnx.Param(jax.random.normal(rngs.params(), (levels, config.codebook_size, narrow)))
        self.in_kernel = _uniform(rngs, (levels, 1, wide, narrow), wide)
        self.in_bias = _uniform(rngs, (levels, narrow), wide)
        self.out_kernel = _uniform(rngs, (levels, 1, narrow, wide), narrow)
        self.out_bias = _uniform(rngs, (levels, wide), narrow)

    def encode(self, x: Array) -> Array:
        """[B, T, D] -> int32 [B, T, K].

        The distance is summed up as the released code does it: where two entries are about as near, the order of the
        terms decides.
        """

        def level(residual, params):
            entries, in_kernel, in_bias, out_kernel, out_bias = params
            narrow = residual @ in_kernel[0] + in_bias
            ours, theirs = _normalized(narrow), _normalized(entries)
            near = -(jnp.square(ours).sum(-1, keepdims=True) - 2 * ours @ theirs.T) + jnp.square(theirs).sum(-1)
            codes = jnp.argmax(near, axis=-1)
            return residual - (entries[codes] @ out_kernel[0] + out_bias), codes

        params = (self.codebooks[...], self.in_kernel[...], self.in_bias[...], self.out_kernel[...], self.out_bias[...])
        return jnp.moveaxis(lax.scan(level, x, params)[1], 0, -1)

    def decode(self, codes: Array) -> Array:
        """[B, T, K] -> [B, T, D]."""
        entries = self.codebooks[...].at[jnp.arange(codes.shape[-1]), codes].get(mode="clip")
        return jnp.einsum("btkw,kwd->btd", entries, self.out_kernel[...][:, 0]) + self.out_bias[...].sum(axis=0)


def _normalized(x: Array) -> Array:
    """Vectors [..., W] of length 1."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


class Dac(nnx.Module):
    """Encoder, quantiser and decoder. All arithmetic is in fp32, whatever the device would rather do."""

    def __init__(self, config: DacConfig, *, rngs: nnx.Rngs):
        down, first, last = config.downsampling_ratios, config.encoder_hidden_size, config.decoder_hidden_size
        self.encoder = Network(
            Conv(1, first, 7, rngs=rngs),
            [EncoderBlock(first * 2**i, ratio, rngs=rngs) for i, ratio in enumerate(down)],
            Snake(config.hidden_size, rngs=rngs), Conv(config.hidden_size, config.hidden_size, 3, rngs=rngs),
            rate_in=config.hop)
        self.quantizer = Quantizer(config, rngs=rngs)
        narrow = last // 2 ** len(down)
        self.decoder = Network(
            Conv(config.hidden_size, last, 7, rngs=rngs),
            [DecoderBlock(last // 2**i, ratio, rngs=rngs) for i, ratio in enumerate(reversed(down))],
            Snake(narrow, rngs=rngs), Conv(narrow, 1, 7, rngs=rngs), rate_in=1)

    def encode(self, audio: Array, seen: Array, rest: Array) -> Array:
        """A window of audio [B, samples, 1] to codes int32 [B, M, K]; the rest is as `Network` has it."""
        with jax.default_matmul_precision("highest"):
            return self.quantizer.encode(self.encoder(audio, seen, rest))

    def decode(self, codes: Array, seen: Array, rest: Array) -> Array:
        """A window of codes [B, frames, K] to audio [B, M * hop, 1]; the rest is as `Network` has it."""
        with jax.default_matmul_precision("highest"):
            return jnp.tanh(self.decoder(self.quantizer.decode(codes), seen, rest))
