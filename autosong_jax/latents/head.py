"""What predicts the next latent of a song from a decoder's state, and the layers that such heads are made of.

A head does not know whether a target is a latent or its difference from the one before.

Letters: N positions of songs, D width of the states, F values of a latent, R noise draws a position.
"""

import itertools
from typing import Protocol

import jax
from flax import nnx
from jax import Array

from autosong_jax.layers.declaration import declared
from autosong_jax.layers.lora import Linear
from autosong_jax.layers.transformer import ACTIVATIONS


class Head(Protocol):
    """A distribution of the next latent for each state; an `nnx.Module` made by `(width, size, dtype, *, rngs)` and
    options of its own.

    Attributes:
      size: F.
      exact: whether the loss is the negative log likelihood, in nats a value.
    """

    size: int
    exact: bool

    def loss(self, states: Array, targets: Array, key: Array | None = None) -> tuple[Array, dict[str, Array]]:
        """What training makes small; the mean over the values of a latent, not their sum.

        Args:
          states: [N, D], of any dtype.
          targets: [N, F].
          key: PRNG key of what is drawn; a head that draws nothing takes None.

        Returns:
          float32 [N], the loss of each position; and the parts that it is made of, float32 [N] by name, to report.
        """

    def sample(self, states: Array, keys: Array, temperature: Array | float = 1.0, *, steps: int | None = None
               ) -> Array:
        """A latent for each state, which depends on that state and its key alone.

        Args:
          states: [N, D].
          keys: PRNG keys [N].
          temperature: float32 [], which may be traced: all noise is scaled by its square root, so that 0 draws nothing.
          steps: of the integration, where there is one; None for those that the head is made with.

        Returns:
          float32 [N, F].
        """


def linear(inputs: int, outputs: int, dtype: str, rngs: nnx.Rngs, *, zero: bool = False) -> Linear:
    """A linear layer of a head; with `zero` one that gives zero before training."""
    init = nnx.initializers.zeros if zero else nnx.initializers.lecun_normal()
    return Linear(inputs, outputs, dtype=dtype, kernel_init=init,
                  kernel_metadata=declared("matrix", "fsdp", None, cast=True),
                  bias_metadata=declared("vector"), rngs=rngs)


class MLP(nnx.Module):
    """Linear layers with GELU between them: `layers` hidden ones of a width, then the output."""

    def __init__(self, inputs: int, outputs: int, dtype: str, *, width: int, layers: int, rngs: nnx.Rngs):
        widths = [inputs] + layers * [width]
        self.hidden = nnx.List([linear(a, b, dtype, rngs) for a, b in itertools.pairwise(widths)])
        self.out = linear(widths[-1], outputs, dtype, rngs)

    def __call__(self, x: Array) -> Array:
        """[..., inputs] -> [..., outputs]."""
        for layer in self.hidden:
            x = ACTIVATIONS["gelu"](layer(x))
        return self.out(x)


def normals(keys: Array, size: int) -> Array:
    """Standard normal numbers, float32 [N, size], of each key its own row."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)
