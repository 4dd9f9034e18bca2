"""Frozen text encoders with random weights, saved as the hub saves them, against one plain forward pass."""

import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

from autosong_jax.errors import UserError
from autosong_jax.sources.spec import record_specs
from data_prep import records, texts
from data_prep.songs import Song

torch.set_num_threads(1)


def check_states(states, model, ids):
    """Asserts that bfloat16 states are the model's own in float32, of this text alone, but for half a unit."""
    assert states.dtype == ml_dtypes.bfloat16
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
    np.testing.assert_allclose(states.astype(np.float32), expected, rtol=2**-8, atol=1e-5)


def test_bert(tmp_path, save_text_encoder):
    model = save_text_encoder("bert", tmp_path)
    encoder = texts.get_text_encoder(f"bert:{tmp_path}")
    assert (encoder.info.kind, encoder.info.width, encoder.info.name) == ("states", 8, f"bert:{tmp_path}")
    check_states(encoder.encode("Love\nrain sun"), model, [2, 5, 6, 1, 3])
    assert encoder.encode("").shape == (0, 8)


def test_lyrics_longer_than_bert_are_cut_between_lines(tmp_path, save_text_encoder):
    model = save_text_encoder("bert", tmp_path)
    encoder = texts.get_text_encoder(f"bert:{tmp_path}")
    lyrics = "\n".join(["love rain night", "love love love love", "blue blue blue blue", "rain " * 13])
    love, rain, night, blue = range(5, 9)
    pieces = [[love, rain, night, *4 * [love]], 4 * [blue], 10 * [rain], 3 * [rain]]  # 10 fit beside [CLS] and [SEP]
    pieces = [[2, *piece, 3] for piece in pieces]
    ends = np.cumsum([len(piece) for piece in pieces])
    for piece, states in zip(pieces, np.split(encoder.encode(lyrics), ends[:-1]), strict=True):
        check_states(states, model, piece)
    np.testing.assert_array_equal(encoder.ids(lyrics), np.concatenate(pieces))


@pytest.mark.parametrize("kind", ["t5", "mt5", "umt5"])
def test_t5(tmp_path, kind, save_text_encoder):
    model = save_text_encoder(kind, tmp_path / kind)
    encoder = texts.get_text_encoder(f"{kind}:{tmp_path / kind}")
    check_states(encoder.encode("love rain\nblue"), model, [4, 5, 7, 1])
    assert encoder.encode("love " * 700).shape == (701, 8)


def encode(encoder, song):
    return records.encode(record_specs(encoder.info, codec=None), encoder, song, audio=None, recordings={})


def test_features_of_a_song(tmp_path, save_text_encoder):
    save_text_encoder("t5", tmp_path / "t5")
    song = Song("id", tmp_path / "a.wav", "group", lyrics="love rain", genre="blue")
    features, notes = encode(texts.get_text_encoder(f"t5:{tmp_path / 't5'}"), song)
    assert {name: states.shape for name, states in features.items()} == {
        "text_states": (3, 8), "genre_states": (2, 8), "description_states": (0, 8)}
    assert notes == []
    features, _ = encode(texts.get_text_encoder(f"t5:{tmp_path / 't5'}", "on_the_fly"), song)
    assert {name: ids.tolist() for name, ids in features.items()} == {
        "text_ids": [4, 5, 1], "genre_ids": [7, 1], "description_ids": []}


def test_revision_follows_the_weights(tmp_path, save_text_encoder):
    one, other = tmp_path / "one", tmp_path / "other"
    save_text_encoder("t5", one)
    shutil.copytree(one, other)
    (other / "README.md").write_text("more")
    revision = texts.get_text_encoder(f"t5:{one}").info.revision
    assert texts.get_text_encoder(f"t5:{other}").info.revision == revision
    assert texts.made_from(f"t5:{one}") != texts.made_from(f"t5:{other}")
    weights = safetensors.numpy.load_file(other / "model.safetensors")
    weights["encoder.final_layer_norm.weight"] = weights["encoder.final_layer_norm.weight"] + np.float32(1e-3)
    safetensors.numpy.save_file(weights, other / "model.safetensors", {"format": "pt"})
    assert texts.get_text_encoder(f"t5:{other}").info.revision != revision


def test_names_that_are_none(tmp_path, save_text_encoder):
    for name in ("latin", "gpt:x", "bert:"):
        with pytest.raises(UserError, match="bytes, pinyin"):
            texts.get_text_encoder(name)
    with pytest.raises(UserError, match="nowhere is not a directory"):
        texts.get_text_encoder(f"bert:{tmp_path}/nowhere")
    save_text_encoder("bert", tmp_path)
    with pytest.raises(UserError, match="is a bert model, expected t5"):
        texts.get_text_encoder(f"t5:{tmp_path}")
    with pytest.raises(UserError, match="is for frozen encoders, but --text_encoder=bytes"):
        texts.get_text_encoder("bytes", "on_the_fly")


def test_unknown_section_tags_are_noted():
    song = Song("id", None, "group", lyrics="[Blorp]\nla\n[Blorp]\n[verse]\nla")
    features, notes = encode(texts.get_text_encoder("bytes"), song)
    assert len(notes) == 1 and "[Blorp]" in notes[0]
    assert features.keys() == {"text_ids", "section_ids", "line_ids", "genre_ids", "description_ids"}
