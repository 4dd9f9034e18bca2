"""W&B and Trackio are told what a run reports, once, and none of them can disturb it."""

import json
import os
import signal
import sqlite3
import sys
import time

import numpy as np
import pytest

from autosong_jax import defaults
from autosong_jax.errors import UserError
from autosong_jax.training import trackers
from autosong_jax.training.metrics import MetricsWriter
from autosong_jax.training.writers import check_writers, open_writers

FAKE = '''
"""W&B as far as it is used here: what is done with it goes to $TOLD, line by line; $BEHAVE says what goes wrong."""
import json, os, time

def tell(*what):
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(what) + "\\n")

class Settings:
    def __init__(self, *, silent, console, finish_timeout):
        self.sync_dir = "there"

class Audio:
    def __init__(self, data_or_path, sample_rate=None, caption=None):
        self.told = [list(data_or_path.shape), str(data_or_path.dtype), sample_rate]

class Run:
    offline, url = False, "https://wandb.test/run"
    def define_metric(self, name, step_metric=None): tell("define_metric", name, step_metric)
    def log(self, data, step=None, commit=None):
        print("noise")
        if os.environ.get("BEHAVE") == "dies" and data["step"] == 2:
            os.kill(os.getpid(), 9)
        if os.environ.get("BEHAVE") == "raises" and data["step"] == 2:
            raise ConnectionError("no network\\nat all")
        if os.environ.get("BEHAVE") == "hangs" and data["step"] == 2:
            time.sleep(600)
        tell("log", {name: getattr(value, "told", value) for name, value in data.items()})
    def finish(self, exit_code=None): tell("finish", exit_code)

def init(entity=None, project=None, dir=None, id=None, name=None, config=None, resume=None, settings=None):
    tell("init", project, name, id, resume, config["seed"])
    run = Run()
    run.settings = settings
    return run
'''


@pytest.fixture
def config():
    config = defaults.base()
    config.train.writers, config.train.project = ("wandb",), "songs"
    return config


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts `FAKE` in the place of W&B; gives what it has been told."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "wandb.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    (tmp_path / "told").touch()
    return lambda: [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def report(writer, steps, kinds=("train",)):
    for step in steps:
        for kind in kinds:
            writer.write(step, kind, {"loss": 1 / step})


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_run_goes_on_in_the_same_one_and_tells_nothing_twice(config, workdir, fake):
    first = MetricsWriter(config, workdir, 0)
    report(first, [1, 2, 3])
    report(first, [4], ["train", "validation"])
    first.write_audio(4, "train-0", np.zeros((2, 50), np.float32), 16000)
    report(first, [5])
    wait_until(lambda: ["log", {"step": 5, "train/loss": 0.2}] in fake())
    os.kill(first._writers[0]._process.pid, signal.SIGKILL)
    for end, first_step in ((4, 2), (7, 3)):  # it is killed once more before it is where it had been
        writer = MetricsWriter(config, workdir, first_step)
        report(writer, range(first_step + 1, end), ["train", "validation"])
        if end == 7:
            writer.write_audio(4, "train-0", np.zeros((2, 50), np.float32), 16000)
        writer.close()
    told = fake()
    inits = [what for what in told if what[0] == "init"]
    assert len({id for *_, id, _, _ in inits}) == 1 and len(inits) == 3
    assert inits[0][1:3] == ["songs", "mine"] and inits[0][4:] == ["allow", 0]
    logged = [what[1] for what in told if what[0] == "log"]
    steps = {kind: [line["step"] for line in logged if f"{kind}/loss" in line] for kind in ("train", "validation")}
    assert steps == {"train": [1, 2, 3, 4, 5, 6], "validation": [4, 3, 5, 6]}
    assert [line for line in logged if "train-0" in line] == [{"step": 4, "train-0": [[50, 2], "int16", 16000]}]
    assert told[-1] == ["finish", 0] and ["define_metric", "*", "step"] in told
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 2 + 2 * 4


@pytest.mark.parametrize(("behaviour", "said"), [
    ("raises", "no network"), ("dies", "its process has ended with status -9"),
    ("hangs", "its process takes nothing any more")])
def test_whatever_it_does_is_said_once_and_the_run_goes_on(config, workdir, fake, monkeypatch, caplog, behaviour, said):
    monkeypatch.setenv("BEHAVE", behaviour)
    caplog.set_level("INFO", "autosong_jax")
    writer = MetricsWriter(config, workdir, 0)
    tracker, = writer._writers
    report(writer, range(1, 4))
    wait_until(lambda: ["log", {"step": 1, "train/loss": 1.0}] in fake() and (
        behaviour == "hangs" or tracker._dropped.locked()))
    report(writer, range(4, 4000))  # more than the pipe and the queue hold
    writer.close()
    assert tracker._process.wait(10) is not None
    messages = [message for message in caplog.messages if message.startswith("wandb: ")]
    assert messages[0] == "wandb: https://wandb.test/run", messages
    assert messages[1:] == [f"wandb: {said}; the run goes on without it"]
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 3999


def test_the_end_waits_for_a_while(config, workdir, fake, monkeypatch, caplog):
    monkeypatch.setenv("BEHAVE", "hangs")
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.1)
    writer = MetricsWriter(config, workdir, 0)
    report(writer, [1, 2])
    writer.close()
    assert caplog.messages[-1].startswith("wandb: its process has not sent everything within")


def test_a_package_that_is_missing_is_named_before_anything_is_done(config, monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()  # as W&B leaves it where it runs
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(UserError, match=r"train.writers has 'wandb'.*pip install 'autosong_jax\[wandb\]'"):
        check_writers(config)


def test_the_real_ones_take_it(config, workdir, tmp_path, monkeypatch, caplog):
    pytest.importorskip("wandb")
    pytest.importorskip("trackio")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    caplog.set_level("INFO", "autosong_jax")
    for first_step in (0, 2):
        config.train.writers = ("wandb", "trackio")[first_step // 2:]  # W&B goes on in its cloud alone
        writers = open_writers(config, workdir, first_step, [(3, "train")] if first_step else [])
        for writer in writers:
            report(writer, range(first_step + 1, first_step + 4))
            writer.write_audio(first_step + 3, "train-0", np.ones((1, 50), np.float32), 16000)
        for writer in writers:
            writer.close()
    assert not [message for message in caplog.messages if "without it" in message], caplog.messages
    with sqlite3.connect(tmp_path / "trackio" / "songs.db") as database:
        runs = database.execute("select distinct run_id from metrics").fetchall()
        steps = [step for step, values in database.execute("select step, metrics from metrics order by id")
                 if b"train/loss" in bytes(values)]
    assert len(runs) == 1 and steps == [1, 2, 3, 4, 5]
    assert len(list((tmp_path / "trackio").rglob("*.wav"))) == 2
    offline, = (workdir / "wandb").glob("offline-run-*")
    assert offline.name.endswith(json.loads((workdir / "trackers.json").read_text())["id"])
    assert len(list(offline.rglob("*.wav"))) == 1
    assert b"train/loss" in b"".join(path.read_bytes() for path in offline.rglob("*.wandb"))
