"""The pool: results of every item whatever happens to a process, and no process left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.workers import WorkerDied, Workers

ROOT = Path(__file__).resolve().parents[2]


def square(number):
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def threads(_):
    import numpy  # noqa: F401 (loads the library that is asked about)
    import threadpoolctl

    return {library["num_threads"] for library in threadpoolctl.threadpool_info()}


def test_every_item_comes_back_with_its_result():
    with Workers(2) as workers:
        assert dict(workers.map(square, range(20))) == {i: i * i for i in range(20)}
        assert list(workers.map(square, [])) == []


def test_a_process_that_dies_takes_only_its_own_item_along():
    items = [1, 2, -3, 4, 5, -6, 7]
    with Workers(2) as workers:
        results = dict(workers.map(square, items))
        assert dict(workers.map(square, [8])) == {8: 64}
    assert results.keys() == set(items)
    assert {i: isinstance(result, WorkerDied) or result for i, result in results.items()} == {
        i: i < 0 or i * i for i in items}


def write_to_stderr(text):
    os.write(2, text.encode())
    return len(text)


def test_what_libraries_write_to_stderr_stays_away(capfd):
    with Workers(1) as workers:
        assert dict(workers.map(write_to_stderr, ["[src/libmpg123/id3.c:123] error: no\n"])).popitem()[1] == 36
    assert capfd.readouterr().err == ""


def test_one_thread_for_arithmetic():
    """With more, results could depend on how many the machine has."""
    pytest.importorskip("threadpoolctl")
    with Workers(1) as workers:
        [(_, counts)] = workers.map(threads, [0])
    assert counts == {1}


def test_one_thread_though_the_program_imports_numpy(tmp_path):
    """A new process imports the main program before all else, and with it numpy, which then has all threads."""
    pytest.importorskip("threadpoolctl")
    script = tmp_path / "program.py"
    script.write_text(
        "import numpy\n"
        "from data_prep.workers import Workers\n"
        "from tests.data_prep.test_workers import threads\n"
        "if __name__ == '__main__':\n"
        "    with Workers(1) as workers: print(list(workers.map(threads, [0])))\n")
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    process = subprocess.run([sys.executable, script], env=environment | {"PYTHONPATH": str(ROOT)},
                             capture_output=True, text=True)
    assert process.stdout == "[(0, {1})]\n", process.stderr


def test_processes_go_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, pathlib, sys, time\n"
        "from data_prep.workers import Workers\n"
        "def work(item):\n"
        "    pathlib.Path(sys.argv[1], str(os.getpid())).touch()\n"
        "    time.sleep(100)\n"
        "if __name__ == '__main__':\n"
        "    with Workers(2) as workers: list(workers.map(work, [1, 2]))\n")
    pids = tmp_path / "pids"
    pids.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script, pids], env=environment) as parent:
        wait_until(lambda: len(list(pids.iterdir())) == 2)
        parent.kill()
    wait_until(lambda: not any(is_running(int(path.name)) for path in pids.iterdir()))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited for 30 s"
        time.sleep(0.05)
