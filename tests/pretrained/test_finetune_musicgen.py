"""A MusicGen from transformers' files learns two songs by their lyrics, while its own weights stay as they were."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import autosong_jax
from autosong_jax import config as config_file
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.data import schema, tfrecord
from autosong_jax.models.build import abstract_model
from autosong_jax.parallel.sharding import make_mesh
from autosong_jax.pretrained import released
from autosong_jax.sources.text import frozen as frozen_text
from autosong_jax.training import loop
from autosong_jax.weights.trainable import partition
from autosong_jax.workdir.checkpoints import load_frozen, load_weights
from configs import finetune

FRAMES = 20
SONGS = {"love rain love": 0, "night blue night": 1}  # lyrics of words that the toy's tokenizer has, and a seed


def convert(toy, directory):
    released.read(str(toy.directory)).write(directory)
    return directory


@pytest.fixture(scope="module")
def base(make_musicgen, tmp_path_factory):
    directory = tmp_path_factory.mktemp("released")
    return convert(make_musicgen("mono", directory / "hub", width=64, layers=2), directory / "base")


def codes_of(seed):
    return np.random.default_rng(seed).integers(64, size=(FRAMES, 4), dtype=np.uint16)


@pytest.fixture(scope="module")
def dataset(base, tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("songs"), base)


def write_dataset(directory, base, **chroma):
    """Both songs, with codec and text encoder of the base, as an export with them writes it."""
    for name in ("codec", "text_encoder"):
        shutil.copytree(base / name, directory / name)
    shutil.copy(base / "text_encoder.json", directory)
    encoder = frozen_text.load(base)
    features = schema.song_features(CodecInfo.load(base / "codec"), encoder.info, ("text", *chroma))
    texts = {"genre": "", "description": "rain night"}
    records = [schema.serialize(features, {
        "id": lyrics, "group": lyrics, "codes": codes_of(seed), "frame_rate": 50.0, "lyrics": lyrics, **texts,
        "text_encoder": encoder.info.name, "text_encoder_revision": encoder.info.revision,
        "text_states": encoder.encode(lyrics),
        **{f"{name}_states": encoder.encode(text) for name, text in texts.items()}, **chroma})
        for lyrics, seed in SONGS.items()]
    tfrecord.write_records(schema.shard_path(directory, "train", 0, 1), records)
    schema.write_dataset_info(directory, features, {"train": [len(records)]})
    return directory


@pytest.fixture(scope="module")
def tuned(base, dataset, tmp_path_factory):
    config = finetune.get_config(f"base={base},rank=16")
    config.update_from_flattened_dict({
        "data.path": str(dataset), "data.seconds": FRAMES / 50, "data.batch_size": 8, "sources.lyrics.max_length": 8,
        "sources.description.max_length": 4, "sources.lyrics.dropout": 0.0, "sources.description.dropout": 0.0,
        "optimizer.learning_rate": 1e-2, "optimizer.warmup_steps": 10, "train.steps": 200, "train.eval_every": 0,
        "sampling.temperature": 0.0, "sampling.cfg_scale": 1.0})
    workdir = tmp_path_factory.mktemp("tuned") / "workdir"
    with pytest.MonkeyPatch.context() as patch:  # of eight devices that are none, each step would wait for the others
        patch.setattr(loop, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
        loop.train(config, workdir)
    return workdir


def test_lora_and_the_new_source_alone_learn_two_songs_by_heart(tuned):
    singer = autosong_jax.load(tuned)
    songs = singer.generate(lyrics=list(SONGS), description="rain night")
    for song, seed in zip(songs, SONGS.values(), strict=True):
        np.testing.assert_array_equal(song.codes, codes_of(seed))
        assert np.isfinite(song.audio).all() and song.audio.shape[1] > 0


def test_the_released_weights_are_what_they_were(base, tuned):
    config, released_config = (config_file.load(workdir / "config.json") for workdir in (tuned, base))
    info, codec = frozen_text.load(tuned).info, CodecInfo.load(tuned / "codec")
    on_host = [jax.tree.map(lambda x: np.empty(x.shape, x.dtype), abstract_model(c, codec, info)[1])
               for c in (config, released_config)]
    frozen = flatten_dict(load_frozen(tuned, partition(on_host[0], config.train.trainable)[1]), sep="/")
    before = flatten_dict(load_weights(base, released_config, on_host[1])[0], sep="/")
    assert frozen.keys() == before.keys()
    for path, weights in before.items():
        np.testing.assert_array_equal(frozen[path], weights, path)


def test_a_melody_model_trains_on_songs_with_chroma(make_musicgen, tmp_path):
    base = convert(make_musicgen("melody", tmp_path / "hub"), tmp_path / "base")
    chroma = np.array([0, 7, 4, 11, 2], np.uint8)
    directory = tmp_path / "songs"
    directory.mkdir()
    config = finetune.get_config(f"base={base},rank=0")
    assert config.sources.chroma.max_length == 9
    config.update_from_flattened_dict({
        "data.path": str(write_dataset(directory, base, chroma=chroma)), "data.seconds": FRAMES / 50,
        "data.batch_size": 8, "sources.lyrics.max_length": 8, "sources.chroma.dropout": 0.0, "train.steps": 2,
        "train.log_every": 1, "train.eval_every": 0, "train.checkpoint_every": 2, "optimizer.warmup_steps": 0})
    loop.train(config, tmp_path / "workdir")
    lines = map(json.loads, (tmp_path / "workdir" / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 2 and np.isfinite(losses).all() and losses[1] < losses[0]
    # What reads the melody has learned of it: the pitch classes that songs have, and no other.
    info, codec = frozen_text.load(base).info, CodecInfo.load(base / "codec")
    kernels = []
    for workdir in (base, tmp_path / "workdir"):
        config = config_file.load(workdir / "config.json")
        shapes = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), abstract_model(config, codec, info)[1])
        params = load_weights(workdir, config, shapes)[0]
        kernels.append(np.asarray(params["conditions"]["sources"]["chroma"]["projection"]["kernel"]))
    decayed = kernels[0] * (1 - config.optimizer.learning_rate * config.optimizer.weight_decay)
    moved = np.abs(kernels[1] - kernels[0]).max(axis=1) > 10 * np.abs(decayed - kernels[0]).max()
    assert set(np.flatnonzero(moved)) == set(chroma.tolist())
