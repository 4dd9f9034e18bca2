"""Discriminators of mels and of signals, and what an adversarial game costs both of its sides.

A discriminator makes one or more opinions of what it is given. It is a submodule `discriminator` of the model that it
judges, so its parameters and its optimizer's state lie in the same checkpoint; what is under that name may learn at a
rate of its own.

Letters: B batch, T time, M bands, C channels, S samples.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from autosong_jax.audio.spectrum import RESOLUTIONS
from autosong_jax.layers.convolution import Conv
from autosong_jax.layers.spectra import stft


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Opinion:
    """What one stack of convolutions makes of what it is given.

    Attributes:
      features: the activations [B, T', M', C] of each layer but the last.
      logits: float32 [B, T'', M''], above 0 where it seems real.
    """

    features: list[Array]
    logits: Array


class _Stack(nnx.Module):
    """Convolutions with a leaky ReLU after each but the last, which has one output; no norm, so that level counts."""

    def __init__(self, layers: Sequence[Conv]):
        self.layers = nnx.List(layers)

    def __call__(self, x: Array) -> Opinion:
        features = []
        for layer in self.layers[:-1]:
            x = jax.nn.leaky_relu(layer(x), 0.2)
            features.append(x)
        return Opinion(features, self.layers[-1](x)[..., 0].astype(jnp.float32))


class PatchDiscriminator(nnx.Module):
    """PatchGAN (Isola et al. 2017) of mels: a logit for each patch, 70 x 70 values with three layers that halve.

    Args:
      width: channels after the first layer; each doubles it, up to eight times of it.
      layers: how many of them halve time and bands.
      dtype: of the computation.
      rngs: of the initial kernels.
    """

    def __init__(self, width: int = 64, layers: int = 3, *, dtype: str = "float32", rngs: nnx.Rngs):
        widths = [1, *(width * min(2**i, 8) for i in range(layers + 1))]
        halving = [Conv(widths[i], widths[i + 1], (4, 4), (2, 2), dtype=dtype, rngs=rngs) for i in range(layers)]
        self.stack = _Stack([*halving, Conv(widths[-2], widths[-1], (4, 4), dtype=dtype, rngs=rngs),
                             Conv(widths[-1], 1, (4, 4), dtype=dtype, rngs=rngs)])

    def __call__(self, frames: Array) -> list[Opinion]:
        """One opinion of mels [B, T, M], of which 2**layers divides T and M."""
        return [self.stack(frames[..., None])]


class StftDiscriminator(nnx.Module):
    """Several discriminators of a signal's complex spectra, one a resolution (Défossez et al. 2022, EnCodec).

    Args:
      width: channels of each layer.
      resolutions: (n_fft, hop) of each spectrum.
      dtype: of the computation; spectra are float32.
      rngs: of the initial kernels.
    """

    def __init__(self, width: int = 32, resolutions: Sequence[tuple[int, int]] = RESOLUTIONS, *,
                 dtype: str = "float32", rngs: nnx.Rngs):
        self.resolutions = tuple(resolutions)
        self.stacks = nnx.List([_Stack([
            Conv(2, width, (3, 9), dtype=dtype, rngs=rngs),
            *(Conv(width, width, (3, 9), (1, 2), dilation, dtype=dtype, rngs=rngs) for dilation in (1, 2, 4)),
            Conv(width, width, dtype=dtype, rngs=rngs), Conv(width, 1, dtype=dtype, rngs=rngs)])
            for _ in self.resolutions])

    def __call__(self, audio: Array) -> list[Opinion]:
        """Opinions of signals float32 [B, S], one a resolution."""
        return [stack(self._image(audio, *resolution))
                for stack, resolution in zip(self.stacks, self.resolutions, strict=True)]

    def _image(self, audio: Array, n_fft: int, hop: int) -> Array:
        """[B, S] -> [B, F, n_fft / 2, 2], all bins but the last; the quiet ones raised by a square root."""
        spectra = stft(jnp.pad(audio, ((0, 0), (0, -audio.shape[1] % hop))), n_fft, hop)[..., :-1]
        magnitudes = jnp.abs(spectra)[..., None]
        return jnp.stack([spectra.real, spectra.imag], axis=-1) * lax.rsqrt(magnitudes + 1e-4)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Game:
    """What the game costs, float32 [B] each, means of all opinions.

    Attributes:
      generator: -logits of what was made; of it only what was made has a gradient.
      features: the distance of its features from those of what is real, over the mean size of these; the same.
      discriminator: the hinge loss, 2 where it knows nothing; of it only the discriminator has a gradient.
    """

    generator: Array
    features: Array
    discriminator: Array


def game(discriminator: nnx.Module, real: Array, made: Array, share: Array) -> Game:
    """The losses of both sides, whose sum has for each its own gradient: one backward pass serves both.

    Args:
      discriminator: of what is real and what was made.
      real, made: [B, T, ...].
      share: float32 [B], of the time, from its beginning, which counts.
    """
    graph, params = nnx.split(discriminator)
    fixed = nnx.merge(graph, lax.stop_gradient(params))
    # Of what was made there are two opinions of the same numbers: one for the maker, one for the judge.
    of_made, of_real = fixed(made), discriminator(real)
    seen = discriminator(lax.stop_gradient(made))
    generator = [mean_of_share(-opinion.logits, share) for opinion in of_made]
    hinge = [mean_of_share(jax.nn.relu(1 - true.logits), share) + mean_of_share(jax.nn.relu(1 + false.logits), share)
             for true, false in zip(of_real, seen, strict=True)]
    distances = [
        mean_of_share(jnp.abs(a - b), share) / jnp.maximum(mean_of_share(jnp.abs(a), share), 1e-3)
        for true, false in zip(lax.stop_gradient(of_real), of_made, strict=True)
        for a, b in zip(true.features, false.features, strict=True)]
    return Game(*(sum(terms) / len(terms) for terms in (generator, distances, hinge)))


def mean_of_share(x: Array, share: Array) -> Array:
    """float32 [B]: the mean of x [B, T, ...] over a share [B] of the time, from its beginning, and over all else."""
    times = jnp.ceil(share * x.shape[1] - 1e-3)  # what a share of it lies in counts; less for rounding
    counts = (jnp.arange(x.shape[1]) < times[:, None]).astype(jnp.float32)
    of_time = x.astype(jnp.float32).mean(axis=tuple(range(2, x.ndim)))
    return (of_time * counts).sum(axis=1) / jnp.maximum(counts.sum(axis=1), 1)
