"""What starts training elsewhere: the script that starts it again, whether it is healthy, and the files of jobs."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
RESTART = ROOT / "docker" / "restart"
# Ends by the next line of the file given: with a status, or a signal to itself, or "wait" for SIGTERM.
COMMAND = """#!/bin/sh
echo start >>"$1.starts"
what=$(sed -n "$(wc -l <"$1.starts")p" "$1")
case $what in
wait) trap 'echo saved >"$1.saved"; exit 130' TERM; while :; do sleep 0.05; done ;;
[A-Z]*) kill -s "$what" $$ ;;
*) exit "$what" ;;
esac
"""


@pytest.fixture
def restart(tmp_path):
    """`restart("1", "0", RESTART_TRIES=3)` has the script run a command that ends in these ways, one after another."""
    (tmp_path / "command").write_text(COMMAND)
    (tmp_path / "command").chmod(0o755)

    def start(*ends, **options):
        (tmp_path / "ends").write_text("\n".join(ends) + "\n")
        environment = os.environ | {"RESTART_PAUSE": "0"} | {name: str(value) for name, value in options.items()}
        return subprocess.Popen([RESTART, tmp_path / "command", tmp_path / "ends"], env=environment, text=True,
                                stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)

    return start


def starts(tmp_path):
    path = tmp_path / "ends.starts"
    return path.read_text().count("start") if path.exists() else 0


@pytest.mark.parametrize(("ends", "options", "status"), [
    (["TERM", "KILL", "130", "1", "0"], {}, 0),
    (["1", "2"], {}, 2),
    (["127"], {}, 127),
    (["1", "137", "1"], {"RESTART_TRIES": 3}, 1),
    (["1", "1", "0"], {"RESTART_TRIES": 1, "RESTART_SECONDS": 0}, 0),  # none of them ended quickly
])
def test_a_command_is_run_again_until_that_is_no_use(restart, tmp_path, ends, options, status):
    process = restart(*ends, **options)
    _, said = process.communicate(timeout=30)
    assert process.returncode == status, said
    assert starts(tmp_path) == len(ends)
    assert len(re.findall("starting again", said)) == len(ends) - 1


def test_whoever_stops_it_has_the_command_save_and_is_obeyed(restart, tmp_path):
    process = restart("1", "wait", "0")
    while starts(tmp_path) < 2:
        time.sleep(0.02)
    time.sleep(0.2)  # for the command to set its trap
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130 and (tmp_path / "ends.saved").exists() and starts(tmp_path) == 2


def test_a_pause_can_be_stopped(restart, tmp_path):
    process = restart("7", RESTART_PAUSE=1000)
    process.stderr.readline()  # that it will start again
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 7 and starts(tmp_path) == 1


def test_healthy_is_what_runs_and_goes_on(tmp_path):
    def healthy():
        return subprocess.run([ROOT / "docker" / "healthy"], env=os.environ | {"RESTART_PID_FILE": str(pid)},
                              stderr=subprocess.DEVNULL).returncode == 0

    pid, metrics = tmp_path / "pid", tmp_path / "metrics.jsonl"
    assert not healthy()
    process = subprocess.Popen(
        ["sh", "-c", "while :; do sleep 0.1; done", "-m", "autosong_jax.train", f"--workdir={tmp_path}"])
    try:
        pid.write_text(f"{process.pid}\n")
        assert healthy()  # begun just now
        for path in (pid, metrics):
            path.touch()
            os.utime(path, (time.time() - 7200,) * 2)
        assert not healthy()
        metrics.touch()
        assert healthy()
    finally:
        process.kill()
        process.wait()
    assert not healthy()


def test_files_of_jobs_can_be_read_and_name_configs_that_exist():
    jobs = ROOT / "docs" / "jobs"
    sky = yaml.safe_load((jobs / "skypilot.yaml").read_text())
    vertex = json.loads((jobs / "vertex.json").read_text())
    texts = [sky["setup"], sky["run"], " ".join(vertex["workerPoolSpecs"][0]["containerSpec"]["args"])]
    for script in (jobs / "slurm.sh", RESTART, ROOT / "docker" / "healthy"):
        assert os.access(script, os.X_OK)
        subprocess.run(["bash", "-n", script], check=True)
    for page in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        texts.append(page.read_text())
        for link in re.findall(r"\]\(([^)#:]+)[#)]", texts[-1]):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
    for name in re.findall(r"--config=(configs/(?!NAME)\w+\.py)", " ".join(texts)):
        assert (ROOT / name).exists(), name


def test_an_image_is_made_of_all_that_is_installed():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = re.search(r"include = (\[.+\])", (ROOT / "pyproject.toml").read_text())[1]
    assert {name.removesuffix("*") for name in json.loads(packages)} <= allowed
    assert all((ROOT / name).exists() for name in allowed)
