"""Flow matching and its distillation, against the flow of a Gaussian, which has a closed form.

From noise e to m + s e: the velocity at x_t is m + (t s^2 - (1 - t)) / (t^2 s^2 + (1 - t)^2) (x_t - t m), and what
stands at e in the beginning stands at m + s e in the end.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax.latents.flow import Distilled, Flow
from tests.latents import cases
from tests.latents.cases import MEAN, SPREAD

GAUSSIAN = jnp.array([0.0, 1.0])  # the state of `cases.fork` that a Gaussian follows


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


@pytest.mark.parametrize("name", ["flow", "distilled"])
def test_the_velocity_is_that_of_the_gaussian(name, fork_head):
    t = jnp.repeat(jnp.array([0.1, 0.3, 0.5, 0.7, 0.9]), 200)[:, None]
    spread = jnp.sqrt((t * SPREAD) ** 2 + (1 - t) ** 2)
    x = t * MEAN + spread * jax.random.normal(jax.random.key(0), (len(t), 2))
    expected = MEAN + (t * SPREAD**2 - (1 - t)) / spread**2 * (x - t * MEAN)
    found = jax.jit(fork_head(name).velocity)(jnp.tile(GAUSSIAN, (len(t), 1)), x, t[:, 0])
    assert rms(found - expected) < 0.2 * rms(expected)


def test_one_step_of_the_distilled_is_the_whole_flow(fork_head):
    head = fork_head("distilled")
    keys = jax.random.split(jax.random.key(0), 500)
    states = jnp.tile(GAUSSIAN, (len(keys), 1))
    one, sixteen = (jax.jit(functools.partial(head.sample, steps=steps))(states, keys) for steps in (1, 16))
    noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
    undistilled = noise + head.velocity(states, noise, jnp.zeros(len(keys)))  # Euler's step of its own flow
    assert rms((one - sixteen) / SPREAD) < 0.2
    assert rms((one - (MEAN + SPREAD * noise)) / SPREAD) < 0.25
    assert rms((undistilled - sixteen) / SPREAD) > 0.8


def test_few_midpoint_steps_keep_the_spread():
    """Of a flow whose velocity is exact; 16 steps of Euler's would lose a quarter of a spread of 0.1."""
    class Exact(Flow):
        def velocity(self, states, x, t):
            return (t * 0.01 - (1 - t)) / (t**2 * 0.01 + (1 - t) ** 2) * x

    head = Exact(2, 3, layers=0, hidden=2, rngs=nnx.Rngs(0))
    keys = jax.random.split(jax.random.key(0), 4)
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    np.testing.assert_allclose(head.sample(jnp.zeros((4, 2)), keys), 0.1 * noise, rtol=0.04)


def test_on_the_diagonal_the_distilled_is_a_flow(fork_head):
    flow = fork_head("flow")
    distilled = Distilled(2, 2, rngs=nnx.Rngs(1), **cases.SMALL["distilled"])
    distilled.network = nnx.clone(flow.network)
    time, = distilled.network.times
    distilled.network.times = nnx.List([time, time])
    states, targets = cases.fork(jax.random.key(0), 16)
    key = jax.random.key(1)
    _, parts = jax.jit(distilled.loss)(states, targets, key)
    loss, _ = jax.jit(flow.loss)(states, targets, jax.random.split(key)[0])
    np.testing.assert_allclose(parts["flow_matching"], loss, rtol=1e-5)


def test_the_loss_of_a_network_that_is_still_is_that_of_the_paths():
    """Before training v = 0: the loss is the mean of (x - e)^2, for a target at 0 that of the noise, 1."""
    head = Flow(4, 8, layers=1, hidden=8, draws=16, rngs=nnx.Rngs(0))
    loss, _ = jax.jit(head.loss)(jnp.ones((100, 4)), jnp.full((100, 8), 2.0), jax.random.key(0))
    assert loss.mean() == pytest.approx(1 + 2.0**2, rel=0.05)
