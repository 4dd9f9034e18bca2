"""Keeps processes of tests small, and says at the end how large they were. Where there is no /proc, sizes are 0."""

import ctypes
import gc
import os
import re
import sys
import threading
from pathlib import Path

import pytest

ROOM = 1.5  # GiB above which a process gives back what it can before its next test


def resident(pid="self"):
    """GiB."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
    except OSError:  # over by now, or no Linux
        return 0.0


def release():
    """Forgets compiled programs, which otherwise stay until the process ends, and gives back what is free then."""
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def descendants(pid="self"):
    """Of a process, by their ids."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    children = " ".join(lists).split()
    return children + [pid for child in children for pid in descendants(child)]


class Plugin:
    """Hooks of pytest in the process that reports and, with pytest-xdist, in its workers."""

    def __init__(self):
        self.started, self.over, self.peaks = 0.0, threading.Event(), {}
        self.watch = threading.Thread(target=self.look, daemon=True)

    def look(self):
        """Five times a second: how much the processes that were started take together."""
        while not self.over.wait(0.2):
            self.started = max(self.started, sum(map(resident, descendants())))

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item, nextitem):
        if nextitem is None or nextitem.path != item.path or resident() > ROOM:
            release()

    def pytest_sessionstart(self, session):
        if not getattr(session.config.option, "numprocesses", None):  # this process runs tests itself
            self.watch.start()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        if not self.watch.is_alive():
            return
        self.over.set()
        self.watch.join()
        status = Path("/proc/self/status")
        own = int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) / 2**20 if status.exists() else 0.0
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["peak"] = own, self.started
        else:
            self.peaks["this process"] = own, self.started

    @pytest.hookimpl(optionalhook=True)  # of pytest-xdist
    def pytest_testnodedown(self, node):
        self.peaks[node.gateway.id] = getattr(node, "workeroutput", {}).get("peak", (0.0, 0.0))

    def pytest_terminal_summary(self, terminalreporter):
        peaks = [f"{name} {own:.1f}, with {started:.1f} of what it started"
                 for name, (own, started) in sorted(self.peaks.items())]
        terminalreporter.write_line("Peak memory in GiB: " + "; ".join(peaks))
