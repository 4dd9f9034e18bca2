"""EnCodec (Défossez et al. 2022): convolutions and an LSTM on either side of a residual vector quantiser.

A signal of any length goes through in windows, whose frames come out as if all of it had gone through at once. Besides
its own frames a window holds as many more on either side as can reach them; the LSTM's state goes from window to
window; and where the signal begins or ends, each convolution's padding is put there, at indices that are only known at
run time. So windows of one size share one compiled program, wherever in whatever signal they lie.

Letters: B batch, N positions of a signal, T frames, C channels, H width of the LSTM, K codebooks, V entries of each,
D width of an entry.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from autosong_jax.codecs.encodec.settings import EncodecConfig
from autosong_jax.codecs.stretch import Reach, Stretch, reach


class ELU(nnx.Module):
    """x for x > 0, else exp(x) - 1."""

    reaches = ()

    def __call__(self, stretch: Stretch) -> Stretch:
        return stretch._replace(x=jax.nn.elu(stretch.x))


class TimeGroupNorm(nnx.Module):
    """Normalises over all channels and all of the signal at once, which has to lie wholly in the stretch."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.scale = nnx.Param(nnx.initializers.ones(rngs.params(), (channels,)))
        self.bias = nnx.Param(nnx.initializers.zeros(rngs.params(), (channels,)))

    def __call__(self, stretch: Stretch) -> Stretch:
        x, inside = stretch.x, stretch.inside()
        count = (stretch.end - stretch.begin) * x.shape[2]

        def mean(values: Array) -> Array:  # in two steps, for the sake of fp32
            return jnp.where(inside, values, 0).sum(1, keepdims=True).sum(2, keepdims=True) / count

        centred = x - mean(x)
        return stretch._replace(x=centred * lax.rsqrt(mean(jnp.square(centred)) + 1e-5) * self.scale[...]
                                + self.bias[...])


def _norm(config: EncodecConfig, channels: int, rngs: nnx.Rngs) -> TimeGroupNorm | None:
    """What follows a convolution; weight norm is part of the weights."""
    return TimeGroupNorm(channels, rngs=rngs) if config.norm_type == "time_group_norm" else None


def _uniform(rngs: nnx.Rngs, shape: Sequence[int], fan_in: int) -> nnx.Param:
    bound = 1 / math.sqrt(fan_in)
    return nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound))


