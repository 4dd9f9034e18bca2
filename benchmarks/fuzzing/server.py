"""Runs commands, each in a process of its own that is forked from one which has imported everything heavy.

`python -m benchmarks.fuzzing.server` reads a JSON object a line from stdin and answers with one; `Server` is the other
end. No backend of JAX is made before a fork, so every case starts as a fresh process would, in milliseconds.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.fuzzing.scene import MIB, Case, Scene, snapshot

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMPORTS = (
    "jax", "soundfile", "soxr", "librosa", "pydantic", "huggingface_hub", "grain", "tokenizers", "safetensors.numpy",
    "autosong_jax.generate", "autosong_jax.train", "autosong_jax.convert", "autosong_jax.codec",
    "autosong_jax.sampling.singer", "autosong_jax.training.loop", "autosong_jax.planning.report",
    "autosong_jax.pretrained.released", "autosong_jax.pretrained.export", "configs.default", "configs.finetune",
    "configs.small", "configs.magnet_small", "configs.hybrid_small")
_PAGE, _TICK = resource.getpagesize(), os.sysconf("SC_CLK_TCK")
# Against the machine's end rather than a case's: what a case may take is watched.
_ADDRESS_SPACE, _FILE = 64 * 2**30, 2**30
# The lines that a command may write to stderr: its log, tables within it, and the one line of an error.
_OWN_LINE = re.compile(r"\d\d:\d\d:\d\d  |error: |interrupted$|[+|]|Total: | {2}|$")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
      verdict: "well", or the first of what is wrong.
      status: the exit status; negative for a signal.
      seconds: that it took.
      memory: MiB that it had at its most.
      stdout, stderr: what it wrote.
    """

    verdict: str
    status: int
    seconds: float
    memory: int
    stdout: str
    stderr: str


class Server:
    """A process that runs cases, one at a time.

    Args:
      cache: the folder of compiled programs.
      imports: modules that a command would import, beside those of this package.
      idle: seconds without any work after which a case waits for something that never comes.
    """

    def __init__(self, cache: pathlib.Path, imports: Sequence[str] = (), idle: float = 15):
        self._idle = idle
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache), "HF_HUB_OFFLINE": "1",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": "",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fuzzing.server", *imports], cwd=ROOT, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, case: Case, scene: Scene) -> Outcome:
        """Runs a case to its end and judges it."""
        changes = set(case.changes)
        before = snapshot(scene.given, changes)
        request = dataclasses.asdict(case) | {"folder": str(scene.folder), "changes": None, "idle": self._idle}
        request["arguments"] = [os.fsencode(argument).decode("latin-1") for argument in case.arguments]
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        stdout, stderr = ((scene.folder / name).read_text(encoding="utf-8", errors="surrogateescape")
                          for name in ("stdout", "stderr"))
        after = snapshot(scene.given, changes)
        unnamed = [path for path in after.keys() - before.keys() if not any(path in a for a in request["arguments"])]
        touched = bool(unnamed) or not before.items() <= after.items()
        strays = set(os.listdir(scene.folder)) - {"given", "made", "stdout", "stderr"}
        verdict = next(_wrong(case, answer, stdout, stderr, touched, strays), "well")
        return Outcome(verdict, answer["status"], answer["seconds"], answer["memory"], stdout, stderr)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def _wrong(case: Case, answer: dict[str, Any], stdout: str, stderr: str, touched: bool, strays: set[str]
           ) -> Iterator[str]:
    """What is wrong with the end of a case, the worst first."""
    if answer["ended"]:
        yield f"ended for {answer['ended']}"
    if "Traceback (most recent call last)" in stderr + stdout:
        yield "traceback"
    status = answer["status"]
    if status < 0:
        yield f"died of signal {-status}"
    if answer["left"]:
        yield "left a process behind"
    if status not in (0, 2, 130):
        yield f"status {status}"
    errors = stderr.count("\nerror: ") + stderr.startswith("error: ")
    if errors != (status == 2):
        yield f"{errors} lines of error with status {status}"
    if any(_steers(character) for character in stdout + stderr):
        yield "control characters"
    if any(not _OWN_LINE.match(line) for line in stderr.splitlines()):
        yield "noise of libraries"
    if touched:
        yield "touched what was there"
    if strays:
        yield f"left {min(strays)} where nothing is for it"
    if status not in case.wanted:
        yield "taken without a word" if status == 0 else "refused, but it is right"


def _steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") and character != "\n"


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from autosong_jax import cli

    for name in [*IMPORTS, *sys.argv[1:]]:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        folder = pathlib.Path(request["folder"])
        pid = os.fork()
        if not pid:
            break
        answers.write(json.dumps(_watch(pid, request)) + "\n")
        answers.flush()
    else:
        return
    # In the child, which from here on is the command.
    os.setsid()
    answers.close()
    for number, name, mode in [(0, "/dev/null", os.O_RDONLY), (1, folder / "stdout", os.O_WRONLY | os.O_CREAT),
                               (2, folder / "stderr", os.O_WRONLY | os.O_CREAT)]:
        file = os.open(name, mode, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder / "made")  # where a relative path may lead to
    limits = {resource.RLIMIT_AS: _ADDRESS_SPACE, resource.RLIMIT_FSIZE: _FILE, resource.RLIMIT_CORE: 0}
    for limit, most in limits.items():
        resource.setrlimit(limit, (most, most))
    arguments = [os.fsdecode(argument.encode("latin-1")) for argument in request["arguments"]]
    sys.argv = [request["module"], *arguments]
    module = importlib.import_module(request["module"])
    module.define_flags()
    cli.run(module.main, sys.argv, verbs=getattr(module, "VERBS", ()))


def _watch(pid: int, request: dict[str, Any]) -> dict[str, Any]:
    """Waits for a child, and ends it and all that it started when it takes too long or too much."""
    started, most, ended, worked = time.perf_counter(), 0, "", (0.0, time.perf_counter())
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            break
        now, children = time.perf_counter(), _children(pid)
        most = max(most, _resident(pid) + sum(map(_private, children)))
        work = sum(map(_work, [pid, *children]))
        if work != worked[0]:
            worked = work, now
        if most > request["memory"] * MIB or work > request["seconds"] or now - worked[1] > request["idle"]:
            ended = "memory" if most > request["memory"] * MIB else "time"
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            break
        time.sleep(0.01 if now - started < 1 else 0.03)
    left = _of_session(pid)
    for member in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    return {"status": os.waitstatus_to_exitcode(status), "seconds": time.perf_counter() - started,
            "memory": most // MIB, "ended": ended, "left": bool(left) and not ended}


def _resident(pid: int) -> int:
    try:
        return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _private(pid: int) -> int:
    """Bytes that no other process has: workers that are forked have all that the command has imported, once."""
    try:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return 1024 * sum(map(int, re.findall(r"^Private_\w+: +(\d+) kB", text, re.MULTILINE)))


def _work(pid: int) -> float:
    """Seconds of a CPU that a process has taken, which say more than a clock on a machine that others share."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICK


def _children(pid: int) -> list[int]:
    try:
        found = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in found]


def _of_session(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    main()
