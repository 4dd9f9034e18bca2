"""The mel autoencoder: shapes, long songs in blocks without seams, streamed as at once, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from autosong_jax.errors import UserError
from autosong_jax.layers.declaration import declarations
from autosong_jax.models.autoencoder import MelAutoencoder


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def made(**settings):
    """A small model, with parameters that are 0 at first no longer so."""
    @nnx.jit
    def create():
        return MelAutoencoder(3, width=4, rngs=nnx.Rngs(0), **settings)

    @jax.jit
    def awake(params):
        keys = iter(jax.random.split(jax.random.key(1), 100))
        return jax.tree.map(lambda x: jnp.where(x == 0, 0.05 * jax.random.normal(next(keys), x.shape), x), params)

    graph, params = nnx.split(create())
    return nnx.merge(graph, awake(params))


def jitted(method):
    """A method of a model, compiled as a whole."""
    graph, params = nnx.split(method.__self__)
    return jax.jit(lambda x: getattr(nnx.merge(graph, params), method.__name__)(x))


@pytest.fixture(scope="module")
def model():
    return made(norm="level", block_columns=6, overlap=2)


@pytest.fixture(scope="module")
def decode(model):
    return jitted(model.decode)


def test_sixteen_frames_and_bands_are_one_latent(model):
    latents = jax.eval_shape(model.to_latents, noise(2, 48, 32))
    assert latents.shape == (2, 3, 2, 3)
    assert jax.eval_shape(model.decode, latents).shape == (2, 48, 32)
    with pytest.raises(ValueError, match="multiples of 16"):
        model.to_latents(noise(2, 40, 32))


def test_a_latent_knows_nothing_of_what_is_far_away(model):
    """No norm of the encoder goes over time."""
    to_latents, frames = jitted(model.to_latents), noise(1, 512, 16)
    louder = np.concatenate([frames[:, :256], 3 * frames[:, 256:]], axis=1)
    one, other = to_latents(frames), to_latents(louder)
    np.testing.assert_allclose(one[:, :8], other[:, :8], atol=1e-5)
    assert np.abs(one - other)[:, 16:].max() > 0.1


def test_the_given_decoder_is_blind_to_level_and_the_other_is_not(model, decode):
    latents, given = noise(1, 6, 2, 3), made(norm="instance")
    given.from_latent.conv.bias[...] = jnp.zeros(16)
    given = jitted(given.decode)
    assert np.abs(given(latents) - given(4 * latents)).max() < 1e-3
    assert np.abs(decode(latents) - decode(4 * latents)).max() > 0.05


@pytest.mark.parametrize("columns", [5, 6, 7, 10, 19])
def test_streamed_is_as_at_once(model, decode, columns):
    latents = noise(2, columns, 2, 3)
    at_once = decode(latents)
    assert at_once.shape == (2, columns * 16, 32)
    for size in (1, 4, columns):
        pieces = list(model.decode_blocks(latents[:, i:i + size] for i in range(0, columns, size)))
        np.testing.assert_allclose(np.concatenate(pieces, axis=1), at_once, atol=1e-5)


def test_frames_come_as_soon_as_they_are_final(model):
    given, came = 0, 0

    def latents():
        nonlocal given
        for column in np.split(noise(2, 19, 2, 3), 19, axis=1):
            given += 1
            yield column

    for piece in model.decode_blocks(latents()):
        came += piece.shape[1]
        assert came >= 16 * (given - 7)
    assert came == 16 * 19 and not list(model.decode_blocks([]))


def test_blocks_fade_into_each_other(model, decode):
    latents = noise(2, 10, 2, 3)
    at_once, block = np.asarray(decode(latents)), jitted(model.decode_block)
    before, after = (np.asarray(block(latents[:, first:first + 6])) for first in (0, 4))
    weight = (np.arange(32)[:, None] + 0.5) / 32
    shared = (1 - weight) * before[:, 64:] + weight * after[:, :32]
    np.testing.assert_allclose(at_once, np.concatenate([before[:, :64], shared, after[:, 32:]], axis=1), atol=1e-5)


def test_seams_do_not_show(model, decode):
    """What is steady stays nearer to it than in blocks side by side; of what is not, steps from block to block are no
    greater than steps within them.
    """
    block = jitted(model.decode_block)

    def side_by_side(latents):
        return np.concatenate([np.asarray(block(latents[:, i:i + 6])) for i in range(0, 18, 6)], axis=1)

    steady = np.repeat(noise(1, 1, 2, 3), 18, axis=1)
    middle = np.asarray(jitted(made(norm="level").decode_block)(steady))[:, 128:144]  # of one block that holds them all
    expected = np.tile(middle, (1, 18, 1))
    together, apart = np.asarray(decode(steady)) - expected, side_by_side(steady) - expected
    inner = slice(16 * 3, 16 * 15)  # the ends have no neighbours to fade into
    assert np.abs(together[:, inner]).max() < 0.7 * np.abs(apart[:, inner]).max()

    wander = np.cumsum(0.3 * noise(1, 18, 2, 3), axis=1)
    steps = np.abs(np.diff(np.asarray(decode(wander))[0], axis=0)).mean(axis=1)[15::16]  # from column to column
    seams = [first + column for first in (3, 7, 11) for column in (0, 2)]  # where a block begins or one ends
    assert steps[seams].mean() < 1.2 * np.delete(steps, seams).mean()


def test_it_learns_one_mel():
    time, bands = np.mgrid[:32, :32]
    frames = jnp.asarray(np.sin(time / 5 + bands / 3)[None] * np.where(bands < 16, 0.8, 0.2), jnp.float32)
    graph, params = nnx.split(made(norm="level"))
    optimizer = optax.adamw(5e-3)

    def loss(params):
        model = nnx.merge(graph, params)
        return jnp.abs(model.decode(model.to_latents(frames)) - frames).mean()

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    for _ in range(120):
        params, state, value = step(params, state)
    assert value < 0.25 * jnp.abs(frames).mean()


def test_every_parameter_says_what_it_is(model):
    graph, params = nnx.split(model)
    declarations(graph, nnx.to_pure_dict(params))


@pytest.mark.parametrize(("settings", "message"), [({"norm": "batch"}, "norm 'batch'"), ({"overlap": 9}, "overlap 9")])
def test_settings_that_mean_nothing(settings, message):
    with pytest.raises(UserError, match=message):
        MelAutoencoder(**settings, rngs=nnx.Rngs(0))
