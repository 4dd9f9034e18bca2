"""Full disks, damaged checkpoints, lost folders: one plain line, nothing lost that was whole, and the run goes on."""

import errno
import json
import logging
import os
import pathlib
import shutil
import time

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from orbax.checkpoint import v1 as ocp

from autosong_jax import config as config_file
from autosong_jax import defaults
from autosong_jax.data import tfrecord
from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from autosong_jax.models.build import abstract_model
from autosong_jax.training import loop, metrics
from autosong_jax.workdir import checkpoints as checkpoints_file
from autosong_jax.workdir import digests
from autosong_jax.workdir.checkpoints import latest_step, load_frozen, load_weights, save_frozen


@pytest.fixture(scope="module")
def config(toy_config):
    # So wide that arrays stand by themselves in files: small ones stand among what Orbax has its own checksums of.
    return toy_config(sources=False, **{"train.ema_every": 1, "train.eval_every": 2, "train.keep_last": 3,
                                        "train.keep_best": 0, "model.width": 64, "model.mlp_width": 256})


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """A run of six steps with the checkpoints 2, 4 and 6."""
    workdir = tmp_path_factory.mktemp("whole") / "workdir"
    loop.train(config, workdir)
    return workdir


@pytest.fixture
def workdir(whole, tmp_path):
    """A copy of it."""
    shutil.copytree(whole, tmp_path / "workdir")
    return tmp_path / "workdir"


def weights_of(workdir, config):
    dataset = SongDataset(config.data.path, "train")
    _, abstract = abstract_model(config, dataset.codec, dataset.text)
    on_host = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), abstract)
    weights, step = load_weights(workdir, config_file.load(workdir / "config.json"), on_host)
    return flatten_dict(weights, sep="/"), step


def assert_same_end(workdir, other):
    """Both have the same step 6 and the same metrics."""
    trees = [ocp.load_checkpointables((w / "checkpoints" / "6").absolute()) for w in (workdir, other)]
    for item in ("params", "ema", "optimizer"):
        jax.tree.map(np.testing.assert_array_equal, trees[0][item], trees[1][item])
    lines = [[json.loads(line) for line in (w / "metrics.jsonl").read_text().splitlines()] for w in (workdir, other)]
    assert [(line["step"], line["kind"], line["loss"]) for line in lines[0]] == [
        (line["step"], line["kind"], line["loss"]) for line in lines[1]]


