"""Configs as files of a workdir."""

import json

import pytest

from autosong_jax import config as config_file
from autosong_jax.errors import UserError
from configs import default, small


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
    assert config.lora == default.base().lora
    assert (config.model.dropped, config.model.width) == ("absent", 1024)
    assert sorted(config.sources) == ["lyrics"]


@pytest.mark.parametrize("content", ["", "[]", '{"model_type": "musicgen"}', "{"])
def test_other_files(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="is no config of a trained model"):
        config_file.load(tmp_path / "config.json")
    with pytest.raises(UserError, match="is no config of a trained model"):
        config_file.load(tmp_path / "nothing.json")
