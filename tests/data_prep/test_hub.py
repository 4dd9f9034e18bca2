"""Pretrained models whose files are damaged, or meant to do harm: one line each, and nothing of theirs is run."""

import json
import os
import pickle
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from autosong_jax.errors import UserError
from data_prep import encodec, hub, texts

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory, save_text_encoder):
    """Toys, as save_pretrained writes them: `encodec`, `t5` and `bert`."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    transformers.EncodecModel(transformers.EncodecConfig(
        num_filters=2, hidden_size=8, codebook_size=16, upsampling_ratios=[8, 5, 4], sampling_rate=16000,
        target_bandwidths=[0.8])).save_pretrained(root / "encodec")
    for kind in ("t5", "bert"):
        save_text_encoder(kind, root / kind)
    return root


@pytest.fixture
def copy(models, tmp_path):
    """`copy("t5")` is a copy to damage."""
    return lambda kind: shutil.copytree(models / kind, tmp_path / kind)


def load(directory):
    kind = directory.name
    return encodec.load(str(directory)) if kind == "encodec" else texts.get_text_encoder(f"{kind}:{directory}")


def refusal(directory):
    with pytest.raises(UserError) as caught:
        load(directory)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000 and str(directory) in message
    return message


@pytest.mark.parametrize(("kind", "field", "value", "found"), [
    ("encodec", "sampling_rate", "24000", "sampling_rate"), ("encodec", "sampling_rate", 0, "sampling_rate"),
    ("encodec", "upsampling_ratios", [], "upsampling_ratios"), ("encodec", "target_bandwidths", [], "bandwidths"),
    ("encodec", "upsampling_ratios", {"a": 1}, "upsampling_ratios"), ("encodec", "hidden_size", [8], "hidden_size"),
    ("encodec", "num_filters", 2**12, "do not belong together"), ("encodec", "norm_type", "none", "norm_type"),
    ("encodec", "codebook_size", 32, "cannot be used"), ("encodec", "model_type", "t5", "is a t5 model"),
    ("encodec", "model_type", ["encodec"], "expected encodec"),
    ("t5", "d_model", "8", "d_model '8'"), ("t5", "num_layers", 10**9, "num_layers 1000000000"),
    ("t5", "num_layers", 0, "num_layers 0"), ("t5", "d_ff", 2**22, "do not belong together"),
    ("t5", "num_heads", None, "num_heads None"), ("t5", "feed_forward_proj", "gated-magic", "cannot be used"),
    ("t5", "layer_norm_epsilon", -1.0, "layer_norm_epsilon"), ("t5", "vocab_size", True, "vocab_size True"),
    ("t5", "d_model", 16, "cannot be used"),
    ("bert", "num_attention_heads", 3, "cannot be used"), ("bert", "max_position_embeddings", 1, "max_position"),
    ("bert", "hidden_act", {}, "hidden_act"), ("bert", "position_embedding_type", "relative_key", "position_embedding"),
    ("bert", "vocab_size", 10**12, "vocab_size"),
])
def test_configs_of_another_type_size_or_shape(copy, kind, field, value, found):
    directory = copy(kind)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {field: value}))
    assert found in refusal(directory)


@pytest.mark.parametrize("kind", ["encodec", "t5"])
@pytest.mark.parametrize("text", ["", "[", "[]", "5", "null", "[" * 100_000, '{"a":' * 100_000, "\x00", '{"a"'])
def test_configs_that_are_none(copy, kind, text):
    directory = copy(kind)
    (directory / "config.json").write_text(text)
    assert "config.json" in refusal(directory)


@pytest.mark.parametrize("kind", ["encodec", "bert"])
def test_tensors_that_are_cut_off_or_others(copy, kind):
    directory = copy(kind)
    path = directory / "model.safetensors"
    data, tensors = path.read_bytes(), load_file(path)
    for damaged in (b"", data[:7], data[:100], data[:-1], b"\xff" * 100, data[:8] + b"[" * 5000, bytes(len(data))):
        path.write_bytes(damaged)
        refusal(directory)
    name = next(name for name, tensor in tensors.items() if tensor.ndim > 1)
    for other in ({}, {name: tensors[name]}, tensors | {name: tensors[name][:1]}):
        save_file(other, path, metadata={"format": "pt"})
        refusal(directory)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_pipes_are_not_waited_for(copy, name):
    directory = copy("bert")
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name)
    assert "is a pipe" in refusal(directory)


@pytest.mark.parametrize("placed", [{"a": "missing.safetensors"}, {"a": "../../a.safetensors"}, {"a": "/dev/zero"}, [],
                                    5, {"a": 5}, {"a": "config.json"}, {"a": "pipe"}])
def test_indices_that_lead_elsewhere(copy, placed):
    directory = copy("t5")
    (directory / "model.safetensors").unlink()
    os.mkfifo(directory / "pipe")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    refusal(directory)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_give_tensors_and_run_nothing(copy, tmp_path):
    """Some released checkpoints are pickles and nothing else."""
    directory = copy("t5")
    expected = load(directory).info.revision
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(tensors, directory / "pytorch_model.bin")
    hub.locate.cache_clear()
    assert load(directory).info.revision == expected
    for harmful in (pickle.dumps(Payload(tmp_path / "ran")), pickle.dumps({"a": Payload(tmp_path / "ran")}), b"",
                    b"\x80\x02.", b"PK\x03\x04" + bytes(100)):
        (directory / "pytorch_model.bin").write_bytes(harmful)
        assert "pytorch_model.bin" in refusal(directory)
    torch.save({"a": Payload(tmp_path / "ran")}, directory / "pytorch_model.bin")
    assert "it names" in refusal(directory)
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_model_is_not_run(copy, tmp_path):
    directory = copy("bert")
    config = json.loads((directory / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "harm.Config", "AutoModel": "harm.Model"}, "transformers_weights": "../x.bin",
               "quantization_config": {"quant_method": "bitsandbytes"}, "torch_dtype": "x", "_attn_implementation": "x"}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "harm.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "../x"}')
    assert load(directory).encode("love").shape == (3, 8)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"model": 5}', b"[" * 100_000, b"\xff" * 100])
@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_tokenizers_that_are_none(copy, kind, data):
    directory = copy(kind)
    (directory / "tokenizer.json").write_bytes(data)
    refusal(directory)


def test_a_tokenizer_of_another_model(copy):
    """Its ids are more than the model has embeddings for."""
    directory = copy("t5")
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] += [[f"▁x{i}", -3.0] for i in range(100)]
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "embeddings" in refusal(directory)
