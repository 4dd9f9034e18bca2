"""Saving and loading codecs."""

import json
import pathlib

import numpy as np
import pytest

from autosong_jax.codecs.codec import load_codec
from autosong_jax.codecs.encodec.settings import EncodecInfo
from autosong_jax.codecs.melrvq.codec import MelRVQ
from autosong_jax.errors import UserError


@pytest.fixture(scope="module")
def codec():
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, 32000)).astype(np.float32)
    return MelRVQ.fit([noise], codebook_size=16, dynamic_range=44.4)


def test_round_trip_is_exact(codec, tmp_path):
    codec.save(tmp_path / "a" / "codec")
    loaded = load_codec(tmp_path / "a" / "codec")
    assert (loaded.config, loaded.floor) == (codec.config, codec.floor)
    np.testing.assert_array_equal(loaded.codebooks, codec.codebooks)
    loaded.save(tmp_path / "b")
    for name in ("codec.json", "codebooks.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / "codec" / name).read_bytes()


def test_description_has_what_every_codec_has(codec, tmp_path):
    codec.save(tmp_path)
    description = json.loads((tmp_path / "codec.json").read_text())
    assert description["name"] == "melrvq"
    for field in ("sample_rate", "channels", "frame_rate", "num_codebooks", "codebook_size"):
        assert description[field] == getattr(codec.info, field)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "{not json", '{"name": "mp3"}', '{"name": ["melrvq"]}'])
def test_no_codec(tmp_path, text):
    if text is not None:
        (tmp_path / "codec.json").write_text(text)
    with pytest.raises(UserError, match="codec"):
        load_codec(tmp_path)


def test_encodec_without_its_files(tmp_path):
    EncodecInfo("encodec", 24000, 1, 75.0, 2, 1024, digest="0" * 16).save(tmp_path)
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        load_codec(tmp_path)


@pytest.mark.parametrize("name", ["codec.json", "codebooks.safetensors"])
def test_damaged_files_are_named(codec, tmp_path, name):
    codec.save(tmp_path)
    path: pathlib.Path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="codec"):
        load_codec(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="codec"):
        load_codec(tmp_path)


def test_codebooks_of_other_settings_are_refused(codec, tmp_path):
    codec.save(tmp_path)
    description = json.loads((tmp_path / "codec.json").read_text())
    (tmp_path / "codec.json").write_text(json.dumps(description | {"codebook_size": 32}))
    with pytest.raises(UserError, match=r"shape \(4, 16, 320\), expected \(4, 32, 320\)"):
        load_codec(tmp_path)
