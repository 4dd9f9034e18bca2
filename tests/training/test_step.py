"""The training step: many devices against one, accumulation against one batch, and what each part of it changes."""

import re

import jax
import ml_collections
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from autosong_jax.data.dataset import SongDataset, train_batches
from autosong_jax.models.build import build_model
from autosong_jax.parallel.sharding import AXES, make_mesh, put_batch
from autosong_jax.training.step import make_trainer
from autosong_jax.weights.trainable import partition
from autosong_jax.workdir.workdir import window_pattern


def run_steps(config, mesh, steps=3):
    """The state and the sums of every step, as numpy; what is not trained must come out of it as it was."""
    return make_run(config, mesh)(steps)


def make_run(config, mesh):
    """`run_steps` of one trainer, from the beginning each time it is called."""
    dataset = SongDataset(config.data.path, "train")
    pattern = window_pattern(config, dataset.codec)
    trainer = make_trainer(
        config, lambda rngs: build_model(config, dataset.codec, dataset.text, rngs=rngs), pattern, mesh)
    batches = train_batches(
        dataset, batch_size=config.data.batch_size, frames=pattern.num_frames, seed=0,
        end_of_song=config.data.end_of_song, sources=config.sources)

    def run(steps=3):
        trained, frozen = partition(trainer.fresh(config.seed, {}), config.train.trainable)
        before = jax.tree.map(np.array, frozen)
        frozen = jax.tree.map(lambda x, target: x.astype(target.dtype), frozen, trainer.frozen)
        state, sums = trainer.init(trained), []
        for step in range(steps):
            state, new = trainer.train_step(state, frozen, put_batch(batches[step], mesh))
            sums.append(jax.device_get(new))
        jax.tree.map(lambda x, old: np.testing.assert_array_equal(x, old.astype(x.dtype)), frozen, before)
        return state, sums

    return run


def mesh_of(data, fsdp, tensor):
    devices = np.array(jax.devices()[: data * fsdp * tensor]).reshape(data, fsdp, tensor)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)


def assert_close(one, other, tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(a - b).max() <= tolerance * max(np.abs(a).max(), 1e-3)


@pytest.fixture(scope="module")
def reference(toy_config):
    # SGD-like updates: Adam divides tiny gradients by their own size, which blows rounding up to the learning rate.
    return run_steps(toy_config(**{"optimizer.eps": 1e-2}), mesh_of(1, 1, 1))


def test_eight_devices_equal_one(toy_config, reference):
    """Cut in every way; that other cuts give the same losses, tests of elastic runs show."""
    state, sums = run_steps(toy_config(**{"optimizer.eps": 1e-2}), mesh_of(2, 2, 2))
    assert_close(sums, reference[1], 1e-5)
    assert_close(state.params, reference[0].params, 1e-5)
    up = state.params["decoder"]["blocks"]["mlp"]["up"]["kernel"]
    assert up.addressable_shards[0].data.size * 2 * 2 == up.size
    mu = state.optimizer[1][0].mu["decoder"]["blocks"]["mlp"]["up"]["kernel"]
    assert mu.sharding == up.sharding


def test_no_device_computes_the_whole_batch(toy_config):
    # Nothing else is 88 long, nor is a length times the songs of a device.
    config = toy_config(**{"data.batch_size": 88, "train.remat": "full", "sources.genre.max_length": 5})
    mesh = mesh_of(2, 2, 2)
    dataset = SongDataset(config.data.path, "train")
    pattern = window_pattern(config, dataset.codec)
    trainer = make_trainer(
        config, lambda rngs: build_model(config, dataset.codec, dataset.text, rngs=rngs), pattern, mesh)
    batch = train_batches(dataset, batch_size=88, frames=pattern.num_frames, seed=0, end_of_song=True,
                          sources=config.sources)[0]
    program = trainer.train_step.lower(trainer.abstract, trainer.frozen, batch).compile().as_text()
    arrays = re.findall(r"(?:f32|bf16)\[([\d,]+)\]", program)
    assert str(88 // (2 * 2)) in {array.split(",")[0] for array in arrays}
    assert not [array for array in arrays if "88" in array.split(",")]


def test_eight_devices_equal_one_with_lora_and_frozen_parameters(toy_config):
    config = toy_config(sources=False, **{"optimizer.eps": 1e-2, "lora.rank": 4,
                                          "train.trainable": ("lora_", "frames")})
    one, sums_of_one = run_steps(config, mesh_of(1, 1, 1))
    state, sums = run_steps(config, mesh_of(2, 2, 2))
    assert_close(sums, sums_of_one, 1e-5)
    assert_close(state.params, one.params, 1e-5)
    assert np.any(np.asarray(state.params["decoder"]["blocks"]["self_attention"]["q"]["lora_b"]))
    # Bfloat16 throughout, the frozen matrices among it: the same but for rounding.
    config.model.dtype = "bfloat16"
    _, sums_in_bfloat16 = run_steps(config, mesh_of(1, 1, 1))
    for a, b in zip(sums_in_bfloat16, sums_of_one, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-2)


def test_accumulation_equals_one_batch(toy_config, reference):
    state, sums = run_steps(toy_config(**{"optimizer.eps": 1e-2, "train.accumulation": 4}), mesh_of(1, 1, 1))
    assert_close(sums, reference[1], 1e-5)
    assert_close(state.params, reference[0].params, 1e-5)


def test_both_objectives_in_turns_are_the_same_on_eight_devices_and_in_parts(toy_config):
    config = toy_config(sources=False, **{
        "optimizer.eps": 1e-2, "objective.name": "both", "objective.scheduled_sampling": 0.5,
        "objective.scheduled_sampling_steps": 2})
    one, sums_of_one = run_steps(config, mesh_of(1, 1, 1), steps=4)
    config.train.accumulation = 2
    state, sums = run_steps(config, mesh_of(2, 2, 1), steps=4)
    assert_close(sums, sums_of_one, 1e-5)
    assert_close(state.params, one.params, 1e-5)
    # The steps of a pattern teach all codebooks, those of a mask one.
    assert [np.count_nonzero(s["count"]) for s in sums] == [3, 1, 3, 1]


def test_the_average_follows_the_parameters(toy_config):
    config = toy_config(sources=False, **{"train.ema_every": 1, "train.ema_decay": 0.5})
    run = make_run(config, mesh_of(1, 1, 1))
    (first, _), (initial, _) = run(1), run(0)
    decay = 2 / 11
    expected = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, initial.params, first.params)
    assert_close(first.ema, expected, 1e-6)


def test_dropout_and_dropped_conditions_differ_from_step_to_step_but_not_from_run_to_run(toy_config):
    config = toy_config(**{"model.dropout": 0.3, "sources.lyrics.dropout": 0.5, "optimizer.learning_rate": 0.0})
    run = make_run(config, mesh_of(1, 1, 1))
    (_, one), (_, two) = run(), run()
    assert [s["loss"] for s in one] == [s["loss"] for s in two]


@pytest.mark.parametrize(("sizes", "word"), [((3, -1, 1), "8 devices"), ((1, 2, 2), "8 devices"), ((-1, -1, 1), "8")])
def test_a_mesh_that_does_not_fit_is_named(sizes, word):
    from autosong_jax.errors import UserError

    with pytest.raises(UserError, match=word):
        make_mesh(ml_collections.ConfigDict(dict(zip(AXES, sizes, strict=True))))
