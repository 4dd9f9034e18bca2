"""Whole runs: stopped in any way and started again they end where an undisturbed run ends, bit for bit."""

import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from autosong_jax import config as config_file
from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from autosong_jax.models.build import build_model
from autosong_jax.parallel.sharding import make_mesh
from autosong_jax.sampling.samples import SampleWriter
from autosong_jax.sampling.singer import Singer
from autosong_jax.training import loop
from autosong_jax.training.step import make_trainer
from autosong_jax.workdir import digests, numbers
from autosong_jax.workdir.checkpoints import Checkpoints
from autosong_jax.workdir.workdir import window_pattern

# What the same run may give twice: everything but speed and times.
TIMES = {"steps_per_second", "targets_per_second", "data_wait", "mfu", "time"}


def metrics_of(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def state_of(config, workdir, step):
    dataset = SongDataset(config.data.path, "train")
    trainer = make_trainer(config, lambda rngs: build_model(config, dataset.codec, dataset.text, rngs=rngs),
                           window_pattern(config, dataset.codec), make_mesh(config.mesh))
    checkpoints = Checkpoints(workdir, keep_last=9)
    state = checkpoints.restore(trainer.abstract, trainer.shardings, step)
    checkpoints.close()
    return state


def assert_same_run(config, workdir, other):
    assert metrics_of(workdir) == metrics_of(other)
    one, two = (state_of(config, w, config.train.steps) for w in (workdir, other))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def dropout_config(toy_config):
    return toy_config(**{"model.dropout": 0.1, "train.ema_every": 1})


@pytest.fixture(scope="module")
def undisturbed(dropout_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "workdir"
    loop.train(dropout_config, workdir)
    return workdir


def start(config, workdir, tmp_path):
    """`train` as a process of its own, with a config file that holds `config`."""
    config_file.save(config, tmp_path / "config.json")
    (tmp_path / "config.py").write_text(
        "import pathlib\nfrom autosong_jax import config\n"
        f"get_config = lambda: config.load(pathlib.Path({str(tmp_path / 'config.json')!r}))\n")
    return subprocess.Popen(
        [sys.executable, "-m", "autosong_jax.train", f"--config={tmp_path / 'config.py'}", f"--workdir={workdir}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_step(workdir, step, process):
    path = workdir / "metrics.jsonl"
    while process.poll() is None and not (path.exists() and f'"step": {step},' in path.read_text()):
        time.sleep(0.02)


def test_sigterm_saves_and_says_how_to_go_on(dropout_config, undisturbed, tmp_path, caplog):
    workdir = tmp_path / "workdir"
    process = start(dropout_config, workdir, tmp_path)
    wait_for_step(workdir, 1, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    if process.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 130 and "Traceback" not in output
    saved = max((int(p.name) for p in (workdir / "checkpoints").iterdir()), default=None)
    assert f"stopped at step {saved}" in output, output
    assert f"python -m autosong_jax.train --config={tmp_path / 'config.py'} --workdir={workdir}" in output
    caplog.set_level(logging.INFO, "autosong_jax")
    loop.train(dropout_config, workdir)
    assert f"Going on from step {saved}" in caplog.text
    one, two = (state_of(dropout_config, w, dropout_config.train.steps) for w in (workdir, undisturbed))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def cut_off(workdir, other, step):
    """A copy of a run as if it had been killed when the checkpoint of `step` was its last."""
    shutil.copytree(workdir, other, dirs_exist_ok=True)
    for checkpoint in (other / "checkpoints").iterdir():
        if int(checkpoint.name) > step:
            shutil.rmtree(checkpoint)


def stop_in_the_third_step(config, workdir):
    """Trains until a signal comes in the middle of it."""
    put, count = loop._put, itertools.count(1)

    def signalled(*args):
        if next(count) == 4:  # one is put to compile for
            signal.raise_signal(signal.SIGTERM)
        return put(*args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(loop.Stopped, match="step 3"):
        patch.setattr(loop, "_put", signalled)
        loop.train(config, workdir)


def test_a_model_of_both_objectives_goes_on_as_if_it_had_not_been_stopped(toy_config, tmp_path):
    config = toy_config(sources=False, **{
        "objective.name": "both", "model.dropout": 0.1, "train.ema_every": 1, "train.log_every": 2,
        "objective.scheduled_sampling": 0.5, "objective.scheduled_sampling_steps": 4})
    one, other = tmp_path / "one", tmp_path / "other"
    loop.train(config, one)
    stop_in_the_third_step(config, other)
    loop.train(config, other)
    a, b = (state_of(config, workdir, 6) for workdir in (one, other))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    validation = [[m for m in metrics_of(w) if m["kind"].startswith("validation")] for w in (one, other)]
    assert validation[0] == validation[1]
    assert all(line[f"loss_{k}"] > 0 for line in validation[0] for k in range(3))  # every stage of the masks, too
    kinds = {m["kind"] for m in metrics_of(one)}
    assert kinds == {f"{kind}_{name}" for kind in ("train", "validation") for name in ("next_step", "masked_spans")}


def test_a_run_on_a_plateau_goes_on_as_if_it_had_not_been_stopped(toy_config, tmp_path):
    """The average does not change in these steps, so no validation loss is lower than the first."""
    config = toy_config(sources=False, **{
        "optimizer.schedule": "plateau", "optimizer.patience": 1, "optimizer.warmup_steps": 1,
        "optimizer.learning_rate": 1e-2, "optimizer.final_learning_rate": 3e-3, "train.eval_every": 1,
        "model.layers": 1})
    one, other = tmp_path / "one", tmp_path / "other"
    loop.train(config, one)
    rates = [line["learning_rate"] for line in metrics_of(one) if line["kind"] == "train"]
    assert rates == pytest.approx([0, 1e-2, 5e-3, 3e-3, 3e-3, 3e-3])
    for steps in (3, 6):
        config.train.steps = steps
        loop.train(config, other)
    assert_same_run(config, one, other)


def test_a_finished_run_started_again_changes_nothing(dropout_config, undisturbed):
    before = metrics_of(undisturbed)
    loop.train(dropout_config, undisturbed)
    assert metrics_of(undisturbed) == before


def test_metrics_have_each_codebook_and_validation(undisturbed):
    lines = metrics_of(undisturbed)
    train = [line for line in lines if line["kind"] == "train"]
    validation = [line for line in lines if line["kind"] == "validation"]
    assert [line["step"] for line in train] == [1, 2, 3, 4, 5, 6] and [line["step"] for line in validation] == [3, 6]
    for line in lines:
        assert line["loss"] == pytest.approx(np.mean([line[f"loss_{k}"] for k in range(3)]))
        assert line["perplexity"] == pytest.approx(np.exp(line["loss"]))
    assert any((undisturbed / "tensorboard").iterdir())


def test_checkpoints_kept_are_the_newest_and_the_best(toy_config, tmp_path):
    config = toy_config(sources=False, **{
        "train.steps": 5, "train.checkpoint_every": 1, "train.eval_every": 1, "train.keep_last": 1,
        "train.keep_best": 2, "train.ema_every": 1})
    loop.train(config, tmp_path)
    losses = {m["step"]: m["loss"] for m in metrics_of(tmp_path) if m["kind"] == "validation"}
    best = sorted(losses, key=losses.get)[:2]
    assert {int(p.name) for p in (tmp_path / "checkpoints").iterdir()} == {5, *best}


def test_the_best_may_be_those_of_another_number(toy_config, tmp_path):
    config = toy_config(sources=False, **{
        "train.steps": 5, "train.checkpoint_every": 1, "train.eval_every": 1, "train.keep_last": 1,
        "train.keep_best": 2, "train.ema_every": 1, "train.best_by": "validation/accuracy"})
    loop.train(config, tmp_path)
    accuracies = {m["step"]: m["accuracy"] for m in metrics_of(tmp_path) if m["kind"] == "validation"}
    best = sorted(accuracies, key=lambda step: (accuracies[step], step))[-2:]
    assert {int(p.name) for p in (tmp_path / "checkpoints").iterdir()} == {5, *best}
    assert numbers.read(tmp_path / "checkpoints" / "5")["validation/accuracy"] == accuracies[5]


def test_checkpoints_of_an_older_version_are_ranked_with_the_others(toy_config, tmp_path):
    config = toy_config(sources=False, **{
        "train.steps": 2, "train.checkpoint_every": 1, "train.eval_every": 1, "train.keep_last": 1,
        "train.keep_best": 1, "train.ema_every": 1})
    loop.train(config, tmp_path)
    for checkpoint in (tmp_path / "checkpoints").iterdir():
        (checkpoint / "metrics" / "metrics").write_text('{"validation_loss": 0.001}')
        digests.write(checkpoint)
    before = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    config.train.steps = 4
    loop.train(config, tmp_path)
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert "4" in left and left & before and len(left) == 2


def test_a_loss_that_is_not_finite_stops_and_names_the_last_checkpoint(toy_config, tmp_path):
    config = toy_config(sources=False, **{"train.steps": 40, "train.checkpoint_every": 1, "train.eval_every": 0,
                                          "optimizer.learning_rate": 1e30, "optimizer.warmup_steps": 1})
    with pytest.raises(UserError, match=r"the loss at step \d+ is .*checkpoints/\d+: lower optimizer"):
        loop.train(config, tmp_path)


@pytest.mark.parametrize("objective", ["next_step", "masked_spans"])
def test_samples_are_written_during_training(toy_config, tmp_path, objective):
    prompts = ("validation:0", "validation:7", "train:5")  # there is no validation:7
    config = toy_config(sources=False, **{
        "train.steps": 2, "train.sample_every": 2, "train.eval_every": 0, "train.prompts": prompts,
        "objective.name": objective, "sampling.masked.steps": (2, 1, 1)})
    loop.train(config, tmp_path, make_samples=SampleWriter)
    assert {path.name for path in (tmp_path / "samples" / "2").iterdir()} == {"validation-0.wav", "train-5.wav"}


def test_a_codec_that_cannot_be_used_leaves_no_weights_of_samples_behind(toy_config, tmp_path, monkeypatch, caplog):
    def load_codec(directory):
        raise UserError("this codec is not to be had")

    singers = []
    replace_weights = Singer.replace_weights
    monkeypatch.setattr("autosong_jax.workdir.workdir.load_codec", load_codec)
    monkeypatch.setattr(Singer, "replace_weights",
                        lambda self, model: singers.append(self) or replace_weights(self, model))
    config = toy_config(sources=False, **{"train.steps": 1, "train.sample_every": 1, "train.eval_every": 0})
    loop.train(config, tmp_path, make_samples=SampleWriter)
    assert "No samples: this codec is not to be had" in caplog.text
    assert singers and all(singer._params is None for singer in singers)


@pytest.mark.parametrize(("overrides", "words"), [
    ({"data.path": "nowhere"}, ["nowhere", "data_prep.export"]),
    ({"data.batch_size": 6}, ["data.batch_size 6", "multiple of 8"]),
    ({"seed": -3}, ["seed -3", "2**32"]),
    ({"train.log_every": 2, "train.checkpoint_every": 3}, ["checkpoint_every 3", "log_every 2"]),
    ({"model.fusion": "prefix", "model.positions": "learned", "model.max_positions": 40}, ["max_positions 40", "59"]),
    ({"model.pattern": "spiral"}, ["spiral", "delay"]),
    ({"objective.name": "next"}, ["'next'", "masked_spans"]),
    ({"objective.name": "both", "model.fusion": "prefix"}, ["prefix", "cross"]),
    ({"objective.name": "masked_spans", "objective.span_length": 0}, ["span_length 0", "at least 1"]),
    ({"objective.name": "masked_spans", "train.sample_every": 2}, ["[20, 10, 10, 10]", "expected 3"]),
    ({"train.best_by": "validation/error"}, ["validation/error", "no evaluation", "validation/loss, validation/acc",
                                             "accuracy_2"]),
    ({"train.best_by": "validation/accuracy", "train.eval_every": 0}, ["no evaluation", "expected one of", "n/loss"]),
    ({"model.norm": "middle"}, ["middle", "pre"]),
    ({"model.positions": "learned", "model.max_positions": 4}, ["max_positions 4", "raise it"]),
])
def test_what_cannot_be_trained_is_named(toy_config, tmp_path, overrides, words):
    with pytest.raises(UserError) as error:
        loop.train(toy_config(**overrides), tmp_path, make_samples=SampleWriter)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("overrides", "what"), [
    ({"model.layers": 1}, r"config\.model"), ({"objective.name": "both"}, r"config\.objective"),
    ({"sources.lyrics.width": 32}, r"config\.sources"),
    ({"data.end_of_song": False}, r"config\.data\.end_of_song"),
])
def test_a_workdir_of_another_model_is_refused_and_left_as_it_is(toy_config, toy_workdir, overrides, what):
    before = (toy_workdir / "config.json").read_bytes()
    with pytest.raises(UserError, match=f"another {what}"):
        loop.train(toy_config(**overrides), toy_workdir)
    assert (toy_workdir / "config.json").read_bytes() == before


def test_a_directory_of_somebody_elses_is_no_workdir(toy_config, tmp_path):
    (tmp_path / "run.log").touch()  # of the shell that started this
    (tmp_path / "song 1").mkdir()
    with pytest.raises(UserError, match="holds song 1 and no run: expected a new or empty directory"):
        loop.train(toy_config(), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["run.log", "song 1"]


def test_a_model_that_no_machine_holds_is_refused(toy_config, tmp_path):
    with pytest.raises(UserError, match=r"parameters, which take \d+ GiB to train, but this machine has \d+: `--plan`"):
        loop.train(toy_config(**{"model.width": 2**16, "model.layers": 64}), tmp_path)


def test_a_workdir_that_is_a_file_is_named(toy_config, tmp_path):
    (tmp_path / "workdir").write_text("")
    with pytest.raises(UserError, match="workdir"):
        loop.train(toy_config(), tmp_path / "workdir")
