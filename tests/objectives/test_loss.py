"""The loss and its gradient, codebook by codebook, against PyTorch's over all logits; and the memory that it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autosong_jax.objectives.loss import codebook_sums

B, S, K, V, D = 2, 7, 3, 11, 5


def random_inputs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(B, S, D)).astype(np.float32)
    heads = rng.normal(size=(K, D, V)).astype(np.float32)
    targets = rng.integers(V, size=(B, S, K)).astype(np.int32)
    mask = rng.random((B, S, K)) < 0.7
    targets[~mask] = V  # the special id, for which there is no logit
    return x, heads, targets, mask


def test_loss_and_gradients_equal_pytorchs():
    import torch

    x, heads, targets, mask = random_inputs()
    normalizer = K * mask.sum(axis=(0, 1)).astype(np.float32)
    (loss, sums), gradients = jax.jit(jax.value_and_grad(
        lambda x, heads: codebook_sums(x, heads, targets, mask, normalizer), (0, 1), has_aux=True))(x, heads)
    tx, theads = torch.tensor(x, requires_grad=True), torch.tensor(heads, requires_grad=True)
    labels = torch.tensor(np.where(mask, targets, -100)).long()
    logits = torch.einsum("bsd,kdv->bskv", tx, theads)
    each = [torch.nn.functional.cross_entropy(logits[:, :, k].reshape(-1, V), labels[:, :, k].reshape(-1))
            for k in range(K)]
    expected = sum(each) / K
    assert float(loss) == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(sums["cross_entropy"] / sums["count"], [e.item() for e in each], rtol=1e-6)
    correct = (logits.argmax(dim=-1) == labels).sum(dim=(0, 1))
    np.testing.assert_array_equal(sums["correct"], correct)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, (tx, theads)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_gradient_scales_with_what_is_made_of_the_loss():
    x, heads, targets, mask = random_inputs()
    ones = np.ones(K, np.float32)
    plain = jax.grad(lambda x: codebook_sums(x, heads, targets, mask, ones)[0])(x)
    squared = jax.grad(lambda x: codebook_sums(x, heads, targets, mask, ones)[0] ** 2)(x)
    loss, _ = codebook_sums(x, heads, targets, mask, ones)
    np.testing.assert_allclose(squared, 2 * loss * plain, rtol=1e-5)


def test_correct_counts_the_most_probable_code(states_and_heads):
    logits = np.zeros((1, 2, 1, 3), np.float32)
    logits[0, 0, 0, 2] = logits[0, 1, 0, 1] = 1
    _, sums = codebook_sums(*states_and_heads(logits), np.array([[[2], [0]]]), np.ones((1, 2, 1), bool), np.ones(1))
    assert sums["correct"][0] == 1 and sums["count"][0] == 2


def test_the_logits_of_one_codebook_are_in_memory_at_a_time():
    steps, codebooks, size = 500, 8, 512
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in [
        ((1, steps, 16), jnp.float32), ((codebooks, 16, size), jnp.float32), ((1, steps, codebooks), jnp.int32),
        ((1, steps, codebooks), bool), ((codebooks,), jnp.float32)]]
    grad = jax.jit(jax.grad(lambda *x: codebook_sums(*x)[0], (0, 1)))
    of_one = 4 * steps * size
    assert grad.lower(*shapes).compile().memory_analysis().temp_size_in_bytes < 4 * of_one < codebooks * of_one
