"""Checkpoints that outlive their machine: what one number of devices wrote, another reads and goes on with."""

import functools
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from autosong_jax.codecs.info import CodesInfo
from autosong_jax.codecs.table import plain_info
from autosong_jax.data.dataset import SongDataset, train_batches
from autosong_jax.errors import UserError
from autosong_jax.layers.declaration import declarations
from autosong_jax.models.build import abstract_model, build_model
from autosong_jax.parallel.sharding import AXES, make_mesh, put_batch
from autosong_jax.sources.text.encoders import get_text_encoder
from autosong_jax.training.optimizer import make_optimizer
from autosong_jax.training.step import TrainState, make_trainer, state_shardings
from autosong_jax.workdir.checkpoints import Checkpoints
from autosong_jax.workdir.workdir import window_pattern

SHAPES = {"fsdp 8": (1, 8, 1), "data 2 x fsdp 2 x tensor 2": (2, 2, 2), "fsdp 4": (1, 4, 1),
          "data 2 x tensor 2": (2, 1, 2), "tensor 2": (1, 1, 2), "one device": (1, 1, 1)}
CONFIGS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.py"))


def mesh_of(shape):
    devices = jax.devices()[: np.prod(shape)]
    return make_mesh(ml_collections.ConfigDict(dict(zip(AXES, shape, strict=True))), devices)


@pytest.fixture(scope="module")
def config(toy_config):
    return toy_config(sources=False, **{"train.ema_every": 1, "model.dropout": 0.1, "model.layers": 1,
                                        "model.width": 8})


@pytest.fixture(scope="module")
def trainer_of(config):
    dataset = SongDataset(config.data.path, "train")

    @functools.cache
    def make(shape):
        return make_trainer(config, lambda rngs: build_model(config, dataset.codec, dataset.text, rngs=rngs),
                            window_pattern(config, dataset.codec), mesh_of(shape))

    return make


def filled(trainer, step):
    """A state whose every array is another one: no zero could stand for what was not restored."""
    leaves, structure = jax.tree.flatten(trainer.abstract)
    generator = np.random.default_rng(0)
    values = [generator.normal(size=x.shape).astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating)
              else np.full(x.shape, step, x.dtype) for x in leaves]
    return jax.device_put(jax.tree.unflatten(structure, values), trainer.shardings)


def assert_equal_state(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_checkpoint_is_the_same_on_any_number_of_devices(trainer_of, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=9)
    trainer = trainer_of(SHAPES["fsdp 8"])
    original = filled(trainer, step=1)
    checkpoints.save(original, 1)
    checkpoints.wait()
    # From one number of devices to the next, and at last back onto eight.
    route = ["fsdp 4", "data 2 x tensor 2", "tensor 2", "one device", "data 2 x fsdp 2 x tensor 2", "fsdp 8"]
    for step, name in enumerate(route, start=1):
        trainer = trainer_of(SHAPES[name])
        state = checkpoints.restore(trainer.abstract, trainer.shardings, step)
        assert int(state.step) == step
        kept = original.params, original.ema, original.optimizer
        assert_equal_state(kept, (state.params, state.ema, state.optimizer))
        for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(trainer.shardings), strict=True):
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
        checkpoints.save(state, step + 1)
        checkpoints.wait()
    checkpoints.close()


def test_a_run_goes_on_with_fewer_devices_and_with_more_again(config, trainer_of, tmp_path):
    dataset = SongDataset(config.data.path, "train")
    batches = train_batches(
        dataset, batch_size=config.data.batch_size, frames=12, seed=config.seed, end_of_song=True,
        sources=config.sources)
    checkpoints = Checkpoints(tmp_path, keep_last=9)

    def steps(shape, state, first, last):
        trainer, losses = trainer_of(shape), []
        if state is None:
            state = trainer.init(trainer.fresh(config.seed, {}))
        else:
            state = checkpoints.restore(trainer.abstract, trainer.shardings, first)
        for step in range(first, last):
            state, sums = trainer.train_step(state, {}, put_batch(batches[step], trainer.mesh))
            losses.append(float(sums["loss"]))
        checkpoints.save(state, last)
        checkpoints.wait()
        return state, losses

    whole = steps((1, 8, 1), None, 0, 3)[1]
    checkpoints.close()
    (tmp_path / "elastic").mkdir()
    checkpoints = Checkpoints(tmp_path / "elastic", keep_last=9)
    state, losses = steps((1, 8, 1), None, 0, 1)
    for step, shape in ((1, (1, 2, 1)), (2, (2, 2, 2))):
        state, more = steps(shape, state, step, step + 1)
        losses += more
    checkpoints.close()
    np.testing.assert_allclose(losses, whole, rtol=1e-5)  # sums in another order, nothing else


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_can_be_cut_along_every_mesh(name, request):
    required = f"base={request.getfixturevalue('toy_workdir')}," if name == "finetune" else ""
    config = importlib.import_module(f"configs.{name}").get_config(f"{required}runlocal")
    codec = plain_info(config.assumed.codec, "assumed.codec") or CodesInfo("encodec", 32000, 1, 50.0, 4, 2048)
    graph, params = abstract_model(config, codec, get_text_encoder("bytes").info)
    declared = declarations(graph, params)
    optimizer = jax.eval_shape(make_optimizer(config, declared).init, params)
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, {}, optimizer)
    whole = [leaf.size for leaf in jax.tree.leaves(state)]
    for data, fsdp, tensor in ((8, 1, 1), (1, 8, 1), (1, 1, 8), (1, 1, 2), (2, 2, 2), (1, 2, 4), (1, 3, 2)):
        mesh = Mesh(np.array(jax.devices()[: data * fsdp * tensor]).reshape(data, fsdp, tensor), AXES,
                    axis_types=(AxisType.Auto,) * 3)
        shardings = state_shardings(state, declared, mesh)
        part = [np.prod(s.shard_shape(leaf.shape)) for leaf, s in
                zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True)]  # raises where it is not legal
        # What is not cut is small: biases, norms, positions.
        if 64 % fsdp == 0:
            assert sum(part) * fsdp < 1.5 * sum(whole)


def test_meshes_of_slices_keep_tensor_within_a_host():
    class Device:
        platform, device_kind = "gpu", "some GPU"

        def __init__(self, index, host):
            self.id, self.process_index, self.slice_index = index, host, host

    devices = [Device(i, i // 4) for i in range(8)]
    shape = ml_collections.ConfigDict({"data": 2, "fsdp": -1, "tensor": 2})
    mesh = make_mesh(shape, devices[::-1])
    hosts = np.vectorize(lambda device: device.process_index)(mesh.devices)
    np.testing.assert_array_equal(hosts, [[[0, 0], [0, 0]], [[1, 1], [1, 1]]])
    with pytest.raises(UserError, match="7 devices"):
        make_mesh(shape, devices[:7])
