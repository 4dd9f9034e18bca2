"""Frozen text encoders with random weights, saved as the hub saves them, against one plain forward pass."""

import importlib.util

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from transformers.convert_slow_tokenizer import import_protobuf

from autosong_jax.errors import UserError
from data_prep import texts
from data_prep.songs import Song

torch.set_num_threads(1)
WORDS = ["love", "rain", "night", "blue"]
LIMIT = 12  # positions of the toy BERT


def save_bert(folder):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    transformers.BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(vocabulary), hidden_size=8, num_hidden_layers=2,
                                     num_attention_heads=2, intermediate_size=16, max_position_embeddings=LIMIT)
    model = transformers.BertForMaskedLM(config).eval()
    model.save_pretrained(folder)
    return model.bert


def save_t5(folder, kind):
    """T5 with a `tokenizer.json`; mT5 with only a `spiece.model`, which is all that its released checkpoints have."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0), *(("▁" + word, -2.0) for word in WORDS)]
    config_class, model_class = {"t5": (transformers.T5Config, transformers.T5ForConditionalGeneration),
                                 "mt5": (transformers.MT5Config, transformers.MT5ForConditionalGeneration)}[kind]
    if kind == "t5":
        transformers.T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)
    else:
        proto = import_protobuf().ModelProto()
        proto.trainer_spec.model_type = proto.trainer_spec.UNIGRAM
        proto.trainer_spec.unk_id, proto.trainer_spec.eos_id, proto.trainer_spec.pad_id = 2, 1, 0
        types = {"<unk>": 2, "<pad>": 3, "</s>": 3}
        for piece, score in pieces:
            proto.pieces.add(piece=piece, score=score, type=types.get(piece, 1))
        folder.mkdir()
        (folder / "spiece.model").write_bytes(proto.SerializeToString())
    torch.manual_seed(0)
    model = model_class(config_class(vocab_size=len(pieces), d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2,
                                     decoder_start_token_id=0)).eval()
    model.save_pretrained(folder)
    return model.encoder


def states_of(model, ids):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy().astype(ml_dtypes.bfloat16)


def test_bert(tmp_path):
    model = save_bert(tmp_path)
    encoder = texts.get_text_encoder(f"bert:{tmp_path}")
    assert (encoder.info.kind, encoder.info.width, encoder.info.name) == ("states", 8, f"bert:{tmp_path}")
    states = encoder.encode("Love\nrain sun")
    assert states.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(states, states_of(model, [2, 5, 6, 1, 3]))
    assert encoder.encode("").shape == (0, 8)


def test_lyrics_longer_than_bert_are_cut_between_lines(tmp_path):
    model = save_bert(tmp_path)
    encoder = texts.get_text_encoder(f"bert:{tmp_path}")
    states = encoder.encode("\n".join(["love rain night", "love love love love", "blue blue blue blue", "rain " * 13]))
    love, rain, night, blue = range(5, 9)
    pieces = [[love, rain, night, *4 * [love]], 4 * [blue], 10 * [rain], 3 * [rain]]  # 10 fit beside [CLS] and [SEP]
    np.testing.assert_array_equal(states, np.concatenate([states_of(model, [2, *piece, 3]) for piece in pieces]))


@pytest.mark.parametrize("kind", ["t5", "mt5"])
def test_t5(tmp_path, kind):
    model = save_t5(tmp_path / kind, kind)
    if kind == "mt5" and not importlib.util.find_spec("sentencepiece"):
        with pytest.raises(UserError, match="pip install sentencepiece"):
            texts.get_text_encoder(f"{kind}:{tmp_path / kind}")
        return
    encoder = texts.get_text_encoder(f"{kind}:{tmp_path / kind}")
    np.testing.assert_array_equal(encoder.encode("love rain\nblue"), states_of(model, [4, 5, 7, 1]))
    assert encoder.encode("love " * 700).shape == (701, 8)


def test_features_of_a_song(tmp_path):
    save_t5(tmp_path / "t5", "t5")
    encoder = texts.get_text_encoder(f"t5:{tmp_path / 't5'}")
    song = Song("id", tmp_path / "a.wav", "group", lyrics="love rain", genre="blue")
    features, notes = texts.encode(encoder, song)
    assert {name: states.shape for name, states in features.items()} == {
        "text_states": (3, 8), "genre_states": (2, 8), "description_states": (0, 8)}
    assert notes == []


def test_revision_follows_the_files(tmp_path):
    save_bert(tmp_path)
    before = texts.get_text_encoder(f"bert:{tmp_path}").info.revision
    assert texts.get_text_encoder(f"bert:{tmp_path}").info.revision == before
    (tmp_path / "vocab.txt").write_text("changed")
    assert texts.made_from(f"bert:{tmp_path}") != f"bert:{before}"


def test_names_that_are_none(tmp_path):
    for name in ("latin", "gpt:x", "bert:"):
        with pytest.raises(UserError, match="bytes, pinyin"):
            texts.get_text_encoder(name)
    with pytest.raises(UserError, match="nowhere is not a directory"):
        texts.get_text_encoder(f"bert:{tmp_path}/nowhere")
    save_bert(tmp_path)
    with pytest.raises(UserError, match="is a bert model, expected t5"):
        texts.get_text_encoder(f"t5:{tmp_path}")


def test_unknown_section_tags_are_noted():
    song = Song("id", None, "group", lyrics="[Blorp]\nla\n[Blorp]\n[verse]\nla")
    features, notes = texts.encode(texts.get_text_encoder("bytes"), song)
    assert len(notes) == 1 and "[Blorp]" in notes[0]
    assert features.keys() == {"text_ids", "section_ids", "line_ids", "genre_ids", "description_ids"}
