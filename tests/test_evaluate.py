"""The command that judges models: cut off anywhere it goes on, and what it says moves as songs get worse."""

import html.parser
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from autosong_jax import cli, evaluate
from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from autosong_jax.evaluation.results import Results

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ("--settings=temperature=1", "--settings=temperature=0,cfg_scale=2")


@pytest.fixture
def command(monkeypatch, capsys):
    """`command("--workdir=x")` runs the command here: its exit status, and what is on stdout and stderr."""
    def run(*arguments):
        values = flags.FlagValues()
        for module in (flags, evaluate):
            monkeypatch.setattr(module, "FLAGS", values)
        for name in [name for name in dir(flags) if name.startswith("DEFINE_")] + ["mark_flags_as_required"]:
            function = getattr(flags, name)
            if not hasattr(function, "of_test"):
                def bound(*a, function=function, **k):
                    return function(*a, **{"flag_values": flags.FLAGS, **k})

                bound.of_test = True
                monkeypatch.setattr(flags, name, bound)
        evaluate.define_flags()
        with pytest.raises(SystemExit) as left:
            cli.run(evaluate.main, ["evaluate", *map(str, arguments)])
        return left.value.code, *capsys.readouterr()

    return run


def judge_toy(command, toy_workdir, toy_dataset, output):
    code, said, errors = command(f"--workdir={toy_workdir}", f"--dataset={toy_dataset}", f"--output={output}",
                                 "--samples=1", *SETTINGS)
    assert code == 0, errors
    assert str(output / "metrics.json") in said
    return (output / "metrics.json").read_bytes()


