"""Small worlds whose truth is known, the heads that learn them, and how."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from autosong_jax.latents.head import MLP
from autosong_jax.latents.table import HEADS

SMALL = {"regression": {}, "mixture": {"components": 4}, "flow": {"layers": 2, "hidden": 32},
         "distilled": {"layers": 2, "hidden": 32}}
# Steps of training and the learning rate they begin with.
FORK = {"regression": (300, 5e-3), "mixture": (300, 2e-2), "flow": (400, 5e-3), "distilled": (600, 2e-3)}
PROCESS = {"regression": (300, 1e-2), "mixture": (300, 1e-2), "flow": (600, 1e-2), "distilled": (500, 5e-3)}

# Two states. After the first come two futures, each as often as the other, and a little noise; after the second a
# Gaussian.
FUTURES = np.array([[1.0, -0.5], [-1.0, 0.5]], np.float32)
MEAN, SPREAD = np.array([0.5, -1.0], np.float32), np.array([0.5, 1.5], np.float32)

# A process in 8 dimensions of variance 1: four decay on their own (AR(1)), two planes turn as they decay.
DECAY = 0.8
ANGLES = (0.5, 1.2)


def matrix() -> np.ndarray:
    """A of z' = A z + noise, float32 [8, 8]; A A^T = DECAY^2."""
    a = np.eye(8, dtype=np.float32)
    for i, angle in zip((4, 6), ANGLES, strict=True):
        a[i:i + 2, i:i + 2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return DECAY * a


def fork(key, n):
    """States [n, 2], half of each, and what comes after them [n, 2]."""
    of_future, of_noise = jax.random.split(key)
    noise = jax.random.normal(of_noise, (n, 2))
    second = jnp.arange(n) % 2
    futures = jnp.asarray(FUTURES)[jax.random.bernoulli(of_future, 0.5, (n,)).astype(int)] + 0.1 * noise
    return jax.nn.one_hot(second, 2), jnp.where(second[:, None], MEAN + SPREAD * noise, futures)


def process(key, n):
    """Latents [n, 8] of the process, and the next ones."""
    of_first, of_noise = jax.random.split(key)
    first = jax.random.normal(of_first, (n, 8))
    return first, first @ matrix().T + (1 - DECAY**2) ** 0.5 * jax.random.normal(of_noise, (n, 8))


class Follower(nnx.Module):
    """A head that reads the latent before, through an MLP."""

    def __init__(self, head, *, rngs):
        self.state = MLP(8, 32, "float32", width=32, layers=1, rngs=rngs)
        self.head = HEADS[head](32, 8, rngs=rngs, **SMALL[head])

    def loss(self, latents, targets, key):
        return self.head.loss(self.state(latents), targets, key)

    def sample(self, latents, keys):
        return self.head.sample(self.state(latents), keys)


def trained(model, world, steps, rate, seed=0):
    """`model` after so many steps of Adam on what `world(key, 128)` gives."""
    graph, params = nnx.split(model)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, steps)))

    def loss(params, key):
        of_world, of_loss = jax.random.split(key)
        return nnx.merge(graph, params).loss(*world(of_world, 128), of_loss)[0].mean()

    def step(state, key):
        params, moments = state
        updates, moments = adam.update(jax.grad(loss)(params, key), moments)
        return (optax.apply_updates(params, updates), moments), None

    keys = jax.random.split(jax.random.key(seed), steps)
    (params, _), _ = jax.jit(lambda params: jax.lax.scan(step, (params, adam.init(params)), keys))(params)
    return nnx.merge(graph, params)


def fork_head(name, seed=0):
    """A head that has learned `fork`: D = 2, F = 2."""
    return trained(HEADS[name](2, 2, rngs=nnx.Rngs(seed), **SMALL[name]), fork, *FORK[name], seed)


def free_run(name, seed=0, steps=200, chains=128):
    """A head that has learned pairs of the process goes on from what it drew: the last half, [steps / 2, chains, 8]."""
    follower = trained(Follower(name, rngs=nnx.Rngs(seed)), process, *PROCESS[name], seed)

    def step(latents, key):
        latents = follower.sample(latents, jax.random.split(key, chains))
        return latents, latents

    first = jax.random.normal(jax.random.key(seed + 1), (chains, 8))
    keys = jax.random.split(jax.random.key(seed + 2), steps)
    return np.asarray(jax.jit(lambda first: jax.lax.scan(step, first, keys)[1])(first))[steps // 2:]
