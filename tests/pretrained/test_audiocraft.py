"""audiocraft's files against the same weights as the hub has them."""

import functools
import pathlib
import shutil

import numpy as np
import pytest
import torch
import yaml

import autosong_jax
from autosong_jax import config as config_file
from autosong_jax.codecs.codec import load_codec
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.errors import UserError
from autosong_jax.pretrained import audiocraft, released
from autosong_jax.pretrained import musicgen as musicgen_format
from autosong_jax.sources.text.encoders import TextEncoderInfo
from autosong_jax.weights import files, parameters
from tests.musicgens import save_as_audiocraft


@pytest.fixture(scope="session")
def t5_directory(musicgen, tmp_path_factory):
    """The toy's T5 by itself."""
    folder = tmp_path_factory.mktemp("t5") / "t5"
    musicgen.model.text_encoder.save_pretrained(folder)
    shutil.copy(musicgen.directory / "tokenizer.json", folder)
    return folder


def test_the_same_weights_give_the_same_parameters(musicgen, t5_directory, tmp_path):
    directory = save_as_audiocraft(musicgen, tmp_path / "model")
    tensors, metadata = audiocraft.unpickle(directory / "state_dict.bin")
    settings = audiocraft.settings(metadata, directory)
    assert settings["text_encoder_name"] == "t5-base"
    theirs = musicgen.model.config.to_dict()
    assert settings["model_type"] == theirs["model_type"]
    assert settings.get("chroma_length") == theirs.get("chroma_length") or settings["chroma_length"] == 9
    for name, value in settings["decoder"].items():
        assert value == theirs["decoder"][name], name
    standard = audiocraft.standard_names(tensors)
    state = musicgen.model.state_dict()
    for name in standard:
        np.testing.assert_array_equal(standard.read(name), state[name].numpy())
        np.testing.assert_array_equal(standard.read(name, (slice(1, 5),)), state[name][1:5].numpy())


def test_a_workdir_of_it_is_that_of_the_hub(musicgen, imported, t5_directory, tmp_path):
    directory = save_as_audiocraft(musicgen, tmp_path / "model")
    model = released.read(str(directory), text_encoder=str(t5_directory))
    one, other = (parameters.leaves(read.load()[1]) for read in (model, released.read(str(musicgen.directory))))
    assert one.keys() == other.keys()
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[path])
    info = CodecInfo.load(imported / "codec")
    assert model.codec.info == info
    assert model.text.info.revision == TextEncoderInfo.load(imported).revision
    ours, theirs = model.config, config_file.load(imported / "config.json")
    assert config_file.to_json(ours) == config_file.to_json(theirs)
    codes = np.random.default_rng(0).integers(0, 64, (20, info.num_codebooks))
    np.testing.assert_array_equal(model.codec.decode(codes), load_codec(imported / "codec").decode(codes))


@pytest.mark.parametrize("changes, reason", [
    ({"norm_first": False}, "norm_first False, expected True"), ({"bias_attn": True}, "bias_attn True"),
    ({"positional_embedding": "rope"}, "positional_embedding 'rope'")])
def test_other_decoders(make_musicgen, tmp_path, changes, reason):
    toy = make_musicgen("mono", tmp_path / "toy")
    directory = save_as_audiocraft(toy, tmp_path / "model", **changes)
    with pytest.raises(UserError, match=reason):
        released.read(str(directory))


def test_a_pickle_that_holds_more_than_weights(tmp_path):
    state = {"emb.0.weight": torch.zeros(2, 2)}
    torch.save({"best_state": state, "hook": pathlib.Path("/")}, tmp_path / "state_dict.bin")
    with pytest.raises(UserError, match="holds more than weights") as error:
        released.read(str(tmp_path))
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'state_dict.bin'} cannot be read: ") and "it names pathlib" in message
    assert not any(word in message for word in ("\n", "--input", "weights_only"))


def test_a_pickle_without_a_config(tmp_path):
    torch.save({"emb.0.weight": torch.zeros(2, 2)}, tmp_path / "state_dict.bin")
    with pytest.raises(UserError, match=f"^{tmp_path / 'state_dict.bin'} is not a checkpoint of the encodec package"):
        audiocraft.read_codec(tmp_path / "state_dict.bin")
    with pytest.raises(UserError, match="lacks a part of its training config"):
        released.read(str(tmp_path))


@pytest.mark.parametrize("missing", ["generate", "masking", "codebooks_pattern"])
def test_a_magnet_without_a_part_of_its_config(make_musicgen, tmp_path, missing):
    directory = save_as_audiocraft(make_musicgen("mono", tmp_path / "toy"), tmp_path / "model", masked=True)
    _, metadata = audiocraft.unpickle(directory / "state_dict.bin")
    config = yaml.safe_load(metadata["xp.cfg"])
    del config[missing]
    with pytest.raises(UserError, match=f"lacks a part of its training config .'{missing}'"):
        audiocraft.settings({"xp.cfg": yaml.safe_dump(config)}, directory)


