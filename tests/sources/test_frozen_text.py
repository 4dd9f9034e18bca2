"""Frozen text encoders from checkpoints as the hub holds them, against transformers."""

import dataclasses
import json
import shutil

import jax
import ml_collections
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from autosong_jax.errors import UserError
from autosong_jax.parallel.sharding import make_mesh, put_batch
from autosong_jax.sources.text import frozen as text
from autosong_jax.sources.text import tokenizer
from autosong_jax.sources.text.frozen import FrozenTextEncoder
from autosong_jax.weights import files
from data_prep import texts

torch.set_num_threads(1)
KINDS = ("bert", "t5", "mt5", "umt5")
TEXT = "love rain  night\n\nblue sun love, [CLS] rain </s> Love\n" + 3 * "night blue " + "\nrain"


@pytest.fixture(scope="module")
def checkpoints(save_text_encoder, tmp_path_factory):
    """Folders of toy checkpoints by kind, and their encoders."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: (root / kind, save_text_encoder(kind, root / kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def encoders(checkpoints):
    return {kind: FrozenTextEncoder.open(folder, f"{kind}:toy") for kind, (folder, _) in checkpoints.items()}


def states_of(model, ids):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()


@pytest.mark.parametrize("kind", ["t5", "umt5"])
def test_ids_are_those_of_transformers(checkpoints, encoders, kind):
    reference = transformers.AutoTokenizer.from_pretrained(checkpoints[kind][0])
    for line in (TEXT, "love", " ", "Ünïcode 雨 rain\t\r\n"):
        assert encoders[kind].ids(line).tolist() == reference(line)["input_ids"]
    assert encoders[kind].ids("").shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_spans_are_the_characters_of_tokens(encoders, kind):
    lyrics = "love rain\n" + 4 * "night blue " + "\n\nlove"
    ids, spans = encoders[kind].ids(lyrics), encoders[kind].spans(lyrics)
    assert spans.shape == (len(ids), 2) and spans.dtype == np.int32
    words = [lyrics[start:stop].strip() for start, stop in spans]
    tokens = [encoders[kind].tokenizer._tokenizer.id_to_token(int(i)).strip("▁") for i in ids]
    for word, token in zip(words, tokens, strict=True):
        assert word == (token if token in ("love", "rain", "night", "blue") else "")
    assert "".join(words) == lyrics.replace(" ", "").replace("\n", "")
    assert encoders[kind].spans("").shape == (0, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_token_is_named(encoders, kind):
    lyrics = "love xyz\n" + 4 * "night blue " + "\n雨 love"
    unknown = encoders[kind].tokenizer.unknown(lyrics)
    assert "".join(lyrics[start:stop] for start, stop in unknown).replace(" ", "").replace("\n", "") == "xyz雨"


def test_ids_of_bert_are_those_of_its_pieces(checkpoints, encoders):
    reference = transformers.AutoTokenizer.from_pretrained(checkpoints["bert"][0])
    pieces = ["love rain  night\n\nblue sun love,", "[CLS] rain"]  # not cut within the limit of 12
    for piece in pieces:
        assert encoders["bert"].ids(piece).tolist() == reference(piece)["input_ids"]
    lines = [4 * "love ", 3 * "rain " + "night", 3 * "blue "]  # the first two and two special tokens are 10
    expected = reference("\n".join(lines[:2]))["input_ids"] + reference(lines[2])["input_ids"]
    assert encoders["bert"].ids("\n".join(lines)).tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_states(checkpoints, encoders, kind):
    encoder, (_, reference) = encoders[kind], checkpoints[kind]
    rows = ["love rain", TEXT, "", "blue"] if kind != "bert" else ["love rain", "rain", "", 3 * "blue night love "]
    ids = [encoder.ids(row) for row in rows]
    lengths = np.array([len(row) for row in ids])
    padded = np.stack([np.pad(row, (0, 40 - len(row))) for row in ids])
    states = np.asarray(encoder.encode_ids(padded, lengths))
    for row, row_ids, result in zip(rows, ids, states, strict=True):
        if row:
            np.testing.assert_allclose(result[: len(row_ids)], states_of(reference, row_ids.tolist()), atol=1e-4)
            alone = encoder.encode(row)
            assert alone.dtype == ml_dtypes.bfloat16
            # In another shape float32 is not the same to the last bit; bfloat16 is half a unit of its own away at most.
            np.testing.assert_allclose(alone.astype(np.float32), result[:len(row_ids)], rtol=2**-8, atol=1e-5)
    assert np.isfinite(states).all() and encoder.encode("").shape == (0, 8)


def test_many_texts_go_through_in_groups(encoders, monkeypatch):
    encoder = encoders["t5"]
    ids = np.random.default_rng(0).integers(4, 8, (7, 10))
    lengths = np.array([10, 3, 0, 1, 10, 9, 4])
    expected = np.asarray(encoder.encode_ids(ids, lengths))
    monkeypatch.setattr(text, "GROUP_TOKENS", 25)
    states = jax.jit(lambda params: text._encode(encoder._graph, params, ids, lengths))(encoder.params)
    np.testing.assert_allclose(states, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_devices_of_a_mesh_encode_their_own_rows(encoders, kind):
    mesh = make_mesh(ml_collections.ConfigDict({"data": 2, "fsdp": -1, "tensor": 2}))
    batch = {"lyrics": {"ids": np.random.default_rng(0).integers(4, 8, (8, 6)), "length": np.arange(8) % 7},
             "melody": {"frames": np.ones((8, 3))}}
    expected = encoders[kind].states_of(batch)
    result = encoders[kind].on(mesh)(put_batch(batch, mesh))
    assert result["lyrics"]["states"].dtype == np.asarray(expected["lyrics"]["states"]).dtype
    np.testing.assert_allclose(result["lyrics"]["states"].astype(np.float32),
                               expected["lyrics"]["states"].astype(np.float32), rtol=1e-2, atol=1e-3)
    padding = np.arange(6) >= batch["lyrics"]["length"][:, None]
    assert padding.any() and not np.asarray(result["lyrics"]["states"])[padding].any()
    assert len(result["lyrics"]["states"].sharding.device_set) == 8
    np.testing.assert_array_equal(result["melody"]["frames"], 1)


@pytest.mark.parametrize("records_hold", ["states", "tokens"])
def test_a_text_is_cut_as_in_training(checkpoints, records_hold, caplog):
    """Stored states come from the whole text and are cut then; tokens are cut before."""
    folder, reference = checkpoints["t5"]
    encoder = FrozenTextEncoder.open(folder, "t5:toy")
    encoder.info = dataclasses.replace(encoder.info, kind=records_hold)
    source = encoder.source("lyrics", "love rain blue", 2)
    assert caplog.messages == ["lyrics of length 4: the model reads the first 2"]
    expected = states_of(reference, [4, 5, 7, 1])[:2] if records_hold == "states" else states_of(reference, [4, 5])
    np.testing.assert_allclose(source["states"], expected, atol=1e-4)
    source = encoder.source("lyrics", "love", 4)
    assert source["length"] == 2 and source["states"].shape == (4, 8) and not source["states"][2:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(checkpoints, encoders, tmp_path, kind):
    encoder = encoders[kind]
    encoder.save(tmp_path / "text_encoder")
    encoder.info.save(tmp_path)
    assert sorted(path.name for path in (tmp_path / "text_encoder").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json"]
    again = text.load(tmp_path)
    assert again.info == encoder.info
    np.testing.assert_array_equal(again.encode("love rain"), encoder.encode("love rain"))
    # transformers reads it as well, and data_prep gives it the same name.
    model_class = getattr(transformers, files.read_json(tmp_path / "text_encoder" / "config.json")["architectures"][0])
    _, loading = model_class.from_pretrained(tmp_path / "text_encoder", output_loading_info=True)
    assert not loading["unexpected_keys"] and loading["missing_keys"] <= {"pooler.dense.weight", "pooler.dense.bias"}
    exported = texts.get_text_encoder(f"{kind}:{tmp_path / 'text_encoder'}")
    assert exported.info.revision == encoder.info.revision
    np.testing.assert_array_equal(exported.ids("love rain"), encoder.ids("love rain"))


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_checkpoints_of_other_forms(checkpoints, encoders, tmp_path, kind):
    """Several shards, names of other times and models: the same encoder."""
    folder, _ = checkpoints[kind]
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    if kind == "bert":
        weights = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): w
                   for name, w in weights.items()}
        weights["bert.embeddings.position_ids"] = np.arange(12)[None]
        weights["bert.pooler.dense.weight"] = np.zeros((8, 8), np.float32)
    else:
        weights = {"encoder.embed_tokens.weight" if name == "shared.weight" else name: w for name, w in weights.items()}
    files.write(tmp_path, weights.items(), max_shard_bytes=2000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(folder / name, tmp_path)
    encoder = FrozenTextEncoder.open(tmp_path, "other")
    assert encoder.info.revision == encoders[kind].info.revision
    np.testing.assert_array_equal(encoder.encode("love rain"), encoders[kind].encode("love rain"))


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_vocabulary_is_a_tokenizer(tmp_path, lowercase):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Love", "love", "##ly", "雨", "cafe", "Café", ",", "'", "s"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(
        {"do_lower_case": lowercase, "tokenizer_class": "BertTokenizer"}))
    transformers.BertConfig().save_pretrained(tmp_path)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = tokenizer.Tokenizer.load(tokenizer.find(tmp_path), 512)
    for line in ("Lovely love, Café's 雨love", "[CLS] Love [SEP] [MASK]", "cafe\u0301 \u200blove\n"):
        assert ours.ids(line).tolist() == reference(line)["input_ids"]


@pytest.mark.parametrize("lowercase", [True, False])
def test_settings_beside_a_tokenizer_count_more(checkpoints, tmp_path, lowercase):
    shutil.copytree(checkpoints["bert"][0], tmp_path / "bert")
    settings = files.read_json(tmp_path / "bert" / tokenizer.SETTINGS) | {"do_lower_case": lowercase}
    (tmp_path / "bert" / tokenizer.SETTINGS).write_text(json.dumps(settings))
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path / "bert")
    ours = tokenizer.Tokenizer.load(tokenizer.find(tmp_path / "bert"))
    assert ours.ids("Love rain").tolist() == reference("Love rain")["input_ids"]


def test_a_sentencepiece_model_is_a_tokenizer(encoders):
    """mT5 has one, T5 a tokenizer.json of the same pieces."""
    for line in (TEXT, "love", " ", "Ünïcode 雨 rain\t\r\n", ""):
        assert encoders["mt5"].ids(line).tolist() == encoders["t5"].ids(line).tolist()


def damage(folder, change):
    config = files.read_json(folder / "config.json")
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    change(folder, config, weights)
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(weights, folder / "model.safetensors")


NORM = "encoder.final_layer_norm.weight"


@pytest.mark.parametrize(("change", "words"), [
    (lambda folder, config, weights: config.update(model_type="gpt2"), ["config.json", "'gpt2'", "umt5, bert"]),
    (lambda folder, config, weights: config.pop("d_kv"), ["config.json", "lacks d_kv"]),
    (lambda folder, config, weights: config.update(feed_forward_proj="gated-tanh"), ["config.json", "gated-tanh"]),
    (lambda folder, config, weights: weights.pop(NORM), ["lacks", NORM, "[8]"]),
    (lambda folder, config, weights: config.update(d_ff=17), ["model.safetensors", "wo.weight", "[8, 16]", "[8, 17]"]),
    (lambda folder, config, weights: weights.update(extra=weights[NORM]), ["model.safetensors", "extra", "no place"]),
    (lambda folder, config, weights: (folder / "tokenizer.json").unlink(), ["no tokenizer", "spiece.model"]),
    (lambda folder, config, weights: (folder / "tokenizer.json").write_text("{}"), ["tokenizer.json is not"]),
])
def test_what_cannot_be_read_is_named(checkpoints, tmp_path, change, words):
    shutil.copytree(checkpoints["t5"][0], tmp_path / "t5")
    damage(tmp_path / "t5", change)
    with pytest.raises(UserError) as error:
        FrozenTextEncoder.open(tmp_path / "t5", "t5")
    message = str(error.value)
    assert all(word in message for word in [str(tmp_path), *words]) and "\n" not in message, message


def test_a_workdir_without_its_encoder(encoders, tmp_path):
    encoders["t5"].info.save(tmp_path)
    with pytest.raises(UserError, match=r"no text_encoder/ with the text encoder 't5:toy'"):
        text.load(tmp_path)
