"""Wrong input through the commands, drawn by a fixed seed; `python -m benchmarks.fuzz` draws thousands."""

import random

import pytest

from benchmarks.fuzz import draw
from benchmarks.fuzzing import fixtures
from benchmarks.fuzzing.kinds import IMPORTS, KINDS
from benchmarks.fuzzing.scene import Case, Scene
from benchmarks.fuzzing.server import Server

# Commands that do not end as they should, by what they do, and what the harness has to say of each.
SCRIPT = """
import os, pathlib, subprocess, sys, time
from absl import flags
from autosong_jax import cli
from autosong_jax.errors import UserError

def define_flags():
    flags.DEFINE_string("do", "", "")

def main():
    what = flags.FLAGS.do
    if what == "raise": raise ValueError("no")
    if what == "wait": time.sleep(60)
    if what == "work":
        while True: pass
    if what == "take": _ = b"x" * 2**30; time.sleep(60)
    if what == "touch": pathlib.Path("../given/file").write_text("other")
    if what == "stray": pathlib.Path("../stray").touch()
    if what == "steer": print("\\x1b[2J")
    if what == "warn": print("WARNING: a library", file=sys.stderr)
    if what == "twice": print("error: one", file=sys.stderr); raise UserError("two")
    if what == "leave": subprocess.Popen(["sleep", "60"])
    if what == "refuse": raise UserError("it is wrong")
    if what == "status": return 3
"""
ENDS = {"raise": "traceback", "wait": "ended for time", "work": "ended for time", "take": "ended for memory",
        "touch": "touched what was there", "stray": "left stray where nothing is for it",
        "steer": "control characters", "warn": "noise of libraries", "twice": "2 lines of error with status 2",
        "leave": "left a process behind", "refuse": "well", "status": "status 3", "": "taken without a word"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    (folder / "fuzzed_by_a_test.py").write_text(SCRIPT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        server = Server(folder / "cache", [*IMPORTS, "fuzzed_by_a_test"], idle=2)
    yield server
    server.close()


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "fixtures"
    fixtures.make(folder)
    return folder


@pytest.mark.parametrize("what", ENDS)
def test_the_harness_sees_what_is_wrong(server, tmp_path, what):
    scene = Scene(tmp_path / "scene", tmp_path, random.Random(0))
    scene.file("file", b"somebody's")
    case = Case("fuzzed_by_a_test", [f"--do={what}"], wanted=(2,), seconds=3, memory=800)
    assert server.run(case, scene).verdict == ENDS[what]


def test_a_case_can_be_drawn_again(given, tmp_path):
    for kind in KINDS:
        one, _ = draw(kind, 7, 0, tmp_path / "scene", given)
        other, _ = draw(kind, 7, 0, tmp_path / "scene", given)
        assert one == other


@pytest.mark.parametrize("kind", KINDS)
def test_commands_end_as_promised(server, given, tmp_path, kind):
    case, scene = draw(kind, 0, 0, tmp_path / "scene", given)
    outcome = server.run(case, scene)
    assert outcome.verdict == "well", outcome