@pytest.fixture(scope="module")
def magnet(make_musicgen, tmp_path_factory):
    """`magnet({"generate.lm.temp": 1.0})`: our config of a MAGNeT whose training config has these changes."""
    folder = tmp_path_factory.mktemp("magnet")
    toy = make_musicgen("mono", folder / "toy")
    directory = save_as_audiocraft(toy, folder / "model", masked=True)
    _, metadata = audiocraft.unpickle(directory / "state_dict.bin")
    codec = audiocraft.read_codec(directory / "compression_state_dict.bin").info

    def make(changes):
        config = yaml.safe_load(metadata["xp.cfg"])
        for name, value in changes.items():
            *parents, last = name.split(".")
            functools.reduce(dict.__getitem__, parents, config)[last] = value
        return musicgen_format.model_config(audiocraft.settings({"xp.cfg": yaml.safe_dump(config)}, directory), codec)

    return make


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, {"top_k": 0, "top_p": 0.8, "temperature": 3.5, "anneal": True, "trim": True}),
    ({"top_p": 0.0}, {"top_k": 0, "top_p": 1.0}),
    ({"top_p": 0.0, "top_k": 20}, {"top_k": 20, "top_p": 1.0}),
    ({"top_p": 0.8, "top_k": 20}, {"top_k": 0, "top_p": 0.8}),  # which audiocraft then does not read
    ({"use_sampling": False}, {"top_k": 1, "top_p": 1.0, "temperature": 3.5}),
    ({"temp": 0}, {"temperature": 0.01}),
    ({"anneal_temp": False}, {"anneal": False}),
    ({"span_arrangement": "stride1"}, {"arrangement": "stride1"}),
])
def test_what_a_magnet_says_of_sampling_is_honoured(magnet, changes, expected):
    config = magnet({f"generate.lm.{name}": value for name, value in changes.items()})
    sampling = config_file.check(config).sampling.masked
    assert {name: sampling[name] for name in expected} == expected


@pytest.mark.parametrize(("name", "value", "reason"), [
    ("fuser.cross_attention_pos_emb", True, "fuser with cross_attention_pos_emb True, expected False"),
    ("fuser.sum", ["description"], "fuser with sum .'description'., expected"),
    ("transformer_lm.positional_scale", 2.0, "positional_scale 2.0"),
    ("transformer_lm.subcodes_context", 0, "subcodes_context 0, .* expected at least 1"),
    ("generate.lm.span_scoring", "min", "span_scoring 'min' of generate.lm, expected 'max' or 'prod'"),
    ("generate.lm.top_p", 1.5, "top_p 1.5"),
])
def test_what_a_magnet_cannot_be_is_refused_by_name(magnet, name, value, reason):
    with pytest.raises(UserError, match=reason) as error:
        magnet({name: value})
    assert "\n" not in str(error.value)


def test_a_text_encoder_that_cannot_be_fetched(make_musicgen, tmp_path, monkeypatch):
    """Each caller is told what it can do: `generate` has no --text_encoder."""
    directory = save_as_audiocraft(make_musicgen("mono", tmp_path / "toy"), tmp_path / "model")

    def locate(source, flag, patterns=files.PATTERNS):
        if str(source) == "t5-base":
            raise UserError(f"{flag}={source} could not be fetched")
        return pathlib.Path(source)

    monkeypatch.setattr(files, "locate", locate)
    fault = f"{directory / 'state_dict.bin'}: conditioners.description.t5.name=t5-base could not be fetched; "
    with pytest.raises(UserError) as error:
        released.read(str(directory))
    assert str(error.value) == f"{fault}give it by --text_encoder=DIR"
    with pytest.raises(UserError) as error:
        autosong_jax.load(directory, "--workdir")
    assert str(error.value) == (f"{fault}`python -m autosong_jax.convert --source={directory} --text_encoder=DIR "
                                "--workdir=WORKDIR` makes a workdir to sing from")
    with pytest.raises(UserError, match=r"^--text_encoder=t5-base could not be fetched$"):
        released.read(str(directory), text_encoder="t5-base")


def test_a_magnet_is_a_masked_model(make_musicgen, tmp_path, monkeypatch):
    toy = make_musicgen("mono", tmp_path / "toy")
    toy.model.text_encoder.save_pretrained(tmp_path / "t5")
    shutil.copy(tmp_path / "toy" / "tokenizer.json", tmp_path / "t5")
    directory = save_as_audiocraft(toy, tmp_path / "model", masked=True)
    model = released.read(str(directory), text_encoder=str(tmp_path / "t5"))
    objective, sampling = model.config.objective, model.config.sampling.masked
    assert (objective.name, objective.span_length, objective.context_ms) == ("masked_spans", 3, 100.0)
    assert (sampling.steps, sampling.temperature, sampling.top_p) == ((6, 2, 2, 2), 3.5, 0.8)
    assert (sampling.cfg_scale, sampling.cfg_scale_min, sampling.confidence) == (20.0, 1.0, "product")
    assert model.config.data.seconds == 21.0
    _, params = model.load()
    _, expected = released.read(str(toy.directory)).load()
    for path, leaf in parameters.leaves(params).items():
        np.testing.assert_array_equal(leaf, parameters.leaves(expected)[path])

    hub = {"some/magnet": directory, "t5-base": tmp_path / "t5"}

    def fetch(source, flag, patterns=files.PATTERNS):
        copy = tmp_path / "cache" / source
        copy.mkdir(parents=True, exist_ok=True)
        for path in hub[source].iterdir():
            if any(path.match(pattern) for pattern in patterns):
                shutil.copy(path, copy)
        return copy

    monkeypatch.setattr(files, "locate", fetch)
    singer = autosong_jax.load("some/magnet")  # a repository that holds the two pickles alone
    assert singer.config.objective.name == "masked_spans"
