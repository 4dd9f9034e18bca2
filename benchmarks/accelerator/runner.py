"""Runs parts one after another within some minutes, each in a process of its own. Never touches the accelerator itself.

A part that is finished is not measured again. One that would not fit into what is left of the minutes is postponed; one
that the end of the minutes meets is stopped, and measured again by the next call.
"""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autosong_jax.cli import log
from benchmarks.accelerator import records

GRACE = 5.0  # seconds between asking a process to end and ending it
CLOSING = 10.0  # seconds that are kept for ending a process and for the report


@dataclasses.dataclass(frozen=True)
class Part:
    """One measurement.

    Attributes:
      name: of its record; its subject comes first, so that a prefix chooses several.
      measure: "module:function", called with a `measurement.Measurement` and the arguments.
      arguments: of the function; JSON.
      environment: beside that of the command. What it gives for XLA_FLAGS comes after what the user has there.
      least: seconds; it is not begun with less left.
      most: seconds; it has failed if it takes longer.
    """

    name: str
    measure: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    least: float = 60.0
    most: float = 400.0


def matches(name: str, choices: Sequence[str]) -> bool:
    """Whether a part's name is one of the choices or begins with one and a hyphen."""
    return any(name == choice or name.startswith(choice.rstrip("-") + "-") for choice in choices)


def forget(output: pathlib.Path, parts: Sequence[Part], again: Sequence[str]) -> None:
    """Removes the records of the parts that are to be measured again; "failed" stands for all that failed."""
    for part in parts:
        record = records.read(output, part.name)
        if matches(part.name, again) or ("failed" in again and record and record["status"] == "failed"):
            records.path_of(output, part.name).unlink(missing_ok=True)


def run(output: pathlib.Path, parts: Sequence[Part], deadline: float, command: str = "",
        after: Callable[[], None] = lambda: None) -> list[str]:
    """Measures what is not finished, in order.

    Args:
      output: where the records are.
      parts: what is to be measured.
      deadline: by `time.monotonic`; nothing runs after it.
      command: what the user gave, for the records.
      after: called after each part.

    Returns:
      The names of what is postponed.
    """
    postponed = []
    for part in parts:
        if records.is_finished(records.read(output, part.name)):
            continue
        left = deadline - CLOSING - time.monotonic()
        if left < part.least:
            postponed.append(part.name)
            continue
        log.info("%s (%.0f s left)", part.name, left)
        status, reason = _measure(output, part, min(part.most, left), left < part.most, command)
        log.info("%s: %s%s", part.name, status, f": {reason}" if reason else "")
        if status == "stopped":
            postponed.append(part.name)
        after()
    return postponed


def _measure(output: pathlib.Path, part: Part, limit: float, cut: bool, command: str) -> tuple[str, str]:
    """(status, reason) of a part that is given `limit` seconds; `cut`: by the end of the minutes, not by its own."""
    specification = {"name": part.name, "measure": part.measure, "arguments": dict(part.arguments),
                     "output": str(output.absolute()), "spawned": time.time(), "command": command, "most": limit}
    started = time.monotonic()
    with (output / f"{part.name}.log").open("w", encoding="utf-8") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.accelerator.child", json.dumps(specification)], stdout=log_file,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=_environment(output, part), start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # Ctrl+C too; and whatever the part has started goes with it
            _end(process)
    record = records.read(output, part.name)
    if record is not None and record["status"] in records.FINISHED and code is not None:
        return record["status"], record.get("reason", "")
    if code is None:
        status, reason = ("stopped", "the minutes were over") if cut else ("failed", f"took longer than {limit:.0f} s")
    else:
        status, reason = "failed", f"ended with exit status {code}: {_last_line(output / f'{part.name}.log')}"
    record = record or {"part": part.name, "rows": [], "machine": {}, "arguments": dict(part.arguments),
                        "command": command, "environment": dict(part.environment),
                        "date": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())}
    records.write(output, record | {"status": status, "reason": reason, "seconds": time.monotonic() - started})
    return status, reason


def _environment(output: pathlib.Path, part: Part) -> dict[str, str]:
    environment = dict(os.environ)
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(output.absolute() / "compiled"))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    # Nearly all of a GPU's memory for arrays, taken at once: a part is alone on it.
    environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    environment["PYTHONUNBUFFERED"] = "1"
    for name, value in part.environment.items():
        environment[name] = f"{environment.get(name, '')} {value}".strip() if name == "XLA_FLAGS" else value
    return environment


def _end(process: subprocess.Popen) -> None:
    """Ends a process and all that it has started."""
    for number, grace in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        if process.poll() is None:
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                continue
    process.wait()


def _last_line(path: pathlib.Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
