"""Attention against a loop over queries: whole, in blocks, within a window; and what it costs."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autosong_jax.layers import attention as module
from autosong_jax.layers import platform as platforms
from autosong_jax.layers.attention import attention
from autosong_jax.layers.blockwise import blockwise


def naive(q, k, v, causal, window, lengths):
    out = np.zeros(q.shape, np.float64)
    for b, i, h in np.ndindex(*q.shape[:3]):
        seen = [j for j in range(k.shape[1]) if (not causal or j <= i) and (window is None or abs(i - j) <= window)
                and (lengths is None or j < lengths[b])]
        if seen:
            scores = k[b, seen, h] @ q[b, i, h] / np.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max())
            out[b, i, h] = (weights / weights.sum()) @ v[b, seen, h]
    return out


def gradients(function, q, k, v):
    """The result and the gradients of the sum of its squares."""
    def loss(q, k, v):
        out = function(q, k, v)
        return jnp.square(out).sum(), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return [out, *grads]


def random_inputs(steps):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(2, steps, 3, 4)).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [None, (13, 0)])
def test_attention_equals_a_loop_whole_and_in_blocks(monkeypatch, causal, lengths):
    q, k, v = random_inputs(13)
    lengths = None if lengths is None else np.array(lengths)

    def attend(q, k, v):
        return attention(q, k, v, causal=causal, lengths=lengths)

    whole = gradients(attend, q, k, v)
    monkeypatch.setattr(module, "FEW_SCORES", 0)
    monkeypatch.setattr(module, "LARGEST", 4)
    np.testing.assert_allclose(whole[0], naive(q, k, v, causal, None, lengths), atol=1e-5)
    for one, other in zip(gradients(attend, q, k, v), whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(("queries", "keys"), [(9, 4), (3, 21), (8, 8)])
@pytest.mark.parametrize("lengths", [(2, 1), (4, 3)])
def test_attention_to_a_memory_in_blocks_equals_a_loop(queries, keys, lengths):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, n, 3, 4)).astype(np.float32) for n in (queries, keys, keys))
    lengths = np.array(lengths)
    out, *grads = gradients(lambda q, k, v: blockwise(q, k, v, lengths, False, 4), q, k, v)
    np.testing.assert_allclose(out, naive(q, k, v, False, None, lengths), atol=1e-5)
    for one, other in zip(grads, gradients(lambda *x: attention(*x, lengths=lengths), q, k, v)[1:], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(("queries", "keys", "causal"), [(13, 13, True), (12, 12, True), (7, 5, False), (6, 4, False)])
@pytest.mark.parametrize("lengths", [None, (3, 0)])
def test_what_cudnn_is_given_is_even_and_its_result_the_same(monkeypatch, queries, keys, causal, lengths):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, n, 3, 8)).astype(jnp.bfloat16) for n in (queries, keys, keys))
    lengths = None if lengths is None else np.array(lengths)

    def attend(q, k, v):
        return attention(q, k, v, causal=causal, lengths=lengths)

    def stand_in(q, k, v, *, implementation, **options):
        assert implementation == "cudnn" and q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0
        return xla(q, k, v, implementation="xla", **options)

    expected = gradients(attend, *(x.astype(np.float32) for x in (q, k, v)))
    xla = jax.nn.dot_product_attention
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    for one, other in zip(gradients(attend, q, k, v), expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one.astype(np.float32), other, atol=0.03 * np.abs(other).max())


@pytest.mark.parametrize(("capability", "asked"), [("7.5", False), ("8.0", True), ("12.0", True)])
def test_only_gpus_that_have_it_are_asked_for_cudnns_attention(monkeypatch, capability, asked):
    x = jnp.ones((1, 4, 2, 8), jnp.bfloat16)
    expected, calls = attention(x, x, x, causal=True), []
    monkeypatch.setattr(platforms, "_on_cuda", lambda: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(compute_capability=capability)])
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, k, v, **_: calls.append(q) or expected)
    np.testing.assert_array_equal(attention(x, x, x, causal=True), expected)
    assert bool(calls) == asked


def test_the_memory_of_attention_grows_with_the_length_alone():
    def megabytes(steps):
        x = jax.ShapeDtypeStruct((1, steps, 2, 8), jnp.float32)
        grad = jax.grad(lambda q, k, v: attention(q, k, v, causal=True).sum(), argnums=(0, 1, 2))
        return jax.jit(grad).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes / 1e6

    assert megabytes(18_000) < 1.1 * 4 * megabytes(4500)


@pytest.mark.parametrize(("steps", "window", "causal", "lengths"), [
    (1, 5, False, False), (4, 9, False, True), (31, 0, False, False), (32, 1, True, True), (33, 5, False, True),
    (70, 5, False, False), (97, 40, True, False), (131, 17, False, True)])
def test_a_window_equals_masked_full_attention(steps, window, causal, lengths):
    q, k, v = random_inputs(steps)
    # A query whose window lies wholly in the padding has no defined result: those are left out.
    lengths = np.array([steps, max(steps - window // 2, 1)]) if lengths else None
    i, j = np.arange(steps)[:, None], np.arange(steps)
    seen = (np.abs(i - j) <= window) & ((j <= i) | (not causal))
    seen = seen[None] & (True if lengths is None else j < lengths[:, None, None])
    defined = seen.any(axis=-1)[..., None, None]

    def masked(q, k, v):
        scores = jnp.einsum("bqhd,bnhd->bhqn", q, k) / 2
        weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -1e30), axis=-1)
        return defined * jnp.einsum("bhqn,bnhd->bqhd", weights, v)

    def windowed(q, k, v):
        return defined * attention(q, k, v, causal=causal, window=window, lengths=lengths)

    expected = gradients(masked, q, k, v)
    np.testing.assert_allclose(expected[0], naive(q, k, v, causal, window, lengths), atol=1e-5)
    for one, other in zip(gradients(windowed, q, k, v), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_traced_flag_switches_the_window_within_one_program():
    inputs = random_inputs(40)
    function = jax.jit(lambda local: gradients(lambda *x: attention(*x, window=3, local=local), *inputs))
    for local, window in [(True, 3), (False, None)]:
        expected = gradients(lambda *x, window=window: attention(*x, window=window), *inputs)
        np.testing.assert_allclose(expected[0], naive(*inputs, False, window, None), atol=1e-5)
        for one, other in zip(function(local), expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert function._cache_size() == 1


def test_a_window_on_a_gpu_is_left_to_xla(monkeypatch):
    # jax.nn.dot_product_attention refuses windows on both sides with cuDNN, and cuDNN lacks a GPU here.
    inputs = [jnp.asarray(x, jnp.bfloat16) for x in random_inputs(40)]
    expected = attention(*inputs, window=3)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_array_equal(attention(*inputs, window=3), expected)


def test_the_memory_of_a_window_grows_with_the_length_alone():
    def megabytes(steps):
        x = jax.ShapeDtypeStruct((1, steps, 2, 8), jnp.float32)
        grad = jax.grad(lambda q, k, v: attention(q, k, v, window=5).sum(), argnums=(0, 1, 2))
        return jax.jit(grad).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes / 1e6

    small, large = megabytes(1500), megabytes(18_000)
    assert large < 1.1 * 12 * small
    assert large < 0.02 * 2 * 4 * 18_000**2 / 1e6  # the scores of full attention alone
