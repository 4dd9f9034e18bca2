"""Checkpoints as files, beside what `tests/training` and `tests/parallel` say of runs that write them."""

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from autosong_jax.data.dataset import SongDataset
from autosong_jax.models.build import build_model
from autosong_jax.parallel.sharding import make_mesh
from autosong_jax.training.step import make_trainer
from autosong_jax.weights.parameters import as_filed, from_filed
from autosong_jax.workdir import checkpoints
from autosong_jax.workdir.checkpoints import Checkpoints
from autosong_jax.workdir.workdir import window_pattern


@pytest.fixture(scope="module")
def config(toy_config):
    return toy_config(**{"train.ema_every": 1})


@pytest.fixture(scope="module")
def trainer(config):
    dataset = SongDataset(config.data.path, "train")
    return make_trainer(config, lambda rngs: build_model(config, dataset.codec, dataset.text, rngs=rngs),
                        window_pattern(config, dataset.codec), make_mesh(config.mesh))


@pytest.fixture(scope="module")
def state(trainer):
    """No two of its arrays are the same."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x, sharding: jax.device_put(rng.normal(size=x.shape).astype(x.dtype), sharding),
                        trainer.abstract, trainer.shardings)


def before_adapters(params):
    """The tree that models had whose tables and heads were their own."""
    assert set(params) == {"conditions", "decoder", "frames"}
    return {"conditions": params["conditions"], "decoder": params["decoder"],
            "embeddings": params["frames"]["embeddings"], "heads": params["frames"]["heads"]}


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_checkpoints_of_models_without_a_frame_adapter_load(config, trainer, state, tmp_path):
    clip, (adam, *rest), *others = state.optimizer
    adam = adam._replace(mu=before_adapters(adam.mu), nu=before_adapters(adam.nu))
    items = {"params": before_adapters(state.params), "ema": before_adapters(state.ema),
             "optimizer": (clip, (adam, *rest), *others)}
    with ocp.training.Checkpointer((tmp_path / "checkpoints").absolute()) as checkpointer:
        checkpointer.save_checkpointables(3, items)
    restored = Checkpoints(tmp_path).restore(trainer.abstract, trainer.shardings, 3)
    assert_equal((restored.params, restored.ema, restored.optimizer), (state.params, state.ema, state.optimizer))
    weights, step = checkpoints.load_weights(tmp_path, config, trainer.abstract.params)
    assert step == 3
    assert_equal(weights, state.ema)


def test_files_are_as_before_there_were_adapters(trainer, state, tmp_path):
    written = Checkpoints(tmp_path)
    written.save(state, 2)
    written.wait()
    written.close()
    for item in ("params", "ema"):
        assert_equal(ocp.load_checkpointables(tmp_path.absolute() / "checkpoints" / "2")[item],
                     before_adapters(getattr(state, item)))


@pytest.mark.parametrize("tree", [
    {"decoder": {"norm": 1}},
    {"decoder": {"norm": 1}, "frames": {"heads": 2}},
    {"frames": {"embeddings": 1}},
    ({"frames": {"embeddings": 1, "heads": 2}, "decoder": {"frames": 3}}, 4, ()),
    {},
])
def test_trees_with_some_of_the_parameters_come_back_as_they_were(tree):
    assert from_filed(as_filed(tree), tree) == tree
    assert not any("frames" in part for part in jax.tree.leaves(as_filed(tree), is_leaf=lambda x: isinstance(x, dict))
                   if isinstance(part, dict))
