"""The mel autoencoder: an image of sound [T, M] to latents [T / 16, M / 16, C] and back, nothing quantised.

The encoder is convolutions alone, over songs of any length. The decoder takes blocks of as many columns as it was
trained with, since its norms are over a whole block; a longer song goes through in blocks that overlap, each faded into
the next.

Letters: B batch, T frames, M bands, N columns (T / 16), R rows (M / 16), C channels of a latent, W width.
"""

import functools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from autosong_jax.errors import UserError
from autosong_jax.layers.convolution import WHOLE, Conv, InstanceNorm, folded, linear, unfolded
from autosong_jax.layers.spectra import overlap_add
from autosong_jax.layers.unconditioned import Unconditioned

SCALE = 16  # frames of a column, and bands of a row
NORMS = ("instance", "level")


class ResidualBlock(nnx.Module):
    """x plus what two convolutions make of it, nothing at first.

    Args:
      channels: of x.
      norm: before each of the two, see `MelAutoencoder`; None for none.
      dtype: of the computation.
      rngs: of the initial kernels.
    """

    def __init__(self, channels: int, norm: str | None, *, dtype: str, rngs: nnx.Rngs):
        self.norms = nnx.List([] if norm is None else [
            InstanceNorm(channels, keeps_level=norm == "level", rngs=rngs) for _ in range(2)])
        self.convolutions = nnx.List([Conv(channels, channels, dtype=dtype, rngs=rngs),
                                      Conv(channels, channels, init=nnx.initializers.zeros, dtype=dtype, rngs=rngs)])

    def __call__(self, x: Array) -> Array:
        y = x
        for i, convolution in enumerate(self.convolutions):
            y = convolution(jax.nn.silu(self.norms[i](y) if self.norms else y))
        return x + y


