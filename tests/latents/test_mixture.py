"""The mixture's likelihood, against scipy's of the same Gaussians and against entropies."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.special import logsumexp
from scipy.stats import norm

from autosong_jax.latents.mixture import Mixture
from tests.latents import cases


def test_the_likelihood_is_that_of_the_gaussians():
    head = Mixture(5, 3, components=4, rngs=nnx.Rngs(0))
    states, targets = (2 * jax.random.normal(jax.random.key(i), (7, size)) for i, size in enumerate((5, 3)))
    log_weights, means, log_scales = (np.asarray(x, np.float64) for x in jax.jit(head.parameters)(states))
    densities = norm(means, np.exp(log_scales)).logpdf(np.asarray(targets)[:, None]).sum(-1)
    np.testing.assert_allclose(jax.jit(head.loss)(states, targets)[0],
                               -logsumexp(log_weights + densities, axis=1) / 3, rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_weights).sum(1), 1, rtol=1e-6)


def test_after_training_it_is_the_entropy(fork_head):
    losses = np.asarray(jax.jit(fork_head("mixture").loss)(*cases.fork(jax.random.key(5), 20000))[0])
    gaussian = 0.5 * np.log(2 * np.pi * np.e)
    # Two futures are one bit, which two values share; they do not overlap.
    assert abs(losses[::2].mean() - (gaussian + np.log(0.1) + np.log(2) / 2)) < 0.03
    assert abs(losses[1::2].mean() - (gaussian + np.log(cases.SPREAD).mean())) < 0.03


def test_nothing_runs_away():
    head = Mixture(2, 3, bound=50.0, rngs=nnx.Rngs(0))
    states = 1e4 * jnp.array([[1.0, 1.0], [-1.0, 1.0]])

    @jax.jit
    @jax.value_and_grad
    def loss(states, targets):
        return head.loss(states, targets)[0].sum()

    for targets in (jnp.zeros((2, 3)), jnp.full((2, 3), 1e3)):
        value, gradients = loss(states, targets)
        assert np.isfinite(value) and np.isfinite(gradients).all()
    log_scales = jax.jit(head.parameters)(states)[2]
    np.testing.assert_allclose(np.abs(log_scales), np.log(50), rtol=1e-3)


def test_the_coldest_sample_is_the_mean_of_the_most_probable_component():
    head = Mixture(5, 3, rngs=nnx.Rngs(0))
    states = jax.random.normal(jax.random.key(0), (6, 5))
    log_weights, means, _ = jax.jit(head.parameters)(states)
    expected = np.asarray(means)[np.arange(6), np.argmax(log_weights, axis=1)]
    np.testing.assert_allclose(jax.jit(head.sample)(states, jax.random.split(jax.random.key(1), 6), 0.0), expected,
                               atol=1e-6)
