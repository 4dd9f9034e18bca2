"""Vocos (Siuzdak 2023): mels to spectra by ConvNeXt blocks, and spectra to sound by one inverse transform.

Nothing is upsampled by layers: all of them work at the rate of frames. Output sample i stands where sample i of the
input stood: the frames of a mel and those of the transform are around the middles of the same hops.

Letters: B batch, T frames, M bands, D width, N bins (n_fft // 2 + 1).
"""

import functools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from autosong_jax.codecs.blocks import with_context
from autosong_jax.errors import UserError
from autosong_jax.layers.convolution import DepthwiseConv, linear
from autosong_jax.layers.declaration import declared
from autosong_jax.layers.spectra import istft
from autosong_jax.layers.transformer import ACTIVATIONS
from autosong_jax.layers.unconditioned import Unconditioned

KERNEL = 7  # frames that a convolution sees
_QUIET = -5.0  # the logarithm of the magnitudes that an untrained model gives: not a full-scale sine in every bin


class ConvNeXtBlock(nnx.Module):
    """x plus a depthwise convolution, a norm and an MLP of it (Liu et al. 2022), scaled by each channel's `scale`."""

    def __init__(self, width: int, mlp_width: int, scale: float, *, dtype: str, rngs: nnx.Rngs):
        self.convolution = DepthwiseConv(width, KERNEL, dtype=dtype, rngs=rngs)
        self.norm = _norm(width, rngs)
        self.up = linear(width, mlp_width, dtype=dtype, rngs=rngs)
        self.down = linear(mlp_width, width, dtype=dtype, rngs=rngs)
        self.scale = nnx.Param(jnp.full(width, scale), **declared("vector"))

    def __call__(self, x: Array, inside: Array) -> Array:
        y = self.norm(self.convolution(jnp.where(inside, x, 0))).astype(x.dtype)
        y = self.down(ACTIVATIONS["gelu"](self.up(y)))
        return x + self.scale[...].astype(x.dtype) * y


