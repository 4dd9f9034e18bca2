"""Every config: its size, what `runlocal` makes of it, and the arguments it takes."""

import importlib
import math
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from flax import nnx

from autosong_jax import config as config_file
from autosong_jax.codecs.info import CodesInfo
from autosong_jax.config import parse_arg
from autosong_jax.data.dataset import SongDataset, train_batches
from autosong_jax.errors import UserError
from autosong_jax.models.build import build_model
from autosong_jax.parallel.sharding import make_mesh
from autosong_jax.sources.text.encoders import TextEncoderInfo, get_text_encoder
from autosong_jax.training.step import make_trainer
from autosong_jax.workdir.workdir import window_pattern

NAMES = sorted(path.stem for path in (Path(__file__).parent.parent / "configs").glob("*.py"))
# Parameters of MusicGen's decoders with their embeddings and heads (Hugging Face's count of the released models).
MUSICGEN = {"small": 419_584_000, "medium": 1_837_556_736, "large": 3_255_382_016}


def model_of(name, codebooks=4, size=2048, text=None):
    config = importlib.import_module(f"configs.{name}").get_config()
    codec = CodesInfo("encodec", 32000, 1, 50.0, codebooks, size)
    text = text or get_text_encoder("bytes").info
    return nnx.eval_shape(lambda: build_model(config, codec, text, rngs=nnx.Rngs(0)))


def count(tree):
    return sum(math.prod(p.shape) for p in jax.tree.leaves(nnx.state(tree, nnx.Param)))


@pytest.mark.parametrize("name", MUSICGEN)
def test_musicgen_shapes_have_musicgens_size(name):
    model = model_of(name)
    # The heads' end of song is ours; MusicGen's decoder has no parameters for conditions.
    ours = count(model.decoder) + count(model.frames) - 4 * model.decoder.config.width
    assert ours == MUSICGEN[name]


@pytest.mark.parametrize(("name", "size"), [("magnet_small", "small"), ("magnet_medium", "medium")])
def test_magnets_have_musicgens_size_and_see_five_frames_on_each_side(name, size):
    model = model_of(name)
    assert count(model.decoder) + count(model.frames) == MUSICGEN[size]
    assert model.decoder.config.window == 5


def test_lyric2music_reads_whole_songs_and_frozen_states():
    model = model_of("lyric2music", 2, 1024, TextEncoderInfo("bert:x", "1", "states", width=768))
    assert model.decoder.position_table.num_embeddings >= 2 * 75 * 120 + 1
    assert model.conditions.sources["lyrics"].projection.in_features == 768
    assert 250e6 < count(model) < 350e6


@pytest.mark.parametrize("name", NAMES)
def test_runlocal_keeps_the_structure_and_shrinks_the_size(name, request):
    module = importlib.import_module(f"configs.{name}")
    required = f"base={request.getfixturevalue('toy_workdir')}," if name == "finetune" else ""
    full, local = module.get_config(required), module.get_config(f"{required}runlocal")
    assert full.keys() == local.keys() and local.train.steps <= 20 and local.model.width <= 64
    assert full.objective == local.objective
    for field in ("pattern", "fusion", "norm", "positions", "activation", "bias"):
        assert full.model[field] == local.model[field]


@pytest.mark.parametrize("name", ["lyric2music", "prefix_lm", "magnet_small"])
def test_other_structures_can_take_a_step_of_training(name, toy_dataset):
    """Of a real batch, traced and lowered for eight devices: the state comes out of it as it went in."""
    config = importlib.import_module(f"configs.{name}").get_config("runlocal")
    config.data.update(path=str(toy_dataset), seconds=0.4, batch_size=8)
    dataset = SongDataset(config.data.path, "train")
    pattern = window_pattern(config, dataset.codec)
    trainer = make_trainer(config, lambda rngs: build_model(config, dataset.codec, dataset.text, rngs=rngs), pattern,
                           make_mesh(config.mesh))
    batch = train_batches(dataset, batch_size=8, frames=len(pattern.steps), seed=0, end_of_song=config.data.end_of_song,
                          sources=config.sources)[0]
    state, sums = trainer.train_step.lower(trainer.abstract, trainer.frozen, batch).out_info
    jax.tree.map(lambda new, old: (new.shape, new.dtype) == (old.shape, old.dtype) or pytest.fail(f"{new}, {old}"),
                 state, trainer.abstract)
    assert jax.tree.leaves(sums)


def test_finetune_has_the_bases_model_and_trains_what_is_new(toy_workdir):
    from configs import finetune

    base = config_file.load(toy_workdir / "config.json")
    config = finetune.get_config(f"base={toy_workdir},rank=2")
    assert config_file.to_json(config.model) == config_file.to_json(base.model)
    assert config_file.to_json(config.sources) == config_file.to_json(base.sources)
    assert config.lora.rank == 2 and config.init.workdir == str(toy_workdir) and config.train.trainable == ("lora_",)
    assert config.data.seconds == base.data.seconds and not config.data.path
    assert finetune.get_config(f"base={toy_workdir},rank=0").train.trainable == (".*",)


@pytest.mark.parametrize(("arg", "words"), [("", "base=WORKDIR"), ("base=nowhere", "=nowhere: there is no workdir")])
def test_finetune_without_a_base_is_named(arg, words):
    from configs import finetune

    with pytest.raises(UserError, match=words):
        finetune.get_config(arg)


def test_arguments_are_typed_and_unknown_ones_named():
    assert parse_arg("a,b=3,c=x", a=False, b=1, c="").to_dict() == {"a": True, "b": 3, "c": "x"}
    assert parse_arg("a=false", a=True).a is False
    with pytest.raises(UserError, match="'d'"):
        parse_arg("d", a=False)
    for text in ("b=x", "b=", "b"):
        with pytest.raises(UserError, match=f"argument {text}: expected b=VALUE of type int"):
            parse_arg(text, b=1)
    with pytest.raises(UserError, match="a=: expected a=VALUE of type bool"):
        parse_arg("a=", a=True)


def test_an_empty_text_is_a_text_but_a_bare_name_is_none():
    assert parse_arg("c=", c="x").c == ""
    with pytest.raises(UserError, match="argument c: expected c=VALUE of type str"):
        parse_arg("c", c="x")


def test_a_config_file_may_stand_outside_of_the_checkout(tmp_path, environment_without):
    (tmp_path / "own.py").write_text(
        "from autosong_jax import defaults\nfrom autosong_jax.config import finish\n\n\n"
        "def get_config(arg=None):\n    config = defaults.base()\n    config.model.width = 192\n"
        "    config.model.heads = 6\n    return finish(config, arg)\n")
    program = ("import pathlib, own\nfrom autosong_jax import config\nmine = config.check(own.get_config())\n"
               "config.save(mine, pathlib.Path('config.json'))\n"
               "print(config.load(pathlib.Path('config.json')).model.width, own.get_config('runlocal').model.width)")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment_without("configs"),
                          capture_output=True, text=True)
    assert done.stdout == "192 64\n", done.stderr
