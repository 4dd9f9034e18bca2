"""The adversarial head: one gradient of its loss is those of both sides."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from autosong_jax.latents.regression import Regression

WEIGHT = 0.3


def test_one_gradient_is_those_of_both_sides():
    head = Regression(6, 3, adversarial=WEIGHT, discriminator_width=16, mlp_layers=1, mlp_width=8, rngs=nnx.Rngs(0))
    graph, params = nnx.split(head)
    params = nnx.to_pure_dict(params)
    states, targets = (jax.random.normal(jax.random.key(i), (20, size)) for i, size in enumerate((6, 3)))

    def summed(params, states):
        return nnx.merge(graph, params).loss(states, targets)[0].mean()

    def score(params, states, latents):
        return nnx.merge(graph, params).discriminator(jnp.concatenate([states, latents], axis=-1))[:, 0]

    def of_generator(out, states):
        value = nnx.merge(graph, params | {"out": out}).out(states)
        return (jnp.abs(value - targets).mean(-1) - WEIGHT * score(params, fixed_states, value)).mean()

    def of_discriminator(discriminator):
        values, own = head.out(states), params | {"discriminator": discriminator}
        return (jnp.maximum(1 - score(own, states, targets), 0) + jnp.maximum(1 + score(own, states, values), 0)).mean()

    fixed_states = states
    gradients, of_states = jax.jit(jax.grad(summed, (0, 1)))(params, states)
    expected, expected_of_states = jax.jit(jax.grad(of_generator, (0, 1)))(params["out"], states)
    expected = {"out": expected, "discriminator": jax.jit(jax.grad(of_discriminator))(params["discriminator"])}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
                 (gradients, of_states), (expected, expected_of_states))
    assert np.abs(gradients["discriminator"]["out"]["kernel"]).max() > 0.01


def test_without_a_weight_there_is_no_discriminator():
    head = Regression(6, 3, rngs=nnx.Rngs(0))
    assert "discriminator" not in nnx.to_pure_dict(nnx.state(head))
    loss, parts = head.loss(jnp.ones((2, 6)), jnp.zeros((2, 3)))
    np.testing.assert_array_equal(loss, parts["l1"])