class Vocoder(Unconditioned):
    """See the module's docstring.

    The paper's model gives each frame's phases by themselves. Frames of a steady tone are alike, and so would be their
    phases, although those of the tone go on from frame to frame: such a model can only sing tones of which a whole
    number of periods is a hop. So here, with `advances`, it also gives by how much the phase of each bin goes on since
    the frame before, beside what the middle of the bin would, and these are added up from the song's beginning.

    Args:
      bands: M of the mels.
      n_fft, hop: of the transform; `hop` is that of the mels.
      width, blocks, mlp_width: of the ConvNeXt blocks; as given here they are Vocos's, 14 M parameters.
      advances: see above; without, it is the paper's.
      discriminator: of signals [B, S], trained beside it; None for none.
      dtype: of the computation; spectra and sound are float32.
      rngs: of the initial parameters.
    """

    def __init__(self, bands: int, n_fft: int, hop: int, width: int = 512, blocks: int = 8, mlp_width: int = 1536,
                 advances: bool = True, discriminator: nnx.Module | None = None, *, dtype: str = "float32",
                 rngs: nnx.Rngs):
        if n_fft % 2 or n_fft < hop:
            raise UserError(f"vocoder n_fft {n_fft}: expected an even number of samples, at least the hop of {hop}")
        self.n_fft, self.hop, self.dtype = n_fft, hop, dtype
        bins = n_fft // 2 + 1
        self.first = linear(KERNEL * bands, width, dtype=dtype, rngs=rngs)
        self.first_norm = _norm(width, rngs)
        self.blocks = nnx.List([ConvNeXtBlock(width, mlp_width, 1 / blocks, dtype=dtype, rngs=rngs)
                                for _ in range(blocks)])
        self.last_norm = _norm(width, rngs)
        self.magnitudes = linear(width, bins, dtype=dtype, rngs=rngs)
        self.phases = linear(width, bins, dtype=dtype, rngs=rngs)
        self.advances = linear(width, bins, init=nnx.initializers.normal(1e-2), dtype=dtype,
                               rngs=rngs) if advances else None
        self.discriminator = discriminator

    @property
    def reach(self) -> int:
        """How many frames on either side the spectrum of a frame depends on, but for what is added up."""
        return (1 + len(self.blocks)) * (KERNEL // 2)

    @property
    def context(self) -> int:
        """How many frames on either side of some their sound depends on, but for what is added up."""
        return self.reach - (-(self.n_fft - self.hop - (self.n_fft - self.hop) // 2) // self.hop)

    def __call__(self, mels: Array, inside: Array | None = None) -> Array:
        """Sound.

        Args:
          mels: [B, T, M].
          inside: bool [B, T], which frames there are, one after another; all by default. The others change nothing, and
            their samples have no meaning.

        Returns:
          float32 [B, T * hop].
        """
        inside = jnp.ones(mels.shape[:2], bool) if inside is None else inside
        return self._sound(mels, inside, inside, jnp.zeros((len(mels), self.n_fft // 2 + 1)))[0]

    def decode_blocks(self, mels: Iterable[np.ndarray], block_frames: int = 256) -> Iterator[np.ndarray]:
        """What `__call__` does, of mels as they come, in memory that does not grow with the song; not under a trace.

        Args:
          mels: float [B, any, M].
          block_frames: how many frames are decoded at a time: few come soon, many take less time in all.

        Yields:
          float32 [B, samples], as soon as no later frame can change them.
        """
        graph, params = nnx.split(self)
        context, turns = self.context, None
        for x, seen, rest in with_context(mels, block_frames, context, context, 1):
            own = min(rest, x.shape[1] - 2 * context)
            if turns is None:
                turns = jnp.zeros((len(x), self.n_fft // 2 + 1))
            audio, turns = _decode(graph, params, x, max(context - seen, 0), min(context + rest, x.shape[1]), turns)
            yield np.asarray(audio)[:, context * self.hop:(context + own) * self.hop]

    def block(self, mels: Array, inside: Array, turns: Array) -> tuple[Array, Array]:
        """Sound of a cut of a song, with `context` frames on either side; see `decode_blocks`.

        Args:
          mels: [B, T, M].
          inside: bool [B, T], which of its frames there are.
          turns: float32 [B, N], by how much phases have gone on until its first frames that depend on no frame before
            it, the one at index `reach`.

        Returns:
          float32 [B, T * hop], and the same turns for the cut whose own frames follow this one's.
        """
        index = jnp.arange(mels.shape[1])
        audio, sums = self._sound(mels, inside, inside & (index >= self.reach), turns)
        return audio, sums[:, mels.shape[1] - 2 * self.context + self.reach - 1]

    def _sound(self, mels: Array, inside: Array, added: Array, turns: Array) -> tuple[Array, Array]:
        """Sound float32 [B, T * hop], and by how much the phase of each bin has gone on, in turns, float32 [B, T, N].

        Args:
          mels, inside: as of `__call__`.
          added: bool [B, T], the frames whose advances are added to `turns`, float32 [B, N].
        """
        there = inside[..., None]
        x = jnp.where(there, mels, 0).astype(self.dtype)
        padded = jnp.pad(x, ((0, 0), (KERNEL // 2, KERNEL // 2), (0, 0)))
        x = self.first(jnp.concatenate([padded[:, i:i + x.shape[1]] for i in range(KERNEL)], axis=-1))
        x = self.first_norm(x).astype(self.dtype)
        for block in self.blocks:
            x = block(x, there)
        x = self.last_norm(x).astype(self.dtype)
        # As in the paper a magnitude is at most 100, far above that of any sound.
        magnitudes = jnp.exp(jnp.minimum(self.magnitudes(x).astype(jnp.float32) + _QUIET, np.log(100.0)))
        sums = self._turns(x, added, turns)
        phases = self.phases(x).astype(jnp.float32) + 2 * np.pi * sums
        spectra = jax.lax.complex(magnitudes * jnp.cos(phases), magnitudes * jnp.sin(phases))
        return istft(spectra, self.n_fft, self.hop, inside), sums

    def _turns(self, x: Array, added: Array, turns: Array) -> Array:
        """See `_sound`; x [B, T, D] is what the layers for spectra read."""
        if self.advances is None:
            return jnp.zeros((*x.shape[:2], turns.shape[-1]))
        # What the middles of bins advance by is counted in integers, so that it stays exact however long a song is.
        of_bins = np.arange(turns.shape[-1]) * self.hop % self.n_fft
        count = jnp.cumsum(added, axis=1) % self.n_fft
        middles = (of_bins * count[..., None] % self.n_fft) / self.n_fft
        more = jnp.cumsum(jnp.where(added[..., None], self.advances(x).astype(jnp.float32), 0), axis=1)  # radians
        sums = turns[:, None] + middles + more / (2 * np.pi)
        return sums - jnp.floor(sums)


def _norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """In float32, whatever it is given."""
    return nnx.LayerNorm(width, dtype=jnp.float32, scale_metadata=declared("vector"), bias_metadata=declared("vector"),
                         rngs=rngs)


@functools.partial(jax.jit, static_argnames="graph")
def _decode(graph, params, mels, begin, end, turns):
    index = jnp.arange(mels.shape[1])
    inside = jnp.broadcast_to((index >= begin) & (index < end), mels.shape[:2])
    return nnx.merge(graph, params).block(mels, inside, turns)
