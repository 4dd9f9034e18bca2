"""Exports by pipelines of Apache Beam: the same bytes as without, stopped or not, and one line for whatever fails."""

import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from autosong_jax.errors import UserError
from data_prep import beam
from data_prep.beam import BeamWorkers
from data_prep.pipeline import Options, export
from data_prep.records import Job, Shard
from data_prep.songs import Song
from data_prep.tasks import AudioFile
from data_prep.workers import WorkerDied

pytest.importorskip("apache_beam")

ROOT = Path(__file__).resolve().parents[2]
SONGS = 5


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Good ones, one with a tag that is noted, and one that cannot be read."""
    root = tmp_path_factory.mktemp("some") / "songs"
    for i in range(SONGS):
        folder = root / f"song {i}"
        folder.mkdir(parents=True)
        noise = 0.1 * np.random.default_rng(i).standard_normal(16000 + 1600 * i)
        soundfile.write(folder / "audio.wav", noise, 16000)
        (folder / "lyrics.txt").write_text(f"[verse]\nla {i}" if i else "[zzz]\nla")
        (folder / "genre.txt").write_text("rain")
    (root / "bad").mkdir()
    (root / "bad" / "lyrics.txt").write_text("la")
    (root / "bad" / "audio.wav").write_bytes(b"RIFF nonsense" * 100)
    return root


@pytest.fixture(scope="module")
def exported(songs, tmp_path_factory):
    """A dataset made without Beam."""
    target = tmp_path_factory.mktemp("exported") / "dataset"
    export(Options(str(songs), str(target), shards=2))
    return target


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*"))
            if path.is_file()}


def run(songs, target, *flags):
    """Paths are relative, and start where the workers do not."""
    return [sys.executable, "-m", "data_prep.export", f"--input={os.path.relpath(songs)}", "--shards=2",
            f"--output={os.path.relpath(target)}", "--runner=beam", *flags]


def kept(target):
    return {path: path.stat().st_mtime_ns for path in (target / ".partial" / "records").glob("*")
            if path.suffix != ".unfinished"}


def test_killed_and_started_again(songs, exported, tmp_path, monkeypatch):
    """First with Beam's workers in processes of their own, then by default: the same bytes, and nothing done twice."""
    monkeypatch.chdir(ROOT)
    target = tmp_path / "data set"
    processes = "--beam_options=--direct_running_mode=multi_processing --direct_num_workers=2"
    if " " in sys.executable:  # which Beam hands to a shell as it is
        processes = "--workers=2"
    with subprocess.Popen(run(songs, target, processes), stderr=subprocess.PIPE) as process:
        while not kept(target) and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.stderr.read()  # ends when the last of its processes has
    before = kept(target)
    assert before
    process = subprocess.run(run(songs, target, "--workers=2"), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert f"{len(before)} song" in process.stdout and "encoded before" in process.stdout
    assert contents(target) == contents(exported)
    report = json.loads((target / "report.json").read_text())
    assert [song["song"] for song in report["left_out"]] == ["bad"] and report["songs"]["song 0"]["notes"]


def test_nothing_to_do_the_second_time(songs, exported):
    before = contents(exported)
    finished, speed = export(Options(str(songs), str(exported), shards=2, runner="beam", workers=2))
    assert speed is None and len(finished["songs"]) == SONGS
    with pytest.raises(UserError, match="--overwrite"):
        export(Options(str(songs), str(exported), runner="beam", workers=2))
    assert contents(exported) == before and not (exported / ".partial").exists()


def test_pretrained_codec_and_text_encoder(songs, tmp_path, save_text_encoder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.EncodecModel(transformers.EncodecConfig(
        num_filters=2, hidden_size=8, codebook_size=16, upsampling_ratios=[8, 5, 4], sampling_rate=16000,
        target_bandwidths=[0.8])).eval()
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_(std=0.1)
    model.save_pretrained(tmp_path / "encodec")
    save_text_encoder("t5", tmp_path / "t5")
    options = functools.partial(Options, str(songs), codec=str(tmp_path / "encodec"),
                                text_encoder=f"t5:{tmp_path / 't5'}")
    export(options(str(tmp_path / "local")))
    export(options(str(tmp_path / "beam"), runner="beam", workers=2))
    assert contents(tmp_path / "local") == contents(tmp_path / "beam")


def square(number):
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 100:
        raise UserError("100 is too large")
    if number == 1000:
        raise ValueError("1000 is\nmuch too large")
    return number * number


def test_results(tmp_path, monkeypatch):
    """Of every item, of one that kills its process, too; what is too large ends in one line."""
    monkeypatch.setattr(beam, "_ITEMS_A_FILE", 3)
    with BeamWorkers(2, [], tmp_path / "work") as workers:
        results = dict(workers.map(square, [1, 2, -3, 4]))
        assert {i: isinstance(result, WorkerDied) or result for i, result in results.items()} == {
            1: 1, 2: 4, -3: True, 4: 16}
        assert list(workers.map(square, [])) == []
        with pytest.raises(UserError, match=r"^100 is too large$"):
            list(workers.map(square, [1, 100]))
        with pytest.raises(UserError, match=r"the pipeline failed \(.*much too large.*\)") as caught:
            list(workers.map(square, [1, 1000]))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("items", [
    [1, 2], [Path("a"), Path("b\udcff")], [("a", Path("b"))],
    [(AudioFile("song", Path("/a b\udcff/c.wav"), 16000, 1), "key")],
    [Job(Song("a", Path("a.wav"), "g", "la\nlo \u2028 é"), (AudioFile("song", Path("c"), 1, 2),), "group", "key")] * 4,
    [Job(Song("a", Path("c"), "g", "", backing=Path("b")), (AudioFile("a", Path("c"), 1, 2), AudioFile(
        "a", Path("b"), 1, 2, 800)), "group", "key")],
    [Shard(Path("a"), (Path("b"), Path("c"))), Shard(Path("d"), ())]])
def test_items_go_by_way_of_files_without_code(tmp_path, items, monkeypatch):
    monkeypatch.setattr(beam, "_ITEMS_A_FILE", 3)
    paths = beam._write_items(items, tmp_path)
    assert [item for path in paths for item in beam._read_items(path, beam._kind(items[0]))] == list(enumerate(items))
    Path(paths[0]).write_bytes(pickle.dumps(items))
    with pytest.raises(ValueError, match=r"utf-8|JSON|Expecting"):
        beam._read_items(paths[0], beam._kind(items[0]))


@pytest.mark.parametrize(("option", "message"), [
    ("--runner=SlowRunner", "SlowRunner.*FlinkRunner"),
    ("--runner=somewhere.else.Runner", "No module named 'somewhere'"),
    ("--direct_num_worker=2", "no option --direct_num_worker"),
    ("--direct_num_workers=two", "invalid int value: 'two'"),
])
def test_options_that_are_none(tmp_path, option, message):
    with pytest.raises(UserError, match=message):
        BeamWorkers(2, [option], tmp_path)


def test_options_are_those_of_beam(tmp_path):
    options = ["--runner=FlinkRunner", "--flink_master=somewhere:8081", "--parallelism=64"]
    found = BeamWorkers(2, options, tmp_path)._options.get_all_options(retain_unknown_options=True)
    assert (found["runner"], found["flink_master"], found["parallelism"]) == ("FlinkRunner", "somewhere:8081", 64)
