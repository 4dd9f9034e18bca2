"""Checkpoint files: whole, sharded, damaged, missing, of another kind."""

import json
import logging
import pickle
import types

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

from autosong_jax.errors import UserError
from autosong_jax.weights import files, parameters
from autosong_jax.weights.files import Tensors
from autosong_jax.weights.parameters import Recipe


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {f"layers.{i}.weight": rng.normal(size=(3, 4)).astype(np.float32) for i in range(5)} | {
        "norm": np.arange(4, dtype=ml_dtypes.bfloat16)}


@pytest.mark.parametrize("limit", [10**9, 100, 1])
def test_what_is_written_is_read(tmp_path, arrays, limit):
    files.write(tmp_path, arrays.items(), max_shard_bytes=limit)
    assert len(list(tmp_path.glob("*.safetensors"))) == {10**9: 1, 100: 3, 1: 6}[limit]
    tensors = Tensors.open(tmp_path)
    assert dict(tensors) == {name: array.shape for name, array in arrays.items()}
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors.read(name), array)
        assert tensors.read(name).dtype == array.dtype
    np.testing.assert_array_equal(tensors.read("layers.2.weight", (slice(1, 3), slice(0, 2))),
                                  arrays["layers.2.weight"][1:3, :2])
    part = tensors.under("layers.")
    assert sorted(part) == [f"{i}.weight" for i in range(5)]
    np.testing.assert_array_equal(part.read("4.weight"), arrays["layers.4.weight"])
    assert (part | Tensors.of({"more": np.zeros(2)}, "here")).origin("more") == "here"


def test_a_second_writing_leaves_nothing_of_the_first(tmp_path, arrays):
    files.write(tmp_path, arrays.items(), max_shard_bytes=100)
    files.write(tmp_path, [("one", np.ones(3, np.float32))])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors"]
    files.write(tmp_path, arrays.items(), max_shard_bytes=100)
    assert dict(Tensors.open(tmp_path)) == {name: array.shape for name, array in arrays.items()}


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def truncate_in_the_header(path):
    path.write_bytes(path.read_bytes()[:20])


def empty(path):
    path.write_bytes(b"")


def pickle_it(path):
    torch.save({"weight": torch.zeros(2)}, path)


def pickle_by_hand(path):
    path.write_bytes(pickle.dumps({"weight": 1}, protocol=2))


def write_text(path):
    path.write_text('<!DOCTYPE html><p>This repository is gated.</p>' * 3)


@pytest.mark.parametrize("damage, reason", [
    (truncate, "cut off"), (truncate_in_the_header, "cut off"), (empty, "cut off"), (pickle_it, "pickle"),
    (pickle_by_hand, "pickle"), (write_text, "model-00002-of-00003.safetensors")])
def test_damaged_shards(tmp_path, arrays, damage, reason):
    files.write(tmp_path, arrays.items(), max_shard_bytes=100)
    damage(tmp_path / "model-00002-of-00003.safetensors")
    with pytest.raises(UserError, match=reason) as error:
        Tensors.open(tmp_path)
    assert "model-00002-of-00003.safetensors" in str(error.value)


