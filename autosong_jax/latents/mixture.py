"""A mixture of Gaussians for each state, whose likelihood is exact. See `head.Head`."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from autosong_jax.latents.head import MLP, normals


class Mixture(nnx.Module):
    """Gaussians with diagonal covariances, as in GIVT (Tschannen et al. 2023); see `head.Head`.

    The loss is the negative log likelihood in nats per value of a latent.

    Args:
      width, size: D and F.
      dtype: of the computation of the parameters; of the likelihood it is float32.
      components: how many Gaussians.
      bound: the scales lie between 1 / bound and bound, so that no likelihood runs away on a latent that repeats.
      mlp_layers, mlp_width: hidden layers before the output.
    """

    exact = True

    def __init__(self, width: int, size: int, dtype: str = "float32", *, components: int = 16, bound: float = 100.0,
                 mlp_layers: int = 0, mlp_width: int = 512, rngs: nnx.Rngs):
        self.size, self.components, self.bound = size, components, bound
        self.out = MLP(width, components * (1 + 2 * size), dtype, width=mlp_width, layers=mlp_layers, rngs=rngs)

    def parameters(self, states: Array) -> tuple[Array, Array, Array]:
        """Log weights [N, components], means and log scales [N, components, F], all float32."""
        out = self.out(states).astype(jnp.float32).reshape(len(states), self.components, -1)
        weights, means, scales = out[..., 0], out[..., 1:1 + self.size], out[..., 1 + self.size:]
        limit = math.log(self.bound)
        return jax.nn.log_softmax(weights), means, limit * jnp.tanh(scales / limit)

    def loss(self, states: Array, targets: Array, key: Array | None = None) -> tuple[Array, dict[str, Array]]:
        """See `head.Head`; draws nothing."""
        del key
        log_weights, means, log_scales = self.parameters(states)
        z = (targets[:, None] - means) * jnp.exp(-log_scales)
        log_likelihoods = -(0.5 * z**2 + log_scales + 0.5 * math.log(2 * math.pi)).sum(-1)
        return -jax.nn.logsumexp(log_weights + log_likelihoods, axis=-1) / self.size, {}

    def sample(self, states: Array, keys: Array, temperature: Array | float = 1.0, *, steps: int | None = None
               ) -> Array:
        """See `head.Head`. The noise that chooses a component (Gumbel's) is scaled as that within it: at 0 it is the
        mean of the most probable one.
        """
        del steps
        log_weights, means, log_scales = self.parameters(states)
        of_weights, of_values = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        spread = jnp.sqrt(temperature)
        gumbel = jax.vmap(lambda key: jax.random.gumbel(key, (self.components,)))(of_weights)
        chosen = jnp.argmax(log_weights + spread * gumbel, axis=-1)[:, None, None]
        mean, log_scale = (jnp.take_along_axis(x, chosen, axis=1)[:, 0] for x in (means, log_scales))
        return mean + spread * jnp.exp(log_scale) * normals(of_values, self.size)
