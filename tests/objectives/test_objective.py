"""The next-step objective, its loss and its report against loops over frames and codebooks."""

import jax.numpy as jnp
import numpy as np
import pytest

from autosong_jax.codebooks.patterns import get_pattern
from autosong_jax.objectives.loss import codebook_sums
from autosong_jax.objectives.next_step import NextStep

B, T, K, V = 3, 5, 2, 7


def next_step(frames, num_frames, song_ends, pattern):
    batch = {"frames": jnp.asarray(frames), "num_frames": np.array(num_frames), "song_ends": np.array(song_ends)}
    examples, shared = NextStep(pattern, V).examples(batch, stage=None, keys=None, step=None)
    assert shared.local is None
    return examples, shared


@pytest.mark.parametrize("pattern_name", ["delay", "flatten", "parallel", "coarse_first"])
@pytest.mark.parametrize("end_of_song", [False, True])
def test_loss_is_the_mean_over_codebooks_of_the_mean_over_valid_frames(
        pattern_name, end_of_song, states_and_heads):
    rng = np.random.default_rng(0)
    pattern = get_pattern(pattern_name, T, K)
    codes = rng.integers(0, V, (B, T, K))
    num_frames = [T, 3, 0]
    examples, shared = next_step(codes, num_frames, [False, end_of_song, False], pattern)
    if end_of_song:
        codes[1, 3] = V  # the frame after the last says that the song is over
        num_frames[1] = 4
    logits = rng.normal(size=(B, pattern.num_steps - 1, K, V + end_of_song))
    loss, sums = codebook_sums(
        *states_and_heads(logits), examples.targets, examples.mask, shared.normalizer)

    losses = [[] for _ in range(K)]
    for b in range(B):
        for t in range(num_frames[b]):
            for k in range(K):
                at = logits[b, pattern.steps[t, k] - 1, k]
                losses[k].append(np.log(np.exp(at).sum()) - at[codes[b, t, k]])
    expected = np.mean([np.mean(codebook) for codebook in losses])
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(sums["count"], [len(codebook) for codebook in losses])
    report = NextStep(pattern, V).summarize(sums)
    assert report["loss"] == pytest.approx(expected, rel=1e-5)
    assert report["perplexity"] == pytest.approx(np.exp(expected), rel=1e-4)
    assert report["targets"] == sum(map(len, losses))
    assert report["loss_1"] == pytest.approx(np.mean(losses[1]), rel=1e-5)


def test_padding_is_neither_target_nor_input():
    pattern = get_pattern("delay", T, K)
    codes = np.random.default_rng(0).integers(0, V, (B, T, K))
    window = [T, 3, 0], [False, True, False]
    one, _ = next_step(codes, *window, pattern)
    codes[1, 3:], codes[2] = 0, 1
    other, _ = next_step(codes, *window, pattern)
    np.testing.assert_array_equal(one.inputs, other.inputs)
    np.testing.assert_array_equal(one.targets, other.targets)
    assert not one.mask[2].any() and (one.inputs[2] == V).all()