def test_missing_files(tmp_path, arrays):
    with pytest.raises(UserError, match="neither"):
        Tensors.open(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"only pickles \(pytorch_model.bin\)"):
        Tensors.open(tmp_path)
    files.write(tmp_path, arrays.items(), max_shard_bytes=100)
    index = json.loads((tmp_path / files.INDEX).read_text())
    index["weight_map"]["more"] = "model-00001-of-00003.safetensors"
    (tmp_path / files.INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model-00001-of-00003.safetensors lacks the tensor more"):
        Tensors.open(tmp_path)
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00003-of-00003.safetensors is missing"):
        Tensors.open(tmp_path)


def test_a_source_that_is_not_there(tmp_path):
    for source in (str(tmp_path / "nothing"), "./nothing", "~/nothing-there", "a/b/c"):
        with pytest.raises(UserError, match="is not a directory"):
            files.locate(source, "--source")
    assert files.locate(str(tmp_path), "--source") == tmp_path


def test_a_typing_error_in_a_path_is_not_asked_of_the_hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for source in ("runs/mien", "x" * 300, "nul\0", "a/" + "x" * 300, "\x1b[2J"):
        with pytest.raises(UserError, match=r"not a directory here|cannot be read"):
            files.locate(source, "--workdir")


def test_an_index_names_only_files_beside_it(tmp_path, arrays):
    for name in ("../model.safetensors", "/dev/zero", 5):
        (tmp_path / files.INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(UserError, match=r"expected one beside it|weight_map"):
            Tensors.open(tmp_path)


def test_a_hub_id_that_cannot_be_fetched(monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.INFO, "autosong_jax")
    import huggingface_hub

    def model_info(*args, **kwargs):
        raise ConnectionError("no connection\nand more lines")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    with pytest.raises(UserError, match=r"--source=some/model .*\(no connection\): where .* give DIR"):
        files.locate("some/model", "--source")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo_id, **_: str(tmp_path))
    assert files.locate("some/model", "--source") == tmp_path  # it has been fetched before
    assert not caplog.text
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: types.SimpleNamespace(sha="1"))
    assert files.locate("some/model", "--source") == tmp_path
    assert "--source=some/model is no directory here: it is fetched from the hub" in caplog.text


def test_a_hub_id_that_is_none():
    with pytest.raises(UserError, match="is not a directory here"):
        files.locate("what is this?", "--source")


@pytest.fixture
def checkpoint(tmp_path, arrays):
    files.write(tmp_path, arrays.items(), max_shard_bytes=100)
    return Tensors.open(tmp_path)


SHAPES = {"blocks": {"kernel": np.zeros((5, 4, 3), np.float32)}, "norm": {"scale": np.zeros(4, np.float32)}}
RECIPES = {"blocks/kernel": Recipe(tuple(f"layers.{i}.weight" for i in range(5)), transpose=True, stacked=True),
           "norm/scale": Recipe(("norm",))}


def test_parameters_and_back(checkpoint, arrays):
    params = parameters.load(SHAPES, RECIPES, checkpoint, what="a toy")
    expected = np.stack([arrays[f"layers.{i}.weight"].T for i in range(5)])
    np.testing.assert_array_equal(params["blocks"]["kernel"], expected)
    np.testing.assert_array_equal(params["norm"]["scale"], [0, 1, 2, 3])
    back = dict(parameters.unload(params, RECIPES))
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array.astype(np.float32))


def test_every_device_reads_its_own_part(checkpoint, monkeypatch):
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = {"blocks": {"kernel": NamedSharding(mesh, PartitionSpec(None, "b", None))},
            "norm": {"scale": NamedSharding(mesh, PartitionSpec("a"))}}
    read = []
    monkeypatch.setattr(Tensors, "read", lambda self, name, index=(), read_=Tensors.read:
                        read.append(read_(self, name, index)) or read[-1])
    params = parameters.load(SHAPES, RECIPES, checkpoint, what="a toy", shardings=spec, dtype=np.float16)
    assert params["blocks"]["kernel"].sharding == spec["blocks"]["kernel"]
    assert params["blocks"]["kernel"].dtype == np.float16
    assert {part.shape for part in read} == {(3, 1), (2,)}


@pytest.mark.parametrize("change, reason", [
    (lambda arrays: arrays.pop("layers.3.weight"), r"lacks the tensor layers.3.weight, expected one of shape \[3, 4\]"),
    (lambda arrays: arrays.update({"norm": np.zeros(5)}), r"norm of shape \[5\], expected \[4\]"),
    (lambda arrays: arrays.update({"layers.5.weight": np.zeros((3, 4))}), "layers.5.weight, which a toy has no place"),
])
def test_tensors_that_do_not_fit(arrays, change, reason):
    change(arrays)
    with pytest.raises(UserError, match=reason) as error:
        parameters.load(SHAPES, RECIPES, Tensors.of(arrays, "the.file"), what="a toy")
    assert "the.file" in str(error.value)


def test_files_of_the_library_are_read(tmp_path, arrays):
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    assert dict(Tensors.open(tmp_path)) == {name: array.shape for name, array in arrays.items()}
