"""Choosing ids against naive filters, frequencies and the independence of songs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autosong_jax.sampling.tokens import FEW, Choice, choose, keep_likely


def naive_kept(logits, top_k, top_p):
    order = np.argsort(-logits, kind="stable")
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    kept, before = [], 0.0
    for rank, i in enumerate(order):
        if rank > 0 and ((top_k and rank >= top_k) or before >= top_p):
            break
        kept.append(i)
        before += probabilities[i]
    return set(kept)


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
    """Few distributions are sorted on an accelerator alone."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("top_k", [0, 1, 3, 50])
@pytest.mark.parametrize("top_p", [1.0, 0.7, 0.01])
@pytest.mark.parametrize("shape", [(4, 3), (FEW // 2, 2)])
def test_filters_equal_a_loop(top_k, top_p, shape):
    logits = np.random.default_rng(top_k).normal(size=(*shape, 20)).astype(np.float32) * 2
    filtered = np.asarray(keep_likely(jnp.asarray(logits), jnp.int32(top_k), jnp.float32(top_p)))
    for index in np.ndindex(shape):
        kept = set(np.flatnonzero(np.isfinite(filtered[index])))
        assert kept == naive_kept(logits[index].astype(np.float64), top_k, top_p)
        np.testing.assert_array_equal(filtered[index][list(kept)], logits[index][list(kept)])


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("count", [1, FEW])
@pytest.mark.parametrize(("top_k", "top_p", "kept"), [
    (2, 1.0, [1, 2, 4]), (4, 1.0, [0, 1, 2, 4]), (0, 0.5, [1, 2, 4]), (1, 1.0, [4]), (0, 1.0, [0, 1, 2, 4, 5])])
def test_ties_at_the_edge_stay_in(count, top_k, top_p, kept):
    logits = jnp.tile(jnp.array([-1.0, 0.5, 0.5, -jnp.inf, 1.0, -70.0]), (count, 1))
    filtered = keep_likely(logits, jnp.int32(top_k), jnp.float32(top_p))
    np.testing.assert_array_equal(np.isfinite(filtered), np.tile(np.isin(np.arange(6), kept), (count, 1)))


def test_frequencies_follow_the_tempered_distribution():
    logits = np.array([1.0, 0.0, -1.0, 2.0], np.float32)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(jax.jit(choose)(jnp.tile(logits, (4000, 1, 1)), keys, Choice(temperature=0.5)))[:, 0]
    expected = np.exp(logits / 0.5) / np.exp(logits / 0.5).sum()
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 4000, expected, atol=0.03)


def test_temperature_zero_is_greedy_and_a_song_depends_on_its_own_key_alone():
    logits = np.random.default_rng(0).normal(size=(5, 2, 9)).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), 5)
    np.testing.assert_array_equal(choose(logits, keys, Choice(temperature=0.0)), logits.argmax(-1))
    together = choose(logits, keys, Choice(top_k=4))
    for i in range(5):
        np.testing.assert_array_equal(choose(logits[i:i + 1], keys[i:i + 1], Choice(top_k=4))[0], together[i])


def test_impossible_ids_never_come():
    logits = np.full((50, 1, 6), -np.inf, np.float32)
    logits[..., 4] = -30.0
    drawn = choose(logits, jax.random.split(jax.random.key(0), 50), Choice(top_k=3, top_p=0.5))
    assert (np.asarray(drawn) == 4).all()