class Conv(nnx.Module):
    """A convolution of N positions to ceil(N / stride), padded as the config says."""

    def __init__(self, config: EncodecConfig, inputs: int, outputs: int, width: int, stride: int = 1,
                 dilation: int = 1, *, rngs: nnx.Rngs):
        self.kernel = _uniform(rngs, (width, inputs, outputs), width * inputs)
        self.bias = _uniform(rngs, (outputs,), width * inputs)
        self.norm = _norm(config, outputs, rngs)
        self.stride, self.dilation, self.pad_mode = stride, dilation, config.pad_mode
        padding = (width - 1) * dilation + 1 - stride
        self.right = 0 if config.use_causal_conv else padding // 2
        self.left = padding - self.right

    @property
    def reaches(self) -> tuple[Reach, ...]:
        """Its padding at the signal's end mirrors what is further back than the convolution looks otherwise."""
        return (Reach(max(self.left, self.right + self.stride - 1), self.right, Fraction(self.stride)),)

    def __call__(self, stretch: Stretch) -> Stretch:
        x = self._padded(stretch) if self.left or self.right else stretch.x
        y = lax.conv_general_dilated(x, self.kernel[...], (self.stride,), [(self.left, self.right)],
                                     rhs_dilation=(self.dilation,), dimension_numbers=("NHC", "HIO", "NHC"))
        stretch = Stretch(y + self.bias[...], stretch.begin // self.stride, -(-stretch.end // self.stride))
        return self.norm(stretch) if self.norm else stretch

    def _padded(self, stretch: Stretch) -> Array:
        """x with the padding written where the signal begins and ends, as far as that is within the stretch.

        Reflecting, a signal no longer than its padding is first followed by as many zeros as it then takes.
        """
        x, begin, end = stretch
        index = jnp.concatenate([begin - self.left + jnp.arange(self.left),
                                 end + jnp.arange(self.right + self.stride - 1)])
        rows = jnp.zeros((), x.dtype)
        if self.pad_mode == "reflect":
            filling = (begin - end) % self.stride  # the last step of the convolution is always a whole one
            mirror = jnp.maximum(end - 1, begin + jnp.maximum(self.left, self.right + filling))
            source = jnp.where(index < begin, 2 * begin - index, jnp.where(index > mirror, 2 * mirror - index, index))
            rows = jnp.where((source < end)[:, None], x.at[:, source].get(mode="clip"), 0)
        return x.at[:, index].set(rows, mode="drop", wrap_negative_indices=False)


class TransposedConv(nnx.Module):
    """A transposed convolution, twice as wide as its stride, of N positions to N * stride."""

    def __init__(self, config: EncodecConfig, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.kernel = _uniform(rngs, (2 * stride, outputs, inputs), 2 * inputs)
        self.bias = _uniform(rngs, (outputs,), 2 * inputs)
        self.norm = _norm(config, outputs, rngs)
        self.stride = stride
        right = math.ceil(stride * config.trim_right_ratio) if config.use_causal_conv else stride // 2
        self.left = stride - right  # how much of its output is cut off on the left

    @property
    def reaches(self) -> tuple[Reach, ...]:
        return (Reach(1, 1 if self.left or self.norm else 0, Fraction(1, self.stride)),)

    def __call__(self, stretch: Stretch) -> Stretch:
        """One matrix product gives what every position adds to 2 * stride outputs; halves of neighbours overlap."""
        x = jnp.where(stretch.inside(), stretch.x, 0)
        parts = jnp.einsum("bni,koi->bnko", x, self.kernel[...])
        near, far = parts[:, :, :self.stride], parts[:, :, self.stride:]
        y = near + jnp.pad(far[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
        y = y.reshape(y.shape[0], -1, y.shape[3]) + self.bias[...]
        begin, end = stretch.begin * self.stride, stretch.end * self.stride
        if self.norm:  # of all there is before it is cut
            y = self.norm(Stretch(y, begin, end + self.stride)).x
        return Stretch(jnp.pad(y[:, self.left:], ((0, 0), (0, self.left), (0, 0))), begin, end)


class ResidualBlock(nnx.Module):
    """A wide and a narrow convolution, beside a shortcut that is a convolution or nothing."""

    def __init__(self, config: EncodecConfig, channels: int, dilation: int, *, rngs: nnx.Rngs):
        hidden = channels // config.compress
        self.block = nnx.List([
            ELU(), Conv(config, channels, hidden, config.residual_kernel_size, dilation=dilation, rngs=rngs),
            ELU(), Conv(config, hidden, channels, 1, rngs=rngs)])
        self.shortcut = Conv(config, channels, channels, 1, rngs=rngs) if config.use_conv_shortcut else None

    @property
    def reaches(self) -> tuple[Reach, ...]:
        return tuple(of_layer for layer in self.block for of_layer in layer.reaches)

    def __call__(self, stretch: Stretch) -> Stretch:
        short = self.shortcut(stretch) if self.shortcut else stretch
        for layer in self.block:
            stretch = layer(stretch)
        return stretch._replace(x=short.x + stretch.x)


class LSTMLayer(nnx.Module):
    """One LSTM layer, its gates in the order in, forget, cell, out."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.input = _uniform(rngs, (width, 4 * width), width)
        self.hidden = _uniform(rngs, (width, 4 * width), width)
        self.bias = _uniform(rngs, (4 * width,), width)

    def __call__(self, x: Array, state: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        """x [B, T, H] and a state (hidden, cell) of [B, H] each -> outputs [B, T, H] and the state after them."""
        hidden_kernel = self.hidden[...]

        def step(state, gates):
            hidden, cell = state
            i, f, g, o = jnp.split(gates + hidden @ hidden_kernel, 4, axis=-1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (hidden, cell), hidden

        gates = x @ self.input[...] + self.bias[...]
        state, outputs = lax.scan(step, state, gates.swapaxes(0, 1))
        return outputs.swapaxes(0, 1), state


class LSTM(nnx.Module):
    """LSTM layers, and a residual connection around all of them."""

    def __init__(self, width: int, layers: int, *, rngs: nnx.Rngs):
        self.width = width
        self.layers = nnx.List([LSTMLayer(width, rngs=rngs) for _ in range(layers)])

    def __call__(self, x: Array, states: Sequence) -> tuple[Array, list]:
        y, after = x, []
        for layer, state in zip(self.layers, states, strict=True):
            y, state = layer(y, state)
            after.append(state)
        return x + y, after


class Carry(NamedTuple):
    """What goes from a window to the next."""

    states: list  # of each LSTM layer: (hidden, cell), [B, H] each
    tail: Array  # the last outputs of the LSTM, [B, frames, H]


class Network(nnx.Module):
    """Convolutions, an LSTM, and convolutions: the encoder from samples to frames, the decoder back.

    Attributes:
      before, after: how many frames beside its own a window of the input needs on either side.
      rate_in, rate_out: positions of the input and of the output in a frame.
    """

    def __init__(self, layers: Sequence[nnx.Module], rate_in: int):
        self.layers = nnx.List(layers)
        self.middle = next(i for i, layer in enumerate(layers) if isinstance(layer, LSTM))
        before, after, size = reach(layers[:self.middle], Fraction(1, rate_in))
        self.back_before, self.back_after, size = reach(layers[self.middle + 1:], size)
        self.before, self.after = before, after + self.back_after
        self.rate_in, self.rate_out = rate_in, int(1 / size)

    def start(self, batch: int) -> Carry:
        """What comes before the first window."""
        lstm = self.layers[self.middle]
        zeros = jnp.zeros((batch, lstm.width))
        return Carry([(zeros, zeros) for _ in lstm.layers], jnp.zeros((batch, self.back_before, lstm.width)))

    def __call__(self, x: Array, carry: Carry, seen: Array, rest: Array) -> tuple[Array, Carry]:
        """One window of W frames.

        Args:
          x: [B, (before + W + after) * rate_in, C].
          carry: from the window before it.
          seen: how many frames of the signal come before the window's own.
          rest: at which position after the beginning of the window's own frames the signal ends.

        Returns:
          The output for the window's own frames [B, W * rate_out, C'], and what to carry on. What belongs to frames
          after the signal's end has no meaning.
        """
        frames = x.shape[1] // self.rate_in - self.before - self.after
        stretch = Stretch(x, jnp.maximum(self.before - seen, 0) * self.rate_in, self.before * self.rate_in + rest)
        for layer in self.layers[:self.middle]:
            stretch = layer(stretch)
        lstm, x = self.layers[self.middle], stretch.x[:, self.before:]
        y, states = lstm(x[:, :frames], carry.states)
        y = jnp.concatenate([carry.tail, y], axis=1)
        carry = Carry(states, y[:, frames:])
        if self.back_after:
            ahead, _ = lstm(x[:, frames:frames + self.back_after], states)
            y = jnp.concatenate([y, ahead], axis=1)
        stretch = Stretch(y, jnp.maximum(self.back_before - seen, 0), self.back_before - (-rest // self.rate_in))
        for layer in self.layers[self.middle + 1:]:
            stretch = layer(stretch)
        first = self.back_before * self.rate_out
        return stretch.x[:, first:first + frames * self.rate_out], carry


class Quantizer(nnx.Module):
    """Residual vector quantisation: each codebook's nearest entry to what the ones before have left."""

    def __init__(self, config: EncodecConfig, *, rngs: nnx.Rngs):
        shape = (config.num_codebooks, config.codebook_size, config.hidden_size)
        self.codebooks = nnx.Param(jax.random.normal(rngs.params(), shape))

    def encode(self, x: Array, levels: int) -> Array:
        """[B, T, D] -> int32 [B, T, levels].

        The squared distance is summed up as the released code does it: where two entries are about as near, the order
        of the terms decides.
        """

        def level(residual, entries):
            squared = jnp.square(residual).sum(-1, keepdims=True)
            distances = squared - 2 * residual @ entries.T + jnp.square(entries).sum(-1)
            codes = jnp.argmin(distances, axis=-1)
            return residual - entries[codes], codes

        return jnp.moveaxis(lax.scan(level, x, self.codebooks[:levels])[1], 0, -1)

    def decode(self, codes: Array) -> Array:
        """[B, T, K], of the first K codebooks -> [B, T, D]."""
        levels = jnp.arange(codes.shape[-1])
        return self.codebooks[...].at[levels, codes].get(mode="clip").sum(axis=2)


class Encodec(nnx.Module):
    """Encoder, quantiser and decoder. All arithmetic is in fp32, whatever the device would rather do."""

    def __init__(self, config: EncodecConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Network(_encoder_layers(config, rngs), rate_in=config.hop)
        self.quantizer = Quantizer(config, rngs=rngs)
        self.decoder = Network(_decoder_layers(config, rngs), rate_in=1)

    def encode(self, audio: Array, carry: Carry, seen: Array, rest: Array, levels: int) -> tuple[Array, Carry]:
        """A window of audio [B, samples, C] to codes int32 [B, W, levels]; the rest is as `Network` has it."""
        with jax.default_matmul_precision("highest"):
            x, carry = self.encoder(audio, carry, seen, rest)
            return self.quantizer.encode(x, levels), carry

    def decode(self, codes: Array, carry: Carry, seen: Array, rest: Array) -> tuple[Array, Carry]:
        """A window of codes [B, frames, K] to audio [B, W * hop, C]; the rest is as `Network` has it."""
        with jax.default_matmul_precision("highest"):
            return self.decoder(self.quantizer.decode(codes), carry, seen, rest)


def _encoder_layers(config: EncodecConfig, rngs: nnx.Rngs) -> list[Any]:
    channels = config.num_filters
    layers = [Conv(config, config.audio_channels, channels, config.kernel_size, rngs=rngs)]
    for ratio in reversed(config.upsampling_ratios):
        layers += _residual_blocks(config, channels, rngs)
        layers += [ELU(), Conv(config, channels, 2 * channels, 2 * ratio, ratio, rngs=rngs)]
        channels *= 2
    return [*layers, LSTM(channels, config.num_lstm_layers, rngs=rngs), ELU(),
            Conv(config, channels, config.hidden_size, config.last_kernel_size, rngs=rngs)]


def _decoder_layers(config: EncodecConfig, rngs: nnx.Rngs) -> list[Any]:
    channels = config.num_filters * 2 ** len(config.upsampling_ratios)
    layers = [Conv(config, config.hidden_size, channels, config.kernel_size, rngs=rngs),
              LSTM(channels, config.num_lstm_layers, rngs=rngs)]
    for ratio in config.upsampling_ratios:
        channels //= 2
        layers += [ELU(), TransposedConv(config, 2 * channels, channels, ratio, rngs=rngs)]
        layers += _residual_blocks(config, channels, rngs)
    return [*layers, ELU(), Conv(config, channels, config.audio_channels, config.last_kernel_size, rngs=rngs)]


def _residual_blocks(config: EncodecConfig, channels: int, rngs: nnx.Rngs) -> list[ResidualBlock]:
    dilations = (config.dilation_growth_rate**i for i in range(config.num_residual_layers))
    return [ResidualBlock(config, channels, dilation, rngs=rngs) for dilation in dilations]
