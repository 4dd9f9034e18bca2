"""Looking at runs: workdirs as a run leaves them at some moment, written by hand; without JAX."""

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl import flags

from autosong_jax import cli, monitor
from autosong_jax.evaluation import progress
from autosong_jax.evaluation.progress import Run, Series

ROOT = Path(__file__).resolve().parent.parent


def line(step: int, loss: float, kind: str = "train", **values) -> str:
    return json.dumps({"step": step, "kind": kind, "loss": loss, **values}) + "\n"


@pytest.fixture
def workdir(tmp_path):
    """`workdir(name, lines, steps=..., checkpoints={step: numbers, or as they once were: the loss})` makes one."""
    def make(name: str, lines: str | None, steps: int = 1000, checkpoints=None, **train) -> Path:
        path = tmp_path / name
        path.mkdir()
        (path / "config.json").write_text(json.dumps({"train": {"steps": steps, **train}}))
        if lines is not None:
            (path / "metrics.jsonl").write_text(lines)
        for step, loss in (checkpoints or {}).items():
            (path / "checkpoints" / str(step)).mkdir(parents=True)
            if loss is not None:
                (path / "checkpoints" / str(step) / "metrics").mkdir()
                (path / "checkpoints" / str(step) / "metrics" / "metrics").write_text(
                    json.dumps({"validation_loss": loss} if isinstance(loss, float) else loss))
        return path

    return make


@pytest.fixture
def command(monkeypatch, capsys):
    """`command("--workdir=x")` runs the command here: its exit status, and what is on stdout and stderr."""
    def run(*arguments):
        values = flags.FlagValues()
        monkeypatch.setattr(flags, "FLAGS", values)
        monkeypatch.setattr(monitor, "FLAGS", values)
        define = {name: getattr(flags, name) for name in ("DEFINE_multi_string", "DEFINE_bool", "DEFINE_string")}
        for name, function in define.items():
            monkeypatch.setattr(flags, name, lambda *a, function=function: function(*a, flag_values=values))
        monitor.define_flags()
        with pytest.raises(SystemExit) as left:
            cli.run(monitor.main, ["monitor", *map(str, arguments)])
        return left.value.code, *capsys.readouterr()

    return run


def losses(run: Run, kind: str = "train") -> list[tuple[int, float]]:
    return [(point.first, point.mean) for point in run.get(kind, "loss").bins]


def test_a_line_that_is_half_there_is_left_for_the_next_look(workdir, monkeypatch):
    whole = [line(step, 1 / step) for step in range(1, 41)]
    text = "".join(whole)
    path = workdir("run", "") / "metrics.jsonl"
    run = Run(path.parent)
    opened = []
    monkeypatch.setattr(Run, "_take", lambda self, line, take=Run._take: (opened.append(line), take(self, line))[1])
    cuts = sorted(random.Random(0).sample(range(len(text)), 60))
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        with path.open("a") as file:
            file.write(text[start:end])
        run.look()
        assert len(losses(run)) == text[:end].count("\n") and run.damaged == 0
    assert losses(run) == [(step, 1 / step) for step in range(1, 41)]
    assert len(opened) == 40, "nothing is read twice"


def test_damaged_lines_are_counted_and_passed_over(workdir, monkeypatch):
    monkeypatch.setattr(progress, "CHUNK", 4096)
    damaged = ['{"step": 3, "ki\n', "[1, 2]\n", "{}\n", "\n", '{"step": true, "kind": "train"}\n', "[" * 3000 + "\n",
               "x" * 10000 + "\n"]
    path = workdir("run", line(1, 3.0) + "".join(damaged) + line(2, float("nan"), accuracy="high") + line(3, 2.0))
    run = Run(path)
    run.look()
    assert run.damaged == len(damaged) and losses(run) == [(1, 3.0), (3, 2.0)] and run.step == 3