class MelAutoencoder(Unconditioned):
    """See the module's docstring.

    Four times the encoder folds squares of four pixels into one, with residual blocks after each; the decoder unfolds
    them. So most of the work is done at half the resolution of the image and below, in widths W, 2 W, 4 W, 4 W.

    Args:
      channels: C.
      width: W.
      blocks: residual blocks at each resolution.
      norm: the decoder's. "instance" takes from each block of columns its level and spread, as they were given; of
        "level" they reach the scales and biases (`layers.convolution.InstanceNorm`), so that a quiet block stays quiet.
      block_columns: how many columns the decoder takes at once.
      overlap: how many of them two blocks share.
      discriminator: of frames [B, T, M], trained beside it; None for none.
      dtype: of the computation.
      rngs: of the initial parameters.
    """

    def __init__(self, channels: int = 4, width: int = 64, blocks: int = 1, norm: str = "instance",
                 block_columns: int = 16, overlap: int = 4, discriminator: nnx.Module | None = None, *,
                 dtype: str = "float32", rngs: nnx.Rngs):
        if norm not in NORMS:
            raise UserError(f"autoencoder norm {norm!r}: expected one of {', '.join(NORMS)}")
        if not 0 <= overlap <= block_columns // 2:
            raise UserError(f"autoencoder overlap {overlap}: expected 0 to {block_columns // 2}, half of its blocks of "
                            f"{block_columns} columns")
        self.channels, self.block_columns, self.overlap, self.dtype = channels, block_columns, overlap, dtype
        widths = [width, 2 * width, 4 * width, 4 * width]
        down = [nnx.List([linear(4 * inputs, outputs, dtype=dtype, rngs=rngs),
                          *(ResidualBlock(outputs, None, dtype=dtype, rngs=rngs) for _ in range(blocks))])
                for inputs, outputs in zip([1, *widths], widths, strict=False)]
        up = [nnx.List([*(ResidualBlock(inputs, norm, dtype=dtype, rngs=rngs) for _ in range(blocks)),
                        linear(inputs, 4 * outputs, dtype=dtype, rngs=rngs)])
              for inputs, outputs in zip(widths[::-1], [*widths[-2::-1], max(width // 2, 1)], strict=True)]
        self.down = nnx.List(down)
        self.to_latent = Conv(widths[-1], channels, init=WHOLE, dtype=dtype, rngs=rngs)
        self.from_latent = Conv(channels, widths[-1], init=WHOLE, dtype=dtype, rngs=rngs)
        self.norm = InstanceNorm(widths[-1], keeps_level=norm == "level", rngs=rngs)
        self.up = nnx.List(up)
        self.last = Conv(max(width // 2, 1), 1, init=WHOLE, dtype=dtype, rngs=rngs)
        self.discriminator = discriminator

    def to_latents(self, frames: Array) -> Array:
        """float [B, T, M], of which 16 divides T and M -> latents float32 [B, N, R, C].

        Raises:
          ValueError: 16 does not divide them.
        """
        if frames.shape[1] % SCALE or frames.shape[2] % SCALE:
            raise ValueError(f"frames have the shape {list(frames.shape)}, expected multiples of {SCALE} frames and "
                             "bands")
        x = frames[..., None].astype(self.dtype)
        for fold, *blocks in self.down:
            x = fold(folded(x))
            for block in blocks:
                x = block(x)
        return self.to_latent(jax.nn.silu(x)).astype(jnp.float32)

    def decode_block(self, latents: Array) -> Array:
        """Latents [B, N, R, C] as one block, whatever N -> frames float32 [B, T, M]."""
        x = self.norm(self.from_latent(latents.astype(self.dtype)))
        for *blocks, unfold in self.up:
            for block in blocks:
                x = block(x)
            x = unfolded(unfold(x))
        return self.last(jax.nn.silu(x))[..., 0].astype(jnp.float32)

    def decode(self, latents: Array) -> Array:
        """Latents [B, N, R, C] -> frames float32 [B, T, M], in blocks that overlap."""
        count, stride = latents.shape[1], self.block_columns - self.overlap
        if count <= self.block_columns:
            return self.decode_block(latents)
        firsts = np.arange(0, count - self.overlap, stride)
        starts = np.minimum(firsts, count - self.block_columns)  # the last block is as long as the others
        blocks = latents[:, starts[:, None] + np.arange(self.block_columns)]  # [B, blocks, columns, R, C]
        batch, number = blocks.shape[:2]
        frames = self.decode_block(blocks.reshape(batch * number, *blocks.shape[2:]))
        frames = frames.reshape(batch, number, *frames.shape[1:])
        late = (firsts[-1] - starts[-1]) * SCALE
        last = jnp.pad(frames[:, -1, late:], ((0, 0), (0, late), (0, 0)))
        frames = jnp.concatenate([frames[:, :-1], last[:, None]], axis=1) * self._weights(number)
        joined = overlap_add(frames.reshape(batch, number, -1), stride * SCALE * frames.shape[3])
        return joined.reshape(batch, -1, frames.shape[3])[:, :count * SCALE]

    def decode_blocks(self, latents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """What `decode` does, of latents as they come; not under a trace.

        Args:
          latents: float [B, any, R, C].

        Yields:
          float32 [B, frames, M], as soon as no later latent can change them.
        """
        graph, params = nnx.split(self)
        stride, fade = self.block_columns - self.overlap, self._fade()
        held = tail = None  # columns from the start of the block before; its frames that fade into the next block's
        skipped = 0  # how many of those columns lie before the next block
        for more in latents:
            held = np.asarray(more) if held is None else np.concatenate([held, more], axis=1)
            # One more than a block: of one that is the last, all frames are final.
            while held.shape[1] - skipped > self.block_columns:
                block = held[:, skipped:skipped + self.block_columns]
                frames = _faded(np.asarray(_decode_block(graph, params, block)), tail, fade)
                yield frames[:, :stride * SCALE]
                tail = frames[:, stride * SCALE:]
                held, skipped = held[:, skipped:], stride
        if held is not None and held.shape[1] > skipped:
            start = max(0, min(skipped, held.shape[1] - self.block_columns))
            frames = np.asarray(_decode_block(graph, params, held[:, start:]))[:, (skipped - start) * SCALE:]
            yield _faded(frames, tail, fade)

    def _fade(self) -> np.ndarray:
        """float32 [frames that two blocks share], the weight of the later block."""
        count = self.overlap * SCALE
        return ((np.arange(count) + 0.5) / max(count, 1)).astype(np.float32)

    def _weights(self, number: int) -> np.ndarray:
        """float32 [blocks, frames of a block, 1], of each block in the sum of all; they add up to 1."""
        weights = np.ones((number, self.block_columns * SCALE, 1), np.float32)
        shared = self.overlap * SCALE
        if shared:
            weights[1:, :shared, 0] = self._fade()
            weights[:-1, -shared:, 0] = 1 - self._fade()
        return weights


def _faded(frames: np.ndarray, tail: np.ndarray | None, fade: np.ndarray) -> np.ndarray:
    """Frames [B, T, M], of which the first come out of those of the block before, `tail`."""
    if tail is None:
        return frames
    shared = tail.shape[1]
    first = (1 - fade[:, None]) * tail + fade[:, None] * frames[:, :shared]
    return np.concatenate([first, frames[:, shared:]], axis=1)


@functools.partial(jax.jit, static_argnames="graph")
def _decode_block(graph, params, latents):
    return nnx.merge(graph, params).decode_block(latents)
