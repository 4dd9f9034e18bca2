"""Attention against a loop over queries, in the direct and in the chunked form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autosong_jax.models import attention as module
from autosong_jax.models.attention import attention


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


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("lengths", [None, (13, 0)])
def test_attention_equals_a_loop(monkeypatch, chunked, causal, window, lengths):
    if window is not None and lengths is not None:
        pytest.skip("a window wholly past the length has no defined result")
    if chunked:
        monkeypatch.setattr(module, "MAX_SCORES", 0)
        monkeypatch.setattr(module, "CHUNK", 4)
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 13, 3, 4)).astype(np.float32) for _ in range(3))
    lengths = None if lengths is None else np.array(lengths)

    def loss(q, k, v):
        out = attention(q, k, v, causal=causal, window=window, lengths=lengths)
        return jnp.square(out).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    np.testing.assert_allclose(out, naive(q, k, v, causal, window, lengths), atol=1e-5)
    monkeypatch.undo()
    expected = jax.grad(lambda *a: loss(*a)[0], argnums=(0, 1, 2))(q, k, v)
    for gradient, reference in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, reference, atol=1e-5)
