"""CLAP's networks, for inference: the audio tower HTS-AT, the text tower RoBERTa, and the projections of both.

HTS-AT folds a spectrogram into a square image, cuts that into patches, and has them attend to each other within windows
of a few patches' side. Every second block shifts the windows by half their side; between stages, four neighbouring
patches become one.

Letters: B batch, F frames, M bands, R times that an image folds (its side / M), S side of the image in patches, W side
of a window in patches, G windows of an image, D width, H heads, Dh width of a head, L tokens, P width of an embedding.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from autosong_jax.sources.text.bert import BertConfig, BertEncoder
from autosong_jax.sources.text.biased_attention import ACTIVATIONS, biased_attention

_CUBIC = -0.75  # the second derivative that PyTorch's bicubic interpolation is made with; others take -0.5
_OUT_OF_SIGHT = -100.0  # the released bias between patches that only a shift brought together
_EPSILON = 1e-5  # of the norms that the config has no say in


@dataclasses.dataclass(frozen=True)
class AudioConfig:
    """The shape of the audio tower.

    Attributes:
      frames, bands: F and M of a spectrogram.
      image: the side of the image; a multiple R of M, and F is at most R times it.
      patch, stride: the side of a patch, and how far patches are from each other.
      width: D of the first stage; each stage doubles it, and halves S.
      depths, heads: blocks and H of each stage.
      window: W.
      mlp_ratio: the width of the MLP, in widths of the block.
      activation: of the MLP.
      epsilon: of the blocks' norms.
    """

    frames: int
    bands: int
    image: int
    patch: int
    stride: int
    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    mlp_ratio: float
    activation: str
    epsilon: float

    def widths(self) -> list[int]:
        """D of each stage."""
        return [self.width * 2**stage for stage in range(len(self.depths))]

    def sides(self) -> list[int]:
        """S of each stage."""
        return [self.image // self.stride // 2**stage for stage in range(len(self.depths))]


@dataclasses.dataclass(frozen=True)
class ClapConfig:
    """The shape of both towers.

    Attributes:
      audio, text: of the towers.
      embedding: P.
      activation: between the two layers of a projection.
    """

    audio: AudioConfig
    text: BertConfig
    embedding: int
    activation: str


def bicubic(inputs: int, outputs: int) -> np.ndarray:
    """Bicubic interpolation (Keys 1981) from `inputs` points to `outputs` on one stretch: float32 [outputs, inputs].

    The first and last points of both stand at the same places, and beyond the ends the last one goes on.
    """
    # Where an output stands, in float32 as the released code has it: at a thousand, that is a good part of the matrix.
    places = np.arange(outputs, dtype=np.float32) * (np.float32(inputs - 1) / np.float32(max(outputs - 1, 1)))
    left = np.minimum(places.astype(int), inputs - 1)
    past = np.clip(places - left, 0, 1).astype(np.float64)[:, None]
    distance = np.abs(past - np.arange(-1, 3))
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    matrix = np.zeros((outputs, inputs))
    neighbours = np.clip(left[:, None] + np.arange(-1, 3), 0, inputs - 1)
    np.add.at(matrix, (np.arange(outputs)[:, None], neighbours), np.where(distance <= 1, near, far))
    return matrix.astype(np.float32)


def relative_positions(window: int) -> np.ndarray:
    """Which row of a table of (2 W - 1)^2 biases is for each query and key of a window: int [W^2, W^2]."""
    rows, columns = np.divmod(np.arange(window**2), window)
    down, right = (place[:, None] - place + window - 1 for place in (rows, columns))
    return down * (2 * window - 1) + right


def shifted_mask(side: int, window: int, shift: int) -> np.ndarray:
    """What is added to scores in the windows of an image that was rolled by `shift`: float32 [G, W^2, W^2].

    Rolling brings opposite ends of the image together in the last windows; they must not see each other.
    """
    place = np.arange(side)
    end = (place >= side - window).astype(int) + (place >= side - shift)
    parts = _windows((3 * end[:, None] + end)[None, :, :, None], window)[0, ..., 0]
    return np.where(parts[:, :, None] == parts[:, None], 0, _OUT_OF_SIGHT).astype(np.float32)


def _windows(x, window: int):
    """[B, S, S, D] -> [B, G, W^2, D]; S is a multiple of W."""
    batch, side, _, width = x.shape
    count = side // window
    x = x.reshape(batch, count, window, count, window, width).swapaxes(2, 3)
    return x.reshape(batch, count**2, window**2, width)


def _image(windows: Array, side: int) -> Array:
    """The inverse of `_windows`."""
    batch, count, area, width = windows.shape
    count, window = round(count**0.5), round(area**0.5)
    return windows.reshape(batch, count, count, window, window, width).swapaxes(2, 3).reshape(batch, side, side, width)


class SwinBlock(nnx.Module):
    """Attention within windows and MLP, each a residual with a norm before."""

    def __init__(self, config: AudioConfig, stage: int, shifted: bool, *, rngs: nnx.Rngs):
        width, side = config.widths()[stage], config.sides()[stage]
        inner = int(config.mlp_ratio * width)

        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, rngs=rngs)

        self.heads, self.window, self.activation = config.heads[stage], config.window, config.activation
        # An image of one window has nothing to shift to.
        self.shift = config.window // 2 if shifted and side > config.window else 0
        self.attention_norm, self.mlp_norm = (_norm(width, config.epsilon, rngs) for _ in range(2))
        self.q, self.k, self.v, self.out = (linear(width, width) for _ in range(4))
        self.bias = nnx.Embed((2 * config.window - 1)**2, self.heads, rngs=rngs)
        self.up, self.down = linear(width, inner), linear(inner, width)

    def __call__(self, x: Array) -> Array:
        """[B, S, S, D] -> [B, S, S, D]."""
        x = x + self._attend(self.attention_norm(x))
        return x + self.down(ACTIVATIONS[self.activation](self.up(self.mlp_norm(x))))

    def _attend(self, x: Array) -> Array:
        side, missing = x.shape[1], -x.shape[1] % self.window
        x = jnp.pad(x, ((0, 0), (0, missing), (0, missing), (0, 0)))  # which is seen, as the released code has it
        windows = _windows(jnp.roll(x, (-self.shift, -self.shift), axis=(1, 2)), self.window)
        q, k, v = (linear(windows).reshape(*windows.shape[:3], self.heads, -1) for linear in (self.q, self.k, self.v))
        bias = jnp.moveaxis(self.bias.embedding[relative_positions(self.window)], 2, 0)[None]
        if self.shift:
            bias = bias + shifted_mask(side + missing, self.window, self.shift)[:, None]

        def attend(q: Array, k: Array, v: Array) -> Array:
            return biased_attention(q, k, v, lambda queries: bias[:, :, queries], q.shape[-1] ** -0.5)

        windows = self.out(jax.vmap(attend)(q, k, v).reshape(windows.shape))
        return jnp.roll(_image(windows, side + missing), (self.shift, self.shift), axis=(1, 2))[:, :side, :side]


class Merging(nnx.Module):
    """Four neighbouring patches become one of twice the width: [B, S, S, D] -> [B, S / 2, S / 2, 2 D]."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = _norm(4 * width, _EPSILON, rngs)
        self.linear = nnx.Linear(4 * width, 2 * width, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        four = [x[:, row::2, column::2] for column in range(2) for row in range(2)]
        return self.linear(self.norm(jnp.concatenate(four, axis=-1)))


class AudioTower(nnx.Module):
    """Log-mel spectrograms -> the last states of patches."""

    def __init__(self, config: AudioConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.batch_norm = nnx.BatchNorm(config.bands, use_running_average=True, epsilon=_EPSILON, rngs=rngs)
        # [D, 1, rows, columns], as PyTorch has it.
        self.patches = nnx.Param(jnp.zeros((config.width, 1, config.patch, config.patch)))
        self.patches_bias = nnx.Param(jnp.zeros(config.width))
        self.patches_norm = _norm(config.width, _EPSILON, rngs)
        self.stages = nnx.List([
            nnx.List([SwinBlock(config, stage, block % 2 == 1, rngs=rngs) for block in range(depth)])
            for stage, depth in enumerate(config.depths)])
        self.mergings = nnx.List([Merging(width, rngs=rngs) for width in config.widths()[:-1]])
        self.norm = _norm(config.widths()[-1], _EPSILON, rngs)

    def __call__(self, log_mel: Array) -> Array:
        """dB float32 [B, F, M] -> float32 [B, S, S, D] of the last stage."""
        padding = (self.config.patch - self.config.stride) // 2
        x = jax.lax.conv_general_dilated(
            self._fold(self.batch_norm(log_mel)), self.patches[...], (self.config.stride,) * 2, ((padding,) * 2,) * 2,
            dimension_numbers=("NHWC", "OIHW", "NHWC"))
        x = self.patches_norm(x + self.patches_bias[...])
        for stage, blocks in enumerate(self.stages):
            if stage:
                x = self.mergings[stage - 1](x)
            for block in blocks:
                x = block(x)
        return self.norm(x)

    def _fold(self, x: Array) -> Array:
        """[B, F, M] -> the image [B, side, side, 1]: stretched to R * side frames, which become R rows of M bands."""
        config = self.config
        rows = config.image // config.bands
        x = jnp.einsum("of,bfm->bom", bicubic(config.frames, rows * config.image), x)
        x = x.reshape(-1, rows, config.image, config.bands).swapaxes(2, 3)
        return x.reshape(-1, config.image, config.image, 1)


class Projection(nnx.Module):
    """[B, D] -> unit vectors [B, P]."""

    def __init__(self, width: int, config: ClapConfig, *, rngs: nnx.Rngs):
        self.activation = config.activation
        self.first = nnx.Linear(width, config.embedding, rngs=rngs)
        self.second = nnx.Linear(config.embedding, config.embedding, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.second(ACTIVATIONS[self.activation](self.first(x)))
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


class ClapTowers(nnx.Module):
    """Spectrograms and texts -> unit vectors [B, P], and the scales of their products."""

    def __init__(self, config: ClapConfig, *, rngs: nnx.Rngs):
        width = config.text.width
        self.audio = AudioTower(config.audio, rngs=rngs)
        self.audio_projection = Projection(config.audio.widths()[-1], config, rngs=rngs)
        self.text = BertEncoder(config.text, rngs=rngs)
        self.pooler = nnx.Linear(width, width, rngs=rngs)
        self.text_projection = Projection(width, config, rngs=rngs)
        self.log_scales = nnx.Param(jnp.zeros(2))  # of logits of audio, and of text

    def embed_audio(self, log_mel: Array) -> Array:
        """dB float32 [B, F, M] -> float32 [B, P]."""
        return self.audio_projection(self.audio(log_mel).mean(axis=(1, 2)))

    def embed_text(self, ids: Array, lengths: Array) -> Array:
        """int [B, L], of which the first lengths[b] are text b's -> float32 [B, P]."""
        return self.text_projection(jnp.tanh(self.pooler(self.text(ids, lengths)[:, 0])))


def _norm(width: int, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs)
