"""One value for each state, by L1 and, if wanted, against a discriminator. See `head.Head`."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.latents.head import MLP


class Regression(nnx.Module):
    """The nearest value by L1, plus `adversarial` times what a discriminator says of it; see `head.Head`.

    Of several futures L1 wants the median of each value, and of two equally likely ones any value between them: so it
    cannot be more than one of them, and is mostly none. A discriminator, which sees the state as well, moves the value
    to where futures are, but it stays one: nothing is drawn, temperature does nothing.

    The hinge losses of Lim and Ye (2017), "Geometric GAN". One gradient of the loss serves both sides: what the value
    is judged by sees a discriminator whose parameters are constants, and what the discriminator learns from sees a
    value that is one. Neither reaches the other's parameters, nor does the discriminator reach the states.

    Args:
      width, size: D and F.
      dtype: of the computation.
      mlp_layers, mlp_width: hidden layers before the output.
      adversarial: the weight lambda; with 0 there is no discriminator.
      discriminator_width: of its two hidden layers.

    Attributes:
      discriminator: [N, D + F] -> [N, 1], above 0 for what it takes for a true latent; only with `adversarial`.
    """

    exact = False

    def __init__(self, width: int, size: int, dtype: str = "float32", *, mlp_layers: int = 0, mlp_width: int = 512,
                 adversarial: float = 0.0, discriminator_width: int = 256, rngs: nnx.Rngs):
        self.size, self.adversarial = size, adversarial
        self.out = MLP(width, size, dtype, width=mlp_width, layers=mlp_layers, rngs=rngs)
        if adversarial:
            self.discriminator = MLP(width + size, 1, dtype, width=discriminator_width, layers=2, rngs=rngs)

    def loss(self, states: Array, targets: Array, key: Array | None = None) -> tuple[Array, dict[str, Array]]:
        """See `head.Head`; draws nothing. The parts are "l1" and, if adversarial, "generator" and "discriminator"."""
        del key
        value = self.out(states).astype(jnp.float32)
        l1 = jnp.abs(value - targets).mean(-1)
        if not self.adversarial:
            return l1, {"l1": l1}
        states = jax.lax.stop_gradient(states).astype(jnp.float32)
        graph, parameters = nnx.split(self.discriminator)
        judge = nnx.merge(graph, jax.lax.stop_gradient(parameters))
        generator = -_score(judge, states, value)
        discriminator = (jax.nn.relu(1 - _score(self.discriminator, states, targets))
                         + jax.nn.relu(1 + _score(self.discriminator, states, jax.lax.stop_gradient(value))))
        return (l1 + self.adversarial * generator + discriminator,
                {"l1": l1, "generator": generator, "discriminator": discriminator})

    def sample(self, states: Array, keys: Array, temperature: Array | float = 1.0, *, steps: int | None = None
               ) -> Array:
        """See `head.Head`; there is nothing to draw."""
        del keys, temperature, steps
        return self.out(states).astype(jnp.float32)


def _score(discriminator: MLP, states: Array, latents: Array) -> Array:
    """float32 [N]."""
    return discriminator(jnp.concatenate([states, latents], axis=-1))[:, 0].astype(jnp.float32)
