"""The masked objective against a loop over songs and frames, and its loss against PyTorch's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax.codebooks.masking import random_mask
from autosong_jax.layers.transformer import TransformerConfig
from autosong_jax.models.frames import CodeFrames
from autosong_jax.models.song import SongModel
from autosong_jax.objectives.loss import codebook_sums
from autosong_jax.objectives.masked_spans import MaskedSpans
from autosong_jax.sources.memory import Memory
from autosong_jax.sources.text.module import StateSource

B, T, K, V = 4, 23, 3, 9
ENDS = np.array([False, True, False, False])  # song 1 ends in its window
NUM_FRAMES = np.array([T, 10, 1, 0])  # with its end


@pytest.fixture(scope="module")
def codes():
    codes = np.random.default_rng(0).integers(0, V, (B, T, K))
    for song, frames in enumerate(NUM_FRAMES - ENDS):
        codes[song, frames:] = V
    return codes


def batch_of(codes, num_frames=NUM_FRAMES, ends=ENDS):
    return {"frames": codes, "num_frames": num_frames - ends, "song_ends": ends}


def make(batch, stage, seed=0):
    """Examples, and whether the model is to see only what is near."""
    keys = jax.random.split(jax.random.key(seed), len(batch["frames"]))
    return jax.jit(MaskedSpans(K, V, span_length=3).examples)(batch, stage, keys, None)


@pytest.mark.parametrize("stage", range(K))
def test_examples_equal_a_loop(codes, stage):
    examples, shared = make(batch_of(codes), stage)
    assert bool(shared.local) == (stage > 0)
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
    whole, _ = objective.examples(batch_of(codes), 1, keys, None)
    for b in range(B):
        alone, _ = objective.examples({name: x[b:b + 1] for name, x in batch_of(codes).items()}, 1, keys[b:b + 1],
                                      None)
        np.testing.assert_array_equal(alone.inputs[0], whole.inputs[b])
        time_key, span_key = jax.random.split(keys[b])
        hidden = random_mask(span_key, jnp.cos(jnp.pi / 2 * jax.random.uniform(time_key)), T, 3)
        valid = (np.arange(T) < NUM_FRAMES[b]) & (codes[b, :, 0] < V)
        np.testing.assert_array_equal(whole.mask[b, :, 1], np.asarray(hidden) & valid)


def test_the_mean_share_over_many_songs_is_that_of_a_cosine():
    codes = np.zeros((3000, 60, K), np.int32)
    examples, _ = make(batch_of(codes, np.full(3000, 60), np.zeros(3000, bool)), 0)
    # The integral of cos(pi t / 2) over t is 2 / pi; a rate is rounded up to a number of spans.
    assert examples.mask[:, 2:, 0].mean() == pytest.approx(2 / np.pi, abs=0.02)


@pytest.mark.parametrize("stage", range(K))
def test_loss_equals_pytorchs_cross_entropy(codes, stage, states_and_heads):
    import torch

    examples, shared = make(batch_of(codes), stage, seed=stage)
    logits = np.random.default_rng(1).normal(size=(B, T, K, V + 1)).astype(np.float32)
    ours, _ = codebook_sums(*states_and_heads(logits), examples.targets, examples.mask, shared.normalizer)
    labels = torch.tensor(np.where(examples.mask, codes, -100))[:, :, stage].reshape(-1)
    theirs = torch.nn.functional.cross_entropy(torch.tensor(logits[:, :, stage]).reshape(-1, V + 1), labels)
    assert float(ours) == pytest.approx(theirs.item(), rel=1e-5)


def test_padding_changes_nothing(codes):
    other = np.where(np.arange(T)[:, None] < (NUM_FRAMES - ENDS)[:, None, None], codes, 0)
    for stage in range(K):
        one, two = make(batch_of(codes), stage)[0], make(batch_of(other), stage)[0]
        np.testing.assert_array_equal(one.inputs, two.inputs)
        np.testing.assert_array_equal(one.mask, two.mask)


def torch_logits(params, frames, memory, heads, window):
    """What a decoder with the parameters of ours gives for `frames` [B, T, K], with the mask of attention written out.

    `window` is that on each side, or None.
    """
    import torch
    from torch.nn import functional

    p = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), params)
    blocks, frames, memory = p["decoder"]["blocks"], torch.tensor(np.asarray(frames)), torch.tensor(np.asarray(memory))
    steps, width, layers = frames.shape[1], memory.shape[-1], len(blocks["self_norm"]["scale"])
    at = torch.arange(steps)
    seen = torch.ones(steps, steps, dtype=bool) if window is None else (at[:, None] - at).abs() <= window

    def norm(x, name, layer):
        scale, bias = (blocks[name][part][layer] for part in ("scale", "bias"))
        return functional.layer_norm(x, (width,), scale, bias, eps=1e-5)

    def attend(name, layer, x, to, mask):
        q, k, v = (y @ blocks[name][part]["kernel"][layer] for part, y in (("q", x), ("k", to), ("v", to)))
        q, k, v = (y.reshape(len(x), -1, heads, width // heads).transpose(1, 2) for y in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        return out.reshape(len(x), -1, width) @ blocks[name]["out"]["kernel"][layer]

    angles = at[:, None] * 10000.0 ** (-torch.arange(width // 2) / (width // 2 - 1))
    x = torch.cat([angles.cos(), angles.sin()], dim=-1)
    x = x + sum(p["frames"]["embeddings"][k][frames[:, :, k]] for k in range(K))
    for layer in range(layers):
        y = norm(x, "self_norm", layer)
        x = x + attend("self_attention", layer, y, y, seen)
        x = x + attend("cross_attention", layer, norm(x, "cross_norm", layer), memory, None)
        y = functional.gelu(norm(x, "mlp_norm", layer) @ blocks["mlp"]["up"]["kernel"][layer])
        x = x + y @ blocks["mlp"]["down"]["kernel"][layer]
    x = functional.layer_norm(x, (width,), p["decoder"]["norm"]["scale"], p["decoder"]["norm"]["bias"], eps=1e-5)
    return torch.einsum("btd,kdv->btkv", x, p["frames"]["heads"])


def test_the_loss_of_every_stage_equals_that_of_a_decoder_in_pytorch(codes):
    import torch

    rngs = nnx.Rngs(0)
    decoder = TransformerConfig(width=16, heads=2, layers=2, mlp_width=32, window=2)
    frames = functools.partial(CodeFrames, K, V, False)
    model = SongModel(frames, decoder, "cross", {"text": StateSource(6, 16, "float32", rngs=rngs)}, rngs=rngs)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    params = jax.tree.map(lambda x: x + 0.2 * np.random.default_rng(x.size).normal(size=x.shape), params)
    states = jnp.asarray(np.random.default_rng(0).normal(size=(B, 5, 16)), jnp.float32)
    memory = Memory(states, jnp.full(B, 5), jnp.zeros((B, 5), jnp.int32), jnp.tile(jnp.arange(5), (B, 1)))

    @jax.jit
    def loss_of(params, examples, shared):
        model_now = nnx.merge(nnx.graphdef(model), params)
        return MaskedSpans(K, V, span_length=3).loss(model_now, examples, shared, memory, None)[0]

    no_end = np.zeros(B, bool)  # of which this model's heads know nothing
    for stage in range(K):
        examples, shared = make(batch_of(codes % V, ends=no_end), stage)
        logits = torch_logits(params, examples.inputs, memory.states, 2, 2 if stage else None)[:, :, stage]
        labels = torch.tensor(np.where(examples.mask, codes % V, -100))[:, :, stage]
        expected = torch.nn.functional.cross_entropy(logits.reshape(-1, V), labels.reshape(-1))
        assert float(loss_of(params, examples, shared)) == pytest.approx(expected.item(), abs=1e-4)