def test_of_steps_that_are_computed_again_the_later_count(workdir):
    path = workdir("run", line(10, 5.0) + line(20, 0.1) + line(20, 0.2, "validation") + line(30, 0.05))
    run = Run(path)
    run.look()
    with (path / "metrics.jsonl").open("a") as file:  # as when two files are put together
        file.write(line(20, 3.0) + line(20, 4.0, "validation"))
    run.look()
    assert losses(run) == [(10, 5.0), (20, 3.0)] and losses(run, "validation") == [(20, 4.0)] and run.step == 20
    assert run.get("train", "loss").best == (3.0, 20) and run.get("train", "loss").newest == 3.0
    (path / "metrics.tmp").write_text(line(10, 5.0) + line(20, 2.0) + line(30, 1.0) + line(40, 0.9) + line(50, 0.8))
    (path / "metrics.tmp").replace(path / "metrics.jsonl")  # as a run does that goes on
    run.look()
    assert [step for step, _ in losses(run)] == [10, 20, 30, 40, 50] and run.get("validation", "loss").bins == []


def test_a_long_series_keeps_its_shape_and_its_least_value():
    series, values = Series(), [1 / (1 + i) + random.Random(i).random() for i in range(20_000)]
    for i, value in enumerate(values):
        series.add(i, value)
    assert len(series.bins) <= progress.POINTS and sum(point.count for point in series.bins) == len(values)
    assert series.best == (min(values), values.index(min(values))) and series.newest == values[-1]
    for point in series.bins:
        inside = values[point.first:point.last + 1]
        assert point.mean == pytest.approx(sum(inside) / len(inside))


def test_time_left_and_whether_a_run_has_stopped(workdir):
    path = workdir("run", line(100, 2.0, steps_per_second=9.0) + line(200, 1.0, steps_per_second=0.5), steps=500)
    run = Run(path)
    run.look()
    assert run.seconds_left == (500 - 200) / 0.5
    usual = 100 / 0.5  # seconds between lines
    assert not run.has_stopped(run.written + 2 * usual) and run.has_stopped(run.written + 10 * usual)
    with (path / "metrics.jsonl").open("a") as file:
        file.write(line(500, 0.5, steps_per_second=0.5))
    run.look()
    assert run.finished and run.seconds_left == 0 and not run.has_stopped(run.written + 1e6)
    assert [monitor.duration(s) for s in (45, 600, 5999, 11100, 187200)] == [
        "45 s", "10 min", "1 h 40 min", "3 h 05 min", "2 d 4 h"]


def test_time_left_is_reckoned_with_evaluations_but_without_nights(workdir):
    times = {10: 1000, 20: 1002, 30: 1052, 40: 1054, 50: 60_000, 60: 60_002}  # an evaluation; then it had been stopped
    path = workdir("run", "".join(line(step, 1.0, steps_per_second=5.0, time=time) for step, time in times.items()))
    run = Run(path)
    run.look()
    assert run.seconds_left == pytest.approx((1000 - 60) * (2 + 50 + 2 + 2) / 40)


def test_the_best_checkpoint_is_that_of_the_least_validation_loss(workdir):
    run = Run(workdir("run", line(1, 1.0), checkpoints={9: None, 10: 0.5, 100: 0.25, 20: 0.75}))
    (run.workdir / "checkpoints" / "200.orbax-checkpoint-tmp").mkdir()
    (run.workdir / "checkpoints" / "30" / "metrics").mkdir(parents=True)
    (run.workdir / "checkpoints" / "30" / "metrics" / "metrics").write_text("{")
    run.look()
    assert run.checkpoints == {9: {}, 10: {"validation/loss": 0.5}, 20: {"validation/loss": 0.75}, 30: {},
                               100: {"validation/loss": 0.25}}
    assert run.newest_checkpoint == 100 and run.best_checkpoint == 100


def test_the_best_checkpoint_is_that_of_the_number_that_the_run_keeps_them_by(workdir):
    run = Run(workdir("run", line(1, 1.0), best_by="validation/accuracy", checkpoints={
        10: {"validation/accuracy": 0.5, "validation/loss": 0.1}, 20: {"validation/accuracy": 0.75}, 30: 0.0}))
    run.look()
    assert run.best_checkpoint == 20


