"""What every head must do: two futures, free run, and samples that are a song's own. The worlds are in `cases`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax.latents.table import HEADS
from autosong_jax.layers.declaration import declarations
from tests.latents import cases

DRAWING = ["mixture", "flow", "distilled"]


def samples(head, state, n=2000, **how):
    """[n, 2] after one state of `cases.fork`."""
    states = jnp.tile(jnp.eye(2)[state], (n, 1))
    keys = jax.random.split(jax.random.key(7), n)
    return np.asarray(jax.jit(lambda: head.sample(states, keys, **how))())


@pytest.mark.parametrize("name", DRAWING)
def test_two_futures_are_both_found(name, fork_head):
    distances = np.linalg.norm(samples(fork_head(name), 0, 8000)[:, None] - cases.FUTURES, axis=-1)
    assert np.mean(distances[:, 0] < distances[:, 1]) == pytest.approx(0.5, abs=0.05)
    assert np.mean(distances.min(1) < 0.5) > 0.95, "samples lie at the futures, not between them"


def test_l1_finds_a_value_between_two_futures(fork_head):
    # The sum of the distances to two points is the same for all values between them, and larger outside.
    found = samples(fork_head("regression"), 0)
    assert (found == found[0]).all(), "one value, whatever is drawn"
    assert (np.abs(found[0]) < np.abs(cases.FUTURES[0]) + 0.2).all()


@pytest.mark.parametrize("name", DRAWING)
def test_free_run_neither_fades_nor_grows(name):
    latents = cases.free_run(name)
    assert latents.var((0, 1)).mean() ** 0.5 == pytest.approx(1, abs=0.1)
    lag_one = np.einsum("tni,tnj->ij", latents[1:], latents[:-1]) / latents[1:, :, 0].size / latents.var((0, 1))
    np.testing.assert_allclose(lag_one, cases.matrix(), atol=0.2)
    assert np.square(lag_one - cases.matrix()).mean() ** 0.5 < 0.06


def test_free_run_of_l1_fades():
    assert cases.free_run("regression").std((0, 1)).max() < 0.3


@pytest.mark.parametrize("name", HEADS)
def test_a_sample_depends_on_its_state_and_key_alone(name, fork_head):
    states = jax.random.normal(jax.random.key(0), (5, 2))
    keys = jax.random.split(jax.random.key(1), 5)
    sample = jax.jit(fork_head(name).sample)
    np.testing.assert_allclose(sample(states[3:4], keys[3:4]), sample(states, keys)[3:4], atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_temperature_0_draws_nothing(name, fork_head):
    head = fork_head(name)
    cold = samples(head, 1, 9, temperature=0.0)
    assert (cold == cold[0]).all()
    hot, warm = (samples(head, 1, temperature=temperature).std(0) for temperature in (1.0, 0.25))
    if name in DRAWING:  # noise is scaled by the square root, and the flow of a Gaussian is linear
        np.testing.assert_allclose(warm / hot, 0.5, atol=0.1)


@pytest.mark.parametrize("name", HEADS)
def test_parameters_say_what_they_are_and_losses_are_float32(name):
    options = cases.SMALL[name] | ({"adversarial": 0.1} if name == "regression" else {})
    head = nnx.eval_shape(lambda: HEADS[name](8, 3, "bfloat16", rngs=nnx.Rngs(0), **options))
    graph, params = nnx.split(head)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    declarations(graph, nnx.to_pure_dict(params))  # raises where one is missing

    def both(params, states, targets, key):
        head = nnx.merge(graph, params)
        return head.loss(states, targets, key), head.sample(states, jax.random.split(key, 4))

    (loss, parts), sample = jax.eval_shape(both, params, jnp.ones((4, 8), jnp.bfloat16), jnp.ones((4, 3)),
                                           jax.random.key(0))
    assert {(x.shape, x.dtype) for x in (loss, *parts.values())} == {((4,), jnp.dtype("float32"))}
    assert (sample.shape, sample.dtype) == ((4, 3), jnp.float32)