def largest_file(directory):
    """The largest that holds numbers, of those in an item of a checkpoint."""
    files = [path for path in directory.rglob("ocdbt.process_0/d/*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip_a_byte(directory, where=0.5):
    path = largest_file(directory)
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 1
    path.write_bytes(data)


def truncate(directory):
    path = largest_file(directory)
    path.write_bytes(path.read_bytes()[:100])


def make_a_pipe(path):
    """Reading it would wait for ever."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


DAMAGES = {
    "a flipped bit": flip_a_byte,
    "a file cut off": truncate,
    "a file gone": lambda directory: largest_file(directory).unlink(),
    "metadata gone": lambda directory: (directory / "_METADATA").unlink(),
    "an item gone": shutil.rmtree,
    "a pipe in place of a file": lambda directory: make_a_pipe(directory.parent / "_CHECKPOINT_METADATA"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_by_generate_and_train(workdir, whole, config, caplog, damage):
    caplog.set_level(logging.INFO, "autosong_jax")
    for item in ("ema", "optimizer"):
        DAMAGES[damage](workdir / "checkpoints" / "6" / item)
    files = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    assert weights_of(workdir, config)[1] == 4
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == files
    [warning] = {record.getMessage() for record in caplog.records
                 if record.levelname == "WARNING" and record.name == "autosong_jax"}
    assert str(workdir / "checkpoints" / "6") in warning and "\n" not in warning
    if damage not in ("a flipped bit", "a pipe in place of a file"):
        return  # both look at checkpoints in one way; what training then does is the same
    loop.train(config, workdir)
    assert "Going on from step 4" in caplog.text and latest_step(workdir) == 6
    assert (workdir / "checkpoints" / "6.damaged").is_dir()
    assert_same_end(workdir, whole)
    loop.train(config, workdir)  # done, and not troubled by what was set aside


def test_without_its_checksums_a_flipped_bit_goes_unnoticed_and_other_damage_does_not(workdir, config):
    """Why there are checksums; and checkpoints without them still work."""
    checkpoint = workdir / "checkpoints" / "6"
    (checkpoint / "digests.json").unlink()
    before, _ = weights_of(workdir, config)

    def goes_unnoticed(where):
        flip_a_byte(checkpoint / "ema", where)
        after, step = weights_of(workdir, config)
        flip_a_byte(checkpoint / "ema", where)
        return step == 6 and any(np.any(before[name] != after[name]) for name in before)

    assert any(map(goes_unnoticed, np.linspace(0.1, 0.9, 30)))  # what is compressed may notice, or not need the byte
    truncate(checkpoint / "ema")
    assert weights_of(workdir, config)[1] == 4


def test_if_no_checkpoint_is_whole_one_line_says_so(workdir, config):
    for step in (2, 4, 6):
        truncate(workdir / "checkpoints" / str(step) / "ema")
    for use in (lambda: loop.train(config, workdir), lambda: weights_of(workdir, config)):
        with pytest.raises(UserError, match=r"no checkpoint in .*6: ema/.*; 4: .*; 2: .*copy the whole") as error:
            use()
        assert "\n" not in str(error.value)
    assert latest_step(workdir) == 6


def test_a_config_that_does_not_fit_is_no_damage(workdir, config):
    for checkpoint in (workdir / "checkpoints").iterdir():  # as if the run had had no moving average
        shutil.rmtree(checkpoint / "ema")
        digests.write(checkpoint)
    with pytest.raises(UserError, match=r"checkpoints/6 does not fit the config"):
        loop.train(config, workdir)
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"2", "4", "6"}


@pytest.mark.parametrize("name, damage", [("metrics/metrics", lambda path: path.write_text('{"valid')),
                                          ("_CHECKPOINT_METADATA", make_a_pipe)], ids=["metrics", "a pipe"])
def test_a_damaged_description_of_an_old_checkpoint_stops_no_run(workdir, whole, config, name, damage):
    shutil.rmtree(workdir / "checkpoints" / "6")
    damage(workdir / "checkpoints" / "2" / name)
    loop.train(config, workdir)
    assert_same_end(workdir, whole)
    assert (workdir / "checkpoints" / "2.damaged").is_dir()


def test_frozen_parameters_that_are_damaged_are_named(tmp_path):
    params = {"a": jax.random.normal(jax.random.key(0), (100, 100))}
    save_frozen(tmp_path, params)
    assert np.array_equal(load_frozen(tmp_path, params)["a"], params["a"])
    flip_a_byte(tmp_path / "frozen")
    with pytest.raises(UserError, match=r"frozen does not hold .*differs from its checksum.*copy the whole workdir"):
        load_frozen(tmp_path, params)


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_the_next_start_goes_on(
        config, workdir, whole, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(checkpoints_file.log, "disabled", True)  # what it says may go to a file longer than the limit
    for step in (4, 6):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    # The system refuses to let files grow beyond half of the optimizer's largest, as a full disk would.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = largest_file(workdir / "checkpoints" / "2" / "optimizer").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(UserError) as error:
            loop.train(config, workdir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = str(error.value)
    assert "checkpoint of step 4 cannot be written" in message and str(workdir) in message and "\n" not in message
    assert os.strerror(errno.EFBIG) in message and "checkpoint 2 is whole" in message
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"2"}  # what was half written is gone
    loop.train(config, workdir)
    assert_same_end(workdir, whole)


def test_a_full_disk_met_by_metrics_ends_the_run_and_the_next_start_goes_on(config, whole, tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, text):
            if '"step": 5' in text:
                self.file.write(text[:20])  # as much as there was room for
                self.file.flush()
                full_disk()
            self.file.write(text)

        def __getattr__(self, name):
            return getattr(self.file, name)

    workdir, opened = tmp_path / "workdir", metrics.MetricsWriter.__init__

    def init(self, *args):
        opened(self, *args)
        self._file = Full(self._file)

    with monkeypatch.context() as patch:
        patch.setattr(metrics.MetricsWriter, "__init__", init)
        with pytest.raises(UserError, match=rf"workdir {workdir} cannot be written any more .*No space left.*goes on"):
            loop.train(config, workdir)
    assert not (workdir / "metrics.jsonl").read_text().endswith("\n")
    loop.train(config, workdir)
    assert_same_end(workdir, whole)


def test_a_run_that_cannot_write_at_all_says_so(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "mkdir", lambda self, **_: full_disk())
        with pytest.raises(UserError, match=r"workdir .* cannot be written .*choose another --workdir"):
            loop.train(config, tmp_path / "workdir")


def run_until(config, workdir, monkeypatch, step, happening):
    """Trains; after `step`, `happening()` happens."""
    put = loop._put
    calls = []

    def counting(*args):
        calls.append(None)
        if len(calls) == step + 2:  # one is put to compile for
            happening()
        return put(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_put", counting)
        loop.train(config, workdir)


def test_a_workdir_that_vanishes_is_not_made_anew(toy_config, tmp_path, monkeypatch):
    workdir = tmp_path / "workdir"

    def remove():
        while not (workdir / "checkpoints" / "2").exists():
            time.sleep(0.01)
        shutil.rmtree(workdir)

    with pytest.raises(UserError, match=rf"workdir {workdir} is gone: the checkpoint of step 4"):
        run_until(toy_config(sources=False, **{"train.eval_every": 0}), workdir, monkeypatch, 2, remove)
    assert not workdir.exists()


def test_a_dataset_that_vanishes_is_named(config, toy_dataset, tmp_path, monkeypatch):
    dataset = tmp_path / "dataset"
    shutil.copytree(toy_dataset, dataset)
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({"data.path": str(dataset), "train.steps": 60, "train.eval_every": 0,
                                       "train.checkpoint_every": 10})
    with pytest.raises(UserError, match=rf"cannot read {dataset}/autosong-train.*No such file"):
        run_until(config, tmp_path / "workdir", monkeypatch, 2, lambda: shutil.rmtree(dataset))


def test_lines_of_metrics_that_are_none_are_dropped(tmp_path):
    kept = '{"step": 1, "kind": "train"}\n'
    (tmp_path / "metrics.jsonl").write_bytes(kept.encode() + b"\0\0\0\n[]\n\xff\n" + b'{"step": 9}\n{"step": 1, "ki')
    writer = metrics.MetricsWriter(defaults.base(), tmp_path, 1)
    writer.write(2, "train", {"loss": 0.5})
    writer.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text.startswith(kept + '{"step": 2, "kind": "train", "loss": 0.5, "time": ') and text.count("\n") == 2


def test_tensorboard_gets_the_scalars_and_where_they_replace_others(tmp_path):
    from tensorboardX.proto import event_pb2

    writer = metrics.MetricsWriter(defaults.base(), tmp_path, 6)
    writer.write(7, "train", {"loss": 0.5})
    writer.write_audio(7, "song", np.zeros((1, 100), np.float32), 16000)
    writer.close()
    path, = (tmp_path / "tensorboard").iterdir()
    events = [event_pb2.Event.FromString(tfrecord.read_record(path, offset, length))
              for offset, length in tfrecord.record_offsets(path)]
    assert events[0].file_version == "brain.Event:2"
    assert events[1].session_log.status == event_pb2.SessionLog.START and events[1].step == 7
    assert events[2].summary.value[0].tag == "train/loss" and events[2].summary.value[0].simple_value == 0.5
    assert events[3].summary.value[0].audio.sample_rate == 16000


def test_digests_see_every_file_and_only_what_is_asked_for(tmp_path):
    for item in ("a", "b"):
        (tmp_path / item / "d").mkdir(parents=True)
        (tmp_path / item / "d" / "x").write_bytes(b"123456789")
    digests.write(tmp_path)
    # The check value of CRC-32C, of RFC 3720 and the catalogues of checksums.
    assert json.loads((tmp_path / "digests.json").read_text())["a/d/x"] == [9, 0xE3069283]
    assert digests.find_damage(tmp_path) is None
    (tmp_path / "b" / "d" / "x").write_bytes(b"123456780")
    assert digests.find_damage(tmp_path) == "b/d/x differs from its checksum"
    assert digests.find_damage(tmp_path, lambda items: items - {"b"}) is None
    (tmp_path / "b" / "d" / "x").write_bytes(b"1234")
    assert digests.find_damage(tmp_path, lambda items: items - {"b"}) == "b/d/x is cut off"
    (tmp_path / "digests.json").write_text('{"a/d/x": "x"}')
    assert "digests.json" in digests.find_damage(tmp_path)
    (tmp_path / "digests.json").write_text("{")
    assert "digests.json" in digests.find_damage(tmp_path)
