"""The masked objective against a loop over songs and frames, and its loss against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autosong_jax.codebooks.masking import random_mask
from autosong_jax.objectives.masked_spans import MaskedSpans
from autosong_jax.objectives.objective import codebook_sums

B, T, K, V = 4, 23, 3, 9
NUM_FRAMES = np.array([T, 10, 1, 0])


@pytest.fixture(scope="module")
def codes():
    codes = np.random.default_rng(0).integers(0, V, (B, T, K))
    for song, frames in enumerate(NUM_FRAMES):
        codes[song, frames:] = V
    codes[1, 9] = V  # song 1 ends in its window
    return codes


def make(codes, stage, seed=0, num_frames=NUM_FRAMES):
    objective = MaskedSpans(K, V, span_length=3)
    return jax.jit(objective.examples)(codes, num_frames, stage, jax.random.split(jax.random.key(seed), len(codes)))


@pytest.mark.parametrize("stage", range(K))
def test_examples_equal_a_loop(codes, stage):
    examples, local = make(codes, stage)
    assert bool(local) == (stage > 0)
    hidden = 0
    for b, t, k in np.ndindex(B, T, K):
        read, counts = int(examples.inputs[b, t, k]), bool(examples.mask[b, t, k])
        if t >= NUM_FRAMES[b] or k > stage:
            assert read == V and not counts
        elif k < stage:
            assert read == codes[b, t, k] and not counts
        elif codes[b, t, k] < V:
            assert (read == V) == counts and read in (V, codes[b, t, k])
            hidden += counts
        else:  # the end of the song, of which the first codebook alone speaks
            assert read == V and (stage == 0 or not counts)
        if counts:
            assert examples.targets[b, t, k] == codes[b, t, k]
    assert hidden > 0


def test_what_is_hidden_is_drawn_for_each_song_from_its_key_alone(codes):
    keys = jax.random.split(jax.random.key(0), B)
    objective = MaskedSpans(K, V, span_length=3)
    whole, _ = objective.examples(codes, NUM_FRAMES, 1, keys)
    for b in range(B):
        alone, _ = objective.examples(codes[b:b + 1], NUM_FRAMES[b:b + 1], 1, keys[b:b + 1])
        np.testing.assert_array_equal(alone.inputs[0], whole.inputs[b])
        time_key, span_key = jax.random.split(keys[b])
        hidden = random_mask(span_key, jnp.cos(jnp.pi / 2 * jax.random.uniform(time_key)), T, 3)
        valid = (np.arange(T) < NUM_FRAMES[b]) & (codes[b, :, 0] < V)
        np.testing.assert_array_equal(whole.mask[b, :, 1], np.asarray(hidden) & valid)


def test_the_mean_share_over_many_songs_is_that_of_a_cosine():
    codes = np.zeros((3000, 60, K), np.int32)
    examples, _ = make(codes, 0, num_frames=np.full(3000, 60))
    # The integral of cos(pi t / 2) over t is 2 / pi; a rate is rounded up to a number of spans.
    assert examples.mask[:, 2:, 0].mean() == pytest.approx(2 / np.pi, abs=0.02)


@pytest.mark.parametrize("stage", range(K))
def test_loss_equals_pytorchs_cross_entropy(codes, stage):
    import torch

    examples, _ = make(codes, stage, seed=stage)
    logits = np.random.default_rng(1).normal(size=(B, T, K, V + 1)).astype(np.float32)
    sums = codebook_sums(jnp.asarray(logits), examples.targets, examples.mask)
    ours = (sums["cross_entropy"] / examples.normalizer()).sum()
    labels = torch.tensor(np.where(examples.mask, codes, -100))[:, :, stage].reshape(-1)
    theirs = torch.nn.functional.cross_entropy(torch.tensor(logits[:, :, stage]).reshape(-1, V + 1), labels)
    assert float(ours) == pytest.approx(theirs.item(), rel=1e-5)


def test_padding_changes_nothing(codes):
    other = np.where(np.arange(T)[:, None] < NUM_FRAMES[:, None, None], codes, 0)
    for stage in range(K):
        one, two = make(codes, stage)[0], make(other, stage)[0]
        np.testing.assert_array_equal(one.inputs, two.inputs)
        np.testing.assert_array_equal(one.mask, two.mask)
