"""Scheduled sampling against a loop over steps and codebooks that calls the model plainly."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax.codebooks.patterns import get_pattern
from autosong_jax.data.dataset import SongDataset, train_batches
from autosong_jax.layers.transformer import TransformerConfig
from autosong_jax.models.build import build_model
from autosong_jax.models.frames import CodeFrames
from autosong_jax.models.song import SongModel
from autosong_jax.objectives.codes import CodeObjective
from autosong_jax.objectives.next_step import NextStep
from autosong_jax.parallel.sharding import make_mesh
from autosong_jax.sources.memory import Memory
from autosong_jax.sources.text.module import StateSource
from autosong_jax.training.step import make_trainer
from autosong_jax.workdir.workdir import window_pattern

B, T, K, V, M = 3, 7, 2, 9, 4
KEYS = jax.random.split(jax.random.key(5), B)


@functools.cache
def setting(fusion, pattern_name):
    """A model that knows of the end, with heads that say something; a memory; and a batch in which song 1 ends."""
    rngs = nnx.Rngs(0)
    decoder = TransformerConfig(width=16, heads=2, layers=1, mlp_width=32, dropout=0.5)
    model = SongModel(functools.partial(CodeFrames, K, V, True), decoder, fusion,
                      {"text": StateSource(6, 16, "float32", rngs=rngs)}, rngs=rngs)
    model.frames.heads[...] = 4 * model.frames.heads[...]
    rng = np.random.default_rng(0)
    memory = Memory(jnp.asarray(rng.normal(size=(B, M, 16)), jnp.float32), jnp.array([M, 2, 0]),
                    jnp.zeros((B, M), jnp.int32), jnp.tile(jnp.arange(M), (B, 1)))
    batch = {"frames": jnp.asarray(rng.integers(0, V, (B, T, K))), "num_frames": jnp.array([T, 4, 0]),
             "song_ends": jnp.array([False, True, False])}
    return model, memory, batch, get_pattern(pattern_name, T, K)


def naive_inputs(model, memory, examples, share):
    """What the second pass reads, and how many codes of it are drawn."""
    inputs = np.array(examples.inputs)
    logits = np.asarray(nnx.jit(lambda model, inputs: model(inputs, memory))(model, examples.inputs), np.float64)
    mixed, count = inputs.copy(), 0
    for b in range(B):
        chance, place = np.asarray(jax.random.uniform(KEYS[b], (2, *inputs.shape[1:])))
        for s, k in np.ndindex(inputs.shape[1:]):
            if inputs[b, s, k] < V and chance[s, k] < share:
                probabilities = np.exp(logits[b, s - 1, k, :V] - logits[b, s - 1, k, :V].max())
                mass = np.cumsum(probabilities / probabilities.sum())
                mixed[b, s, k] = next(code for code in range(V) if place[s, k] < mass[code])
                count += 1
    return mixed, count


@pytest.mark.parametrize(("fusion", "pattern_name", "share"), [
    ("cross", "delay", 1.0), ("cross", "flatten", 0.5), ("prefix", "delay", 1.0)])
def test_the_loss_is_that_of_a_loop(fusion, pattern_name, share):
    model, memory, batch, pattern = setting(fusion, pattern_name)
    objective = NextStep(pattern, V, share)
    examples, shared = objective.examples(batch, 0, KEYS, jnp.int32(0))
    mixed, count = naive_inputs(model, memory, examples, share)
    codes = np.asarray(examples.inputs) < V
    assert count == codes.sum() if share == 1 else 0 < count < codes.sum()
    np.testing.assert_array_equal(nnx.jit(objective._mixed)(model, examples, memory), mixed)
    assert (mixed[~codes] == V).all() and (mixed[codes] < V).all() and (mixed != examples.inputs).any()

    # The loss, its dropout and its gradients are those of a model that is given these inputs.
    graph, params = nnx.split(model)

    def loss(of, examples, params, states):
        return of.loss(nnx.merge(graph, params), examples, shared, dataclasses.replace(memory, states=states),
                       jax.random.key(2))[0]

    given = dataclasses.replace(examples, inputs=jnp.asarray(mixed), drawn=None)
    ours, theirs = (jax.jit(jax.value_and_grad(functools.partial(loss, of, inputs), (0, 1)))(params, memory.states)
                    for of, inputs in ((objective, examples), (CodeObjective(), given)))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_what_is_drawn_depends_on_the_key_of_the_song_alone():
    _, _, batch, pattern = setting("cross", "delay")
    objective = NextStep(pattern, V, 0.5)
    whole = objective.examples(batch, 0, KEYS, jnp.int32(0))[0].drawn
    for b in range(B):
        alone = objective.examples({name: x[b:b + 1] for name, x in batch.items()}, 0, KEYS[b:b + 1], jnp.int32(0))[0]
        np.testing.assert_array_equal(alone.drawn[0], whole[b])


def test_the_share_grows_in_a_line():
    songs, pattern = 400, get_pattern("delay", T, K)
    batch = {"frames": np.zeros((songs, T, K), np.int32), "num_frames": np.full(songs, T),
             "song_ends": np.zeros(songs, bool)}
    examples = jax.jit(NextStep(pattern, V, 0.4, share_steps=100).examples)
    for step, share in ((0, 0), (25, 0.1), (100, 0.4), (1000, 0.4)):
        made = examples(batch, 0, jax.random.split(jax.random.key(step), songs), jnp.int32(step))[0]
        codes = np.asarray(made.inputs) < V
        assert (made.drawn[codes] >= 0).mean() == pytest.approx(share, abs=0.03)
        assert (made.drawn[~codes] < 0).all()


def test_nothing_is_drawn_in_validation_or_without_a_share(toy_config):
    """Then programs are those without scheduled sampling, letter by letter."""
    def programs(**overrides):
        config = toy_config(sources=False, **overrides)
        dataset = SongDataset(config.data.path, "train")
        pattern = window_pattern(config, dataset.codec)
        trainer = make_trainer(config, lambda rngs: build_model(config, dataset.codec, dataset.text, rngs=rngs),
                               pattern, make_mesh(config.mesh))
        batch = train_batches(dataset, batch_size=8, frames=len(pattern.steps), seed=0, end_of_song=True,
                              sources=config.sources)[0]
        return (trainer.train_step.lower(trainer.abstract, trainer.frozen, batch).as_text(),
                trainer.eval_step.lower(trainer.abstract.params, trainer.frozen, batch).as_text())

    plain, without, with_share = programs(), programs(**{"objective.scheduled_sampling_steps": 3}), programs(
        **{"objective.scheduled_sampling": 0.5})
    assert plain == without
    assert with_share[1] == plain[1] and with_share[0] != plain[0]