def test_runs_are_shown_beside_each_other_and_drawn(workdir, command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    values = {f"{name}_{codebook}": 0.25 for name in ("loss", "accuracy") for codebook in range(3)}
    one = workdir("one", "".join(line(step, 100 / step, accuracy=0.5, learning_rate=1e-3, gradient_norm=1.0,
                                      steps_per_second=2.0, data_wait=0.125, mfu=0.375, **values)
                                 for step in range(10, 500, 10)) + line(490, 0.75, "validation", **values),
                  checkpoints={250: 0.875, 490: 0.75})
    two = workdir("$two_", "".join(line(step, -step / 8, kind) for step in (1, 2) for kind in ("train_a", "train_b")))
    status, out, err = command(f"--workdir={one}", f"--workdir={two}", f"--plot={tmp_path / 'curves.png'}")
    assert status == 0, err
    assert max(map(len, out.splitlines())) <= 140
    for shown in ("490 of 1,000 (49 %)", "about 4 min", "37.5 %", "12.5 %", "█",
                  "newest 490, best 490 (validation/loss 0.75)", "train 0.25 25.0 %, valid. 0.25 25.0 %",
                  "train a loss", "-0.25, best -0.25 at 2", "0.75, best 0.75"):
        assert shown in out, shown
    assert any("one" in row and "$two_" in row for row in out.splitlines())
    png = (tmp_path / "curves.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", png[16:24]) == (1400, 1200) and len(png) > 20_000
    assert not list(tmp_path.glob(".unfinished*"))


def test_what_was_sung_is_shown_and_drawn(workdir, command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    sung = "".join(json.dumps({"step": step, "kind": "sung", "note_error_rate": 1 / step, "silence": 0.25, "time": 9})
                   + "\n" for step in (10, 20, 40))
    path = workdir("run", line(1, 1.0) + sung, best_by="sung/note_error_rate", checkpoints={
        20: {"sung/note_error_rate": 0.05}, 40: {"sung/note_error_rate": 0.025}, 41: {"validation/loss": 0.001}})
    status, out, err = command(f"--workdir={path}", f"--plot={tmp_path / 'curves.png'}")
    assert status == 0, err
    for shown in ("sung note error rate", "0.025", "sung silence", "best 40 (sung/note error rate 0.025)"):
        assert shown in out, out
    assert "time" not in [word for row in out.splitlines() if "sung" in row for word in row.split()]
    assert struct.unpack(">II", (tmp_path / "curves.png").read_bytes()[16:24]) == (1400, 1600)


def test_nothing_in_a_workdir_steers_the_terminal(workdir, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    path = workdir("\x1b]0;x\x07[red]\u202e", line(1, 1.0) + line(1, 1.0, "train_\x1b[2J") +
                   '{"step": 2, "kind": "train", "loss": 1.0, "loss_\x1b[2J": 3}\n')
    status, out, err = command(f"--workdir={path}")
    assert status == 0, err
    assert not cli.STEERING.search(out) and r"\x1b]0;x\x07[red]\u202e" in out


@pytest.mark.parametrize(("arguments", "said"), [
    ([], "--workdir is missing"),
    (["--workdir={}/nowhere"], "nowhere is no directory"),
    (["--workdir={}"], "holds no run"),
    (["--workdir={}/run"], "run: nothing has been logged yet"),
    (["--workdir={}/run", "--workdir={}/./run"], "given twice"),
    (["--workdir={}/run", "--plot={}/nowhere/x.png"], "there is no directory"),
    (["--workdir={}/run", "--plot={}/x.jpg"], "ends in .png"),
])
def test_mistakes_are_one_line(workdir, command, tmp_path, arguments, said):
    workdir("run", None)
    status, out, err = command(*(argument.format(tmp_path) for argument in arguments))
    assert status == 2 and not out and err.startswith("error: ") and err.count("\n") == 1 and said in err


def test_watching_needs_no_jax_and_ends_with_ctrl_c(workdir, environment_without, tmp_path):
    path, picture = workdir("run", line(1, 4.0)), tmp_path / "curves.png"
    watching = subprocess.Popen(
        [sys.executable, "-m", "autosong_jax.monitor", f"--workdir={path}", "--watch", f"--plot={picture}"], cwd=ROOT,
        env=environment_without("jax", "jaxlib", "flax", "torch", "tensorflow"), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True)
    try:
        while not picture.exists() and watching.poll() is None:
            time.sleep(0.05)
        os.kill(watching.pid, signal.SIGINT)
        out, err = watching.communicate(timeout=60)
    finally:
        watching.kill()
    assert watching.returncode == 0 and not err, err
    assert "1 of 1,000" in out and str(picture) in out and picture.stat().st_size > 20_000
