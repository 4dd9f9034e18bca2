"""Configs as files of a workdir."""

import json

import pytest

from autosong_jax import config as config_file
from autosong_jax import defaults
from autosong_jax.errors import UserError
from autosong_jax.sources.spec import SOURCES
from configs import small


def test_what_is_saved_is_loaded(tmp_path):
    config = small.get_config("runlocal")
    config.sampling.cfg_scales = {"lyrics": 4.0}
    del config.sources.genre
    config_file.save(config, tmp_path / "config.json")
    assert config_file.to_json(config_file.load(tmp_path / "config.json")) == config_file.to_json(config)


def test_fields_of_a_newer_version_get_their_defaults(tmp_path):
    values = json.loads(config_file.to_json(small.get_config()))
    del values["lora"], values["model"]["dropped"], values["sources"]["genre"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = config_file.load(tmp_path / "config.json")
    assert config.lora == defaults.base().lora
    assert (config.model.dropped, config.model.width) == ("absent", 1024)
    assert sorted(config.sources) == ["lyrics"]


@pytest.mark.parametrize("content", ["", "[]", '{"model_type": "musicgen"}', "{"])
def test_other_files(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="config"):
        config_file.load(tmp_path / "config.json")
    with pytest.raises(UserError, match="config"):
        config_file.load(tmp_path / "nothing.json")


def test_every_field_has_a_rule_that_its_default_keeps():
    fields = {field for field, _ in config_file._fields(defaults.base())}
    ruled = {field.replace("*", name) for field in config_file._RULES for name in ("lyrics", "genre")}
    assert fields == ruled
    config_file.check(defaults.base())


@pytest.mark.parametrize(("field", "value", "words"), [
    ("sources.lyrics.max_length", 0, "sources.lyrics.max_length 0: expected an integer from 1"),
    ("sources.lyrics.dropout", 2.0, "dropout 2.0: expected a number from 0 to 1"),
    ("sources.genre.kind", "x", f"kind 'x': expected one of {', '.join(SOURCES)}"),
    ("model.width", 0, "model.width 0"),
    ("model.width", 62, "model.width 62: expected an even width for each of the 8 model.heads"),
    ("train.steps", -5, "train.steps -5"),
    ("optimizer.learning_rate", float("nan"), "learning_rate nan: expected a number"),
    ("optimizer.schedule", "steps", "schedule 'steps': expected one of cosine, linear, step, plateau, constant"),
    ("objective.scheduled_sampling", 1.5, "scheduled_sampling 1.5: expected a number from 0 to 1"),
    ("objective.name", "masked_spans", "model.pattern 'delay': expected 'parallel'"),
    ("model.delays", ("a",), r"model.delays \('a',\): expected of each value an integer"),
    ("sampling.cfg_scales", {"mood": 1.0}, "cfg_scales of 'mood': its sources are"),
])
def test_what_a_field_cannot_be_is_named(tmp_path, field, value, words):
    config = defaults.base()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=words):
        config_file.check(config)
    config_file.save(config, tmp_path / "config.json")
    with pytest.raises(UserError, match=r"config\.json (has .*|is not JSON)"):
        config_file.load(tmp_path / "config.json")


@pytest.mark.parametrize(("part", "words"), [
    ({"depth": 3}, "the field model.depth, which this version does not know"), ({"width": "64"}, "model.width '64'"),
    ({"width": 64.0}, "model.width 64.0"), ({"bias": 1}, "model.bias 1: expected true or false"), (5, "model 5"),
    ({"delays": {"a": 1}}, "model.delays"), ({"norm": ["pre"]}, "model.norm")])
def test_json_of_another_shape_is_named(tmp_path, part, words):
    (tmp_path / "config.json").write_text(json.dumps({"sources": {}, "model": part}))
    with pytest.raises(UserError, match=words):
        config_file.load(tmp_path / "config.json")
