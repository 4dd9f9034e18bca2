"""Discriminators, and that one backward pass gives both sides of the game the gradients that two would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax.layers.declaration import declarations
from autosong_jax.models.discriminators import PatchDiscriminator, StftDiscriminator, game


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def patches():
    return nnx.jit(lambda: PatchDiscriminator(width=2, rngs=nnx.Rngs(0)))()


def test_a_patch_has_a_logit(patches):
    opinion, = jax.eval_shape(patches, noise(2, 32, 16))
    assert [x.shape[1:] for x in opinion.features] == [(16, 8, 2), (8, 4, 4), (4, 2, 8), (4, 2, 16)]
    assert opinion.logits.shape == (2, 4, 2)


def test_a_logit_sees_a_patch_of_seventy_frames(patches):
    seen = jax.jit(jax.grad(lambda x: patches(x)[0].logits[0, 8, 1]))(noise(1, 144, 16))
    at = np.flatnonzero(np.abs(seen[0]).sum(axis=1))
    assert at[-1] - at[0] + 1 == 70


def test_each_resolution_has_an_opinion():
    discriminator = nnx.jit(lambda: StftDiscriminator(2, ((32, 8), (64, 16)), rngs=nnx.Rngs(0)))()
    one, other = jax.eval_shape(discriminator, noise(2, 100))
    assert one.logits.shape == (2, 13, 2) and other.logits.shape == (2, 7, 4)
    assert len(one.features) == 5
    assert np.isfinite(jax.jit(jax.grad(lambda x: discriminator(x)[0].logits.sum()))(jnp.zeros((1, 100)))).all()


def test_one_backward_pass_gives_what_two_give(patches):
    """The game as it is usually played: first the discriminator learns, then, held fixed, it teaches."""
    graph, params = nnx.split(patches)
    real, weight, share = noise(2, 32, 16), noise(16, 16) / 4, jnp.float32([1, 0.5])

    def total(sides):
        params, weight = sides
        return sum(x.sum() for x in jax.tree.leaves(game(nnx.merge(graph, params), real, real[::-1] @ weight, share)))

    def hinge(params):
        made = real[::-1] @ weight
        loss = 0.0
        for opinion, sign in ((nnx.merge(graph, params)(real)[0], 1), (nnx.merge(graph, params)(made)[0], -1)):
            terms = jnp.maximum(0, 1 - sign * opinion.logits)
            loss += terms[0].mean() + terms[1, :2].mean()
        return loss

    def teaching(weight):
        seen, there = patches(real[::-1] @ weight)[0], patches(real)[0]
        loss = -seen.logits[0].mean() - seen.logits[1, :2].mean()
        for a, b in zip(there.features, seen.features, strict=True):
            for song, times in ((0, a.shape[1]), (1, a.shape[1] // 2)):
                distance = jnp.abs(a[song, :times] - b[song, :times]).mean()
                loss += distance / jnp.abs(a[song, :times]).mean() / len(there.features)
        return loss

    of_params, of_weight = jax.jit(jax.grad(total))((params, weight))
    for one, other in zip(jax.tree.leaves(of_params), jax.tree.leaves(jax.jit(jax.grad(hinge))(params)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(of_weight, jax.jit(jax.grad(teaching))(weight), rtol=1e-3, atol=1e-5)


def test_every_parameter_says_what_it_is(patches):
    graph, params = nnx.split(patches)
    kinds = {what.kind for what in jax.tree.leaves(declarations(graph, nnx.to_pure_dict(params)))}
    assert kinds == {"matrix", "vector"}
