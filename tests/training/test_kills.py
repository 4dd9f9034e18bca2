"""A run killed at its very beginning and while it writes checkpoints, by the benchmark's own means, in small."""

import json
import shutil
import sys

import numpy as np
import pytest

from autosong_jax import config as config_file
from autosong_jax.training import loop
from benchmarks import kills


@pytest.fixture(scope="module")
def config(toy_config):
    return toy_config(sources=False, **{"train.steps": 24, "train.eval_every": 12, "train.ema_every": 1,
                                        "model.layers": 1, "model.dropout": 0.1})


def test_killed_again_and_again_a_run_equals_an_undisturbed_one(config, tmp_path):
    config_file.save(config, tmp_path / "config.json")
    (tmp_path / "config.py").write_text(
        "import pathlib\nfrom autosong_jax import config\n"
        f"get_config = lambda: config.load(pathlib.Path({str(tmp_path / 'config.json')!r}))\n")
    command = [sys.executable, "-m", "autosong_jax.train", f"--config={tmp_path / 'config.py'}"]
    moments = ["beginning", "writing", "writing"]
    deaths = kills.kill(command, tmp_path / "killed", moments, np.random.default_rng(1), longest=0.0)
    assert deaths[0].kept == 0 and not deaths[0].writing
    assert any(death.writing for death in deaths[1:])
    for death in deaths:
        assert death.went_on_from in (None, death.before)
        # While one checkpoint is being written, the next two steps are done at most, and then two until it is there.
        assert death.step - death.kept <= 2 * config.train.checkpoint_every
    loop.train(config, tmp_path / "in_peace")
    equal = kills.compare(tmp_path / "in_peace", tmp_path / "killed")
    assert len(equal) == 5 and all(equal.values()), equal
    left = {path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()}
    assert left >= {"22", "24"} and all(map(str.isdecimal, left))  # nothing half written


def test_the_comparison_sees_a_difference(toy_workdir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(toy_workdir, other)
    assert all(kills.compare(toy_workdir, other).values())
    lines = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    lines[-1]["loss"] += 1e-7
    (other / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [name for name, same in kills.compare(toy_workdir, other).items() if not same] == [
        "metrics.jsonl is equal, but for times"]
