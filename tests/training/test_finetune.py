"""Fine-tuning: what is trained, what stays bit for bit, where a run starts from, and what it sings."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

import autosong_jax
from autosong_jax import config as config_file
from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from autosong_jax.models.build import abstract_model, build_model
from autosong_jax.parallel.sharding import make_mesh
from autosong_jax.sampling.singer import Singer
from autosong_jax.training import loop
from autosong_jax.training.step import make_trainer
from autosong_jax.workdir.checkpoints import Checkpoints, latest_step, load_frozen, load_weights, save_weights
from autosong_jax.workdir.runs import prepare_workdir
from autosong_jax.workdir.workdir import ModelContext, window_pattern
from configs import finetune


@pytest.fixture(scope="module")
def base(toy_config, tmp_path_factory):
    """A model that knows genres only, with weights that no training has made."""
    config = toy_config()
    del config.sources.lyrics
    workdir = tmp_path_factory.mktemp("base") / "workdir"
    prepare_workdir(config, SongDataset(config.data.path, "train"), workdir)
    save_weights(workdir, trainer_of(config).fresh(5, {}))
    return workdir


@pytest.fixture(scope="module")
def make_config(base, toy_dataset):
    """`make_config(base, **overrides)`: LoRA, and lyrics where the base has none, in seconds."""

    def make(base=base, arguments="rank=2", **overrides):
        config = finetune.get_config(f"base={base},{arguments},runlocal")
        config.sources.lyrics.update(max_length=40, width=16)
        config.update_from_flattened_dict({
            "data.path": str(toy_dataset), "data.batch_size": 8, "optimizer.learning_rate": 1e-2,
            "optimizer.warmup_steps": 1, "train.steps": 4, "train.log_every": 1, "train.eval_every": 2,
            "train.checkpoint_every": 2, "train.keep_last": 9, **overrides})
        return config

    return make


@pytest.fixture(scope="module")
def tuned(make_config, tmp_path_factory):
    """LoRA and lyrics on top of `base`, trained for four steps."""
    workdir = tmp_path_factory.mktemp("tuned") / "workdir"
    loop.train(make_config(), workdir)
    return workdir


def trainer_of(config):
    dataset = SongDataset(config.data.path, "train")
    return make_trainer(config, lambda rngs: build_model(config, dataset.codec, dataset.text, rngs=rngs),
                        window_pattern(config, dataset.codec), make_mesh(config.mesh))


def opened(config, workdir):
    """The trainer of a run, its last state and its frozen parameters."""
    trainer = trainer_of(config)
    checkpoints = Checkpoints(workdir, keep_last=9)
    state = checkpoints.restore(trainer.abstract, trainer.shardings, config.train.steps)
    checkpoints.close()
    return trainer, state, load_frozen(workdir, trainer.frozen)


def weights_of(workdir, dataset):
    """What is sampled with, by path."""
    config, dataset = config_file.load(workdir / "config.json"), SongDataset(dataset, "train")
    _, abstract = abstract_model(config, dataset.codec, dataset.text)
    on_host = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), abstract)
    return flatten_dict(load_weights(workdir, config, on_host)[0], sep="/")


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def losses_of(workdir):
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_lora_and_lyrics_are_trained_and_the_base_stays_bit_for_bit(base, tuned, make_config, toy_dataset):
    trainer, state, frozen = opened(make_config(), tuned)
    assert_equal(flatten_dict(frozen, sep="/"), weights_of(base, toy_dataset))
    trained = flatten_dict(state.params, sep="/")
    assert {path for path in trained if "lora_" not in path and "/lyrics" not in path} == set()
    assert {path for path in trained if "lora_" in path} == {
        f"decoder/blocks/{block}_attention/{layer}/lora_{part}"
        for block in ("self", "cross") for layer in ("q", "k", "v", "out") for part in "ab"}
    initial = flatten_dict(trainer.fresh(0, {}), sep="/")
    unused = "/sections/", "/lines/"  # a gradient of theirs may be zero
    assert all(np.any(trained[path] != initial[path]) for path in trained if not any(u in path for u in unused))
    for moments in (state.optimizer[1][0].mu, state.optimizer[1][0].nu):
        assert jax.tree.structure(moments) == jax.tree.structure(state.params)


def test_the_loss_goes_down_with_lora_alone(tuned, make_config, tmp_path):
    config = make_config(tuned, **{"train.steps": 30, "train.eval_every": 0, "train.checkpoint_every": 30,
                                   "sources.lyrics.dropout": 0.0, "sources.genre.dropout": 0.0})
    assert config.train.trainable == ("lora_",)
    loop.train(config, tmp_path / "workdir")
    losses = losses_of(tmp_path / "workdir")
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


@pytest.mark.parametrize("lost", [["4"], ["2", "4"]], ids=["after a checkpoint", "before the first checkpoint"])
def test_a_run_cut_off_and_started_again_equals_an_undisturbed_one(base, tuned, make_config, tmp_path, lost):
    workdir = tmp_path / "workdir"
    shutil.copytree(tuned, workdir)
    for step in lost:
        shutil.rmtree(workdir / "checkpoints" / step)
    # The base is needed at the start alone.
    loop.train(make_config(**{"init.workdir": "gone"} if len(lost) == 1 else {}), workdir)
    assert losses_of(workdir) == losses_of(tuned)
    assert_equal(opened(make_config(), workdir)[1:], opened(make_config(), tuned)[1:])


def test_a_lora_workdir_sings_what_merged_weights_sing(tuned, make_config):
    config = make_config()
    _, state, frozen = opened(config, tuned)
    weights = flatten_dict(frozen, sep="/") | flatten_dict(state.params, sep="/")
    for path in [path for path in weights if path.endswith("lora_a")]:
        layer = path.removesuffix("lora_a")
        a, b = (np.asarray(weights.pop(f"{layer}lora_{part}"), np.float64) for part in "ab")
        delta = config.lora.alpha / 2 * np.einsum("lir,lro->lio", a, b)
        weights[f"{layer}kernel"] = (weights[f"{layer}kernel"] + delta).astype(np.float32)
    singer = autosong_jax.load(tuned)
    config.lora.rank = 0
    dataset = SongDataset(config.data.path, "train")
    graph, _ = abstract_model(config, dataset.codec, dataset.text)
    expected = Singer(ModelContext.read(config, tuned), nnx.merge(graph, unflatten_dict(weights, sep="/")).unstacked())
    sources = singer.encode_conditions([{"lyrics": "la la", "genre": "pop"}])
    np.testing.assert_array_equal(singer.sing(sources, [3])[0], expected.sing(sources, [3])[0])


def test_a_lora_run_as_a_base_is_taken_merged(tuned, make_config, toy_dataset, tmp_path):
    config = make_config(tuned, **{"train.steps": 1, "train.eval_every": 0})
    loop.train(config, tmp_path / "workdir")
    _, _, frozen = opened(config, tmp_path / "workdir")
    assert_equal(flatten_dict(frozen, sep="/"), weights_of(tuned, toy_dataset))


def test_without_lora_everything_starts_from_the_base_and_is_trained(base, make_config, toy_dataset, tmp_path):
    config = make_config(arguments="rank=0", **{"train.steps": 1, "train.eval_every": 0,
                                                "optimizer.learning_rate": 0.0})
    loop.train(config, tmp_path / "workdir")
    trainer, state, frozen = opened(config, tmp_path / "workdir")
    assert frozen == {} and not (tmp_path / "workdir" / "frozen").exists()
    initial = flatten_dict(trainer.fresh(config.seed, {}), sep="/")
    assert_equal(flatten_dict(state.params, sep="/"), initial | weights_of(base, toy_dataset))


def test_weights_without_an_optimizer_are_trained_on_where_they_are(base, toy_config, toy_dataset, tmp_path):
    workdir = tmp_path / "workdir"
    shutil.copytree(base, workdir)
    assert latest_step(workdir) == 0 and not (workdir / "checkpoints" / "0" / "optimizer").exists()
    config = toy_config(**{"train.steps": 2, "train.eval_every": 0, "optimizer.learning_rate": 0.0})
    del config.sources.lyrics
    loop.train(config, workdir)
    assert latest_step(workdir) == 2
    assert_equal(flatten_dict(opened(config, workdir)[1].params, sep="/"), weights_of(base, toy_dataset))


def test_frozen_matrices_are_held_in_the_compute_dtype(tuned, make_config):
    frozen = opened(make_config(**{"model.dtype": "bfloat16"}), tuned)[2]
    for path, leaf in flatten_dict(frozen, sep="/").items():
        matrix = path.endswith(("kernel", "embeddings", "heads"))
        assert leaf.dtype == ("bfloat16" if matrix else "float32"), path


@pytest.mark.parametrize(("overrides", "words"), [
    ({"init.workdir": "nowhere"}, ["nowhere/config.json"]),
    ({"model.heads": 4}, ["model.heads 2", "the config 4"]),
    ({"model.layers": 3}, ["model.layers 2", "the config 3"]),
    ({"sources.genre.width": 32}, ["sources.genre", "(16, 2, 1)", "(32, 2, 1)"]),
    ({"data.end_of_song": False}, ["parameter frames/heads of shape [3, 16, 17]", "has [3, 16, 16]"]),
    ({"train.trainable": ("lora_", "nothing")}, ["train.trainable 'nothing'", "conditions/"]),
    ({"lora.targets": ("nothing",)}, ["lora.targets 'nothing'", "decoder/blocks/mlp/up"]),
    ({"lora.targets": ("(",)}, ["lora.targets '(' is no regular expression"]),
    ({"train.trainable": ("[",)}, ["train.trainable '[' is no regular expression"]),
    ({"sources.melody": {"kind": "chroma", "max_length": 4, "dropout": 0.1, "width": 0, "heads": 0, "layers": 0}},
     ["'melody' of kind chroma: expected one of chroma"]),
])
def test_what_cannot_be_fine_tuned_is_named(make_config, tmp_path, overrides, words):
    with pytest.raises(UserError) as error:
        loop.train(make_config(**overrides), tmp_path / "workdir")
    assert all(word in str(error.value) for word in words), error.value
    assert not (tmp_path / "workdir").exists()


def test_a_source_of_the_base_that_is_left_out_is_named(make_config, tmp_path):
    config = make_config()
    del config.sources.genre
    with pytest.raises(UserError, match=r"conditions/sources/genre/.* lacks it"):
        loop.train(config, tmp_path / "workdir")


def test_another_codec_text_encoder_or_no_checkpoint_is_named(base, make_config, toy_dataset, tmp_path):
    dataset, other = tmp_path / "dataset", tmp_path / "base"
    shutil.copytree(toy_dataset, dataset)
    codec = dataset / "codec" / "codec.json"
    codec.write_text(codec.read_text().replace('"dynamic_range": 45.0', '"dynamic_range": 44.0'))
    with pytest.raises(UserError, match="another codec"):
        loop.train(make_config(**{"data.path": str(dataset)}), tmp_path / "workdir")
    shutil.copytree(base, other)
    info = other / "text_encoder.json"
    info.write_text(info.read_text().replace('"revision": "1"', '"revision": "0"'))
    with pytest.raises(UserError, match="revision 0"):
        loop.train(make_config(other), tmp_path / "workdir")
    shutil.rmtree(other / "checkpoints")
    with pytest.raises(UserError, match="no finished checkpoint"):
        loop.train(make_config(other), tmp_path / "workdir")
    assert not (tmp_path / "workdir").exists()


def test_directories_that_hold_no_run_are_named(make_config, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "musicgen"}')
    with pytest.raises(UserError, match="no config of a trained model"):
        loop.train(make_config(**{"init.workdir": str(tmp_path)}), tmp_path / "workdir")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="exported model"):
        loop.train(make_config(**{"init.workdir": ""}), tmp_path)


@pytest.mark.parametrize(("overrides", "what"), [({"lora.alpha": 1.0}, r"config\.lora"),
                                                 ({"train.trainable": ("lora_",)}, r"config\.train\.trainable")])
def test_a_run_goes_on_with_the_same_lora_and_trained_parameters_only(make_config, tuned, overrides, what):
    with pytest.raises(UserError, match=f"another {what}"):
        loop.train(make_config(**overrides), tuned)