class Report(html.parser.HTMLParser):
    """What stands in an HTML file, and which tags are open at its end."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img", "br", "source", "link"):
            self.open.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def check_report(output, found):
    """It is whole, of one piece, and says every number with its interval."""
    text = (output / "report.html").read_text()
    report = Report(text)
    assert not report.open and "width=device-width" in text
    assert len(report.sources) > 4 and all(source.startswith("data:") for source in report.sources)
    said = " ".join(report.texts)
    numbers = [found["teacher_forced"]["next_step"], *(some["metrics"] for some in found["judged"])]
    numbers = [estimate for some in numbers for estimate in some.values() if estimate["value"] is not None]
    numbers += [entry for some in found["judged"] for entry in some.get("distances", ()) if entry["value"] is not None]
    assert len(numbers) > 60
    for estimate in numbers:
        value, low, high = (f"{estimate[name]:.4g}" for name in ("value", "low", "high"))
        assert f"{value} [{low}, {high}]" in said
    for some in found["judged"]:
        assert some["name"] in said
    samples = sorted(path.relative_to(output / "samples").as_posix() for path in output.rglob("*.wav"))
    assert samples == [f"{name}/validation 0.wav" for name in (
        "temperature=0,cfg_scale=2", "temperature=1", "true_songs")]


@pytest.fixture(scope="module")
def undisturbed():
    """What the first test finds, for the others."""
    return {}


def test_what_is_cut_off_goes_on_and_finds_the_same(command, toy_workdir, toy_dataset, tmp_path, monkeypatch,
                                                    undisturbed):
    undisturbed["metrics"] = judge_toy(command, toy_workdir, toy_dataset, tmp_path / "whole")
    found = json.loads(undisturbed["metrics"])
    assert [some["name"] for some in found["judged"]] == ["true songs", "temperature=1", "temperature=0,cfg_scale=2"]
    check_report(tmp_path / "whole", found)
    assert found["teacher_forced"]["next_step"]["loss"]["songs"] == 2
    output, kept = tmp_path / "cut off", []

    def cut_off(keep):
        def keep_and_stop(self, song, what):
            keep(self, song, what)
            kept.append((self.folder.name, song, keep.__name__))
            if len(kept) == 11:  # when some songs have been judged; the other test stops before
                raise KeyboardInterrupt

        return keep_and_stop

    for name in ("keep_numbers", "keep_array"):
        monkeypatch.setattr(Results, name, cut_off(getattr(Results, name)))
    for stopped in (130, 0):
        code, *_ = command(f"--workdir={toy_workdir}", f"--dataset={toy_dataset}", f"--output={output}", "--samples=1",
                           *SETTINGS)
        assert code == stopped
    assert len(kept) == len(set(kept)) == 2 * (1 + 1 + 2 + 3 + 1)  # losses, choices, songs, what is heard, pairs
    assert (output / "metrics.json").read_bytes() == undisturbed["metrics"]


def test_a_process_that_is_killed_goes_on_and_finds_the_same(command, toy_workdir, toy_dataset, tmp_path, undisturbed):
    output = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "autosong_jax.evaluate", f"--workdir={toy_workdir}", f"--dataset={toy_dataset}",
         f"--output={output}", "--samples=1", *SETTINGS], cwd=ROOT, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)})
    while process.poll() is None and not list(output.glob("results/sung-*/*.npy")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    assert not (output / "metrics.json").exists()
    metrics = judge_toy(command, toy_workdir, toy_dataset, output)
    assert metrics == undisturbed.get("metrics", metrics)


def test_another_model_or_setting_does_not_mix_in(tmp_path):
    one, other = (Results(tmp_path, "sung", {"weights": weights}) for weights in "ab")
    one.keep_array("a/b", np.arange(3))
    one.keep_numbers("a/b", {"x": np.float64(0.1), "y": np.arange(2)})
    assert other.array("a/b") is None and other.numbers("a/b") is None
    again = Results(tmp_path, "sung", {"weights": "a"})
    np.testing.assert_array_equal(again.array("a/b"), np.arange(3))
    assert again.numbers("a/b") == {"x": 0.1, "y": [0, 1]}
    for damaged in again.folder.glob("a*"):
        damaged.write_bytes(damaged.read_bytes()[:10])
    assert again.array("a/b") is None and again.numbers("a/b") is None


@pytest.mark.parametrize(("text", "options"), [
    ("", {}), ("temperature=0", {"temperature": 0}), ("temperature=0.5,top_k=250", {"temperature": 0.5, "top_k": 250}),
    ("steps=20/10,arrangement=stride1", {"steps": [20, 10], "arrangement": "stride1"})])
def test_settings_are_read(text, options):
    assert evaluate.parse_settings(text) == options


@pytest.mark.parametrize("text", ["temperature", "=1", "top_k=1,top_k=2", "a b=1"])
def test_settings_that_are_none_are_named(text):
    with pytest.raises(UserError, match=f"--settings={text}: expected NAME=VALUE"):
        evaluate.parse_settings(text)


@pytest.fixture
def codes(toy_dataset, tmp_path):
    """A folder with the codes of the validation songs."""
    folder = tmp_path / "codes"
    folder.mkdir()
    dataset = SongDataset(toy_dataset, "validation")
    for i in range(2):
        np.save(folder / f"{dataset[i]['id']}.npy", dataset[i]["frames"])
    return folder


def test_wrong_input_is_named(command, toy_workdir, toy_dataset, tmp_path, codes):
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    shutil.copytree(toy_workdir, tmp_path / "untrained", ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree(toy_dataset, other)
    info = json.loads((other / "codec" / "codec.json").read_text())
    (other / "codec" / "codec.json").write_text(json.dumps(info | {"floor": 2 * info["floor"]}))
    rest = f"--dataset={toy_dataset}", f"--output={tmp_path / 'out'}"
    for arguments, words in [
            (rest, "nothing to judge: expected one of --workdir, --codes and --audio"),
            ((*rest, f"--workdir={toy_workdir}", f"--codes={codes}"), "--workdir and --codes: expected one"),
            ((*rest, f"--codes={codes}", "--settings=top_k=1"), "it is for songs that a --workdir sings"),
            ((*rest, f"--workdir={toy_workdir}", "--split=test"), "has no songs in the split 'test'"),
            ((*rest, f"--workdir={empty}"), "config.json"),
            ((*rest, f"--workdir={tmp_path / 'untrained'}"), "holds no finished checkpoint"),
            ((f"--dataset={other}", rest[1], f"--workdir={toy_workdir}"), "another codec"),
            ((*rest, f"--codes={empty}"), "holds no .npy files"),
            ((*rest, f"--audio={tmp_path / 'none'}"), "is no directory"),
            ((*rest, f"--codes={codes}", "--transcriber=ears"), "--transcriber=ears: expected whisper:ID"),
            ((*rest, f"--codes={codes}", "--language=en"), "--language=en without --transcriber"),
            ((*rest, f"--codes={codes}", "--embedder=ears"), "--embedder=ears: expected spectral, codec or clap:ID"),
            ((*rest, f"--workdir={toy_workdir}", "--settings=temperature=hot"), "is 'hot', expected a number"),
            ((*rest, f"--workdir={toy_workdir}", "--settings=warmth=1"), "warmth is no option, expected one of"),
            ((*rest, f"--workdir={toy_workdir}", "--settings=steps=3"), "expected one that was trained to fill in"),
    ]:
        code, _, errors = command(*arguments)
        assert code == 2 and words in errors and len(errors.strip().splitlines()) == 1, errors


def test_songs_made_elsewhere_are_judged_and_damaged_ones_are_left_out(command, toy_dataset, codes, tmp_path):
    (codes / "validation 0.npy").rename(codes / "anything.npy")
    (codes / "broken.npy").write_bytes(b"nothing")
    code, _, errors = command(f"--codes={codes}", f"--dataset={toy_dataset}", f"--output={tmp_path / 'out'}",
                              "--memorisation")
    assert code == 0 and "broken.npy is not a .npy file" in errors and "left out" in errors
    of_all, ours = json.loads((tmp_path / "out" / "metrics.json").read_text())["judged"]
    assert list(ours["left_out"]) == ["broken.npy"] and ours["songs"] == 2
    assert ours["metrics"]["accuracy"] == {"value": 1.0, "low": None, "high": None, "songs": 1}
    assert ours["metrics"]["entropy"] == of_all["metrics"]["entropy"]
    assert ours["metrics"]["memorised.all: 1 s, 100 %"]["value"] is None  # all songs are shorter
