"""What a decoder reads of the latents before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax.latents.history import ShortContext, noised
from autosong_jax.layers.declaration import declarations


def test_noise_keeps_the_variance_and_is_a_songs_own():
    x = jax.random.normal(jax.random.key(0), (4, 500, 16))
    keys = jax.random.split(jax.random.key(1), 4)
    y = noised(x, keys)
    assert np.std(y) == pytest.approx(1, abs=0.02)
    # E[x y] = E[sqrt(1 - k)] = 2 / 3, and every level has its share of the steps: sqrt(1 - k) < 1/2 for a quarter.
    agreement = (x * y).mean(-1)
    assert agreement.mean() == pytest.approx(2 / 3, abs=0.02)
    shares = np.linalg.norm(y - x, axis=-1)  # 2 - 2 sqrt(1 - k) a value
    assert np.mean(shares**2 / 16 > 1.0) == pytest.approx(1 / 4, abs=0.08)
    np.testing.assert_array_equal(noised(x[2:3], keys[2:3]), y[2:3])


@pytest.fixture(scope="module")
def context():
    context = ShortContext(3, 5, length=4, layers=1, hidden=8, rngs=nnx.Rngs(0))
    assert not np.any(context(jnp.ones((1, 6, 3)))), "zero before training"
    context.out.kernel[...] = jax.random.normal(jax.random.key(0), context.out.kernel.shape)
    return context


def test_step_by_step_is_the_whole_song(context):
    latents = np.asarray(jax.random.normal(jax.random.key(1), (2, 9, 3)))
    whole = context(latents)
    window = np.zeros((2, 4, 3), np.float32)
    for step in range(9):
        window = np.concatenate([window[:, 1:], latents[:, step:step + 1]], axis=1)
        np.testing.assert_allclose(context.last(window), whole[:, step], atol=1e-6)


def test_a_step_sees_its_window_alone(context):
    latents = jax.random.normal(jax.random.key(1), (1, 9, 3))
    changed = np.abs(context(latents.at[0, 3].add(1.0)) - context(latents))[0].max(-1) > 1e-4
    assert changed.tolist() == [False] * 3 + [True] * 4 + [False] * 2


def test_its_parameters_say_what_they_are(context):
    graph, params = nnx.split(context)
    declarations(graph, nnx.to_pure_dict(params))
