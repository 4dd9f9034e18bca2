"""Checkpoints that PyTorch pickled: their tensors, whatever else they hold, and nothing of theirs is run."""

import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from absl.testing import flagsaver
from safetensors.torch import load_file

from autosong_jax.errors import UserError
from data_prep import unpickle

torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def flags():
    unpickle.define_flags()
    unpickle.FLAGS(["unpickle", "--input=a", "--output=b"])
    yield
    for name in ("input", "output"):
        delattr(unpickle.FLAGS, name)


def run(path, output):
    with flagsaver.flagsaver(input=str(path), output=str(output)):
        unpickle.main()


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_tensors_numbers_and_texts(tmp_path, capsys):
    shared = torch.arange(6.0).reshape(2, 3)
    torch.save({"best_state": {"a": shared, "b": shared.T, 5: shared}, "note": "é\x1b[2J", "rate": 3,
                "bad": float("nan"), "list": [1], ("a", 1): 2}, tmp_path / "a.th")
    run(tmp_path / "a.th", tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors.keys() == {"a", "b"} and torch.equal(tensors["b"], shared.T)
    assert json.loads((tmp_path / "out" / "metadata.json").read_text()) == {"note": "é\x1b[2J", "rate": 3}
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 2 tensors\n"


def test_what_is_no_checkpoint_or_wants_to_run(tmp_path):
    one, ran = torch.zeros(1), tmp_path / "ran"

    def saved(content):
        file = io.BytesIO()
        torch.save(content, file)
        return file.getvalue()

    def packed(data):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", data)
        return file.getvalue()

    cases = [(b"", "no checkpoint"), (b"\x80\x02.", "no checkpoint"), (saved({"a": one})[:-50], "no checkpoint"),
             (pickle.dumps({"a": Payload(ran)}), "more than weights"), (saved({"a": Payload(ran)}), "it names"),
             (saved({"a": one.expand(2**36)}), "claims tensors of"), (packed(bytes(2**24)), "unpacks to"),
             (saved({}), "neither tensors nor texts"), (saved(one), "neither tensors nor texts"),
             (saved({"best_state": [], 1: one}), "neither tensors nor texts"),
             (saved({"a": torch.zeros(2, 2).to_sparse()}), "cannot be used")]
    for data, found in cases:
        (tmp_path / "a.bin").write_bytes(data)
        with pytest.raises(UserError, match=found) as caught:
            run(tmp_path / "a.bin", tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
    assert not ran.exists()


def test_places_that_are_none(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.bin")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.safetensors").write_text("somebody's")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero", tmp_path / "missing", tmp_path / ("a" * 300)):
        with pytest.raises(UserError, match="--input"):
            run(path, tmp_path / "out")
    file = tmp_path / "a.bin"
    for output in (tmp_path / "full", file, file / "x", tmp_path / ("a" * 300), "/dev/null"):
        with pytest.raises(UserError, match="--output"):
            run(tmp_path / "a.bin", output)
    assert (tmp_path / "full" / "model.safetensors").read_text() == "somebody's"
