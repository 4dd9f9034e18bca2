"""How far a run is: what it has logged so far, read while it goes on, and its checkpoints. Needs no JAX.

A run's `metrics.jsonl` grows while it is looked at, so its last line may be half there. It is read on from where the
last look ended, and kept in bounded memory, however long the run.
"""

import dataclasses
import itertools
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any

from autosong_jax import inputs
from autosong_jax.errors import UserError
from autosong_jax.workdir import numbers

POINTS = 1024  # of a series: more than a picture has columns
CHUNK = 2**20  # bytes that are read at once, and the longest line that can be one
KINDS = 16  # of lines: two for each objective; nothing trains more at once than the planner has names for
KIND = re.compile(r"(train|validation)(?:_(\w{1,40}))?|(sung)")
# What is shown of a line. After "_" stands the codebook.
NAME = re.compile(r"(?:loss|accuracy)(?:_\d{1,2})?|gradient_norm|learning_rate|steps_per_second|data_wait|mfu")
SUNG = re.compile(r"(?!step$|time$)\w{1,60}")  # what is shown of a line on songs that were sung, and
MOST_SUNG = 32  # of how many names at most
PATIENCE = 5  # so many times as long as its lines take may a run be silent: it also evaluates, saves and sings
RECENT = 64  # lines that the time left is reckoned from
LEAST_PATIENCE = 120.0  # seconds, for what lines of a fast run say nothing of, such as compiling


@dataclasses.dataclass(slots=True)
class Bin:
    """Neighbouring points of a series: the steps they reach over, their sum and number, the least and its step."""

    first: int
    last: int
    total: float
    count: int
    least: float
    at: int

    @property
    def mean(self) -> float:
        return self.total / self.count

    def take(self, other: "Bin") -> None:
        """Adds the points of the bin after this one."""
        self.last, self.total, self.count = other.last, self.total + other.total, self.count + other.count
        if other.least < self.least:
            self.least, self.at = other.least, other.at


class Series:
    """A value over steps, in at most `POINTS` bins: while there are fewer points, each is in its own.

    Attributes:
      bins: in the order of their steps.
      newest: the last value.
    """

    def __init__(self):
        self.bins: list[Bin] = []
        self.newest = math.nan
        self._stride = 1  # points of a full bin

    def add(self, step: int, value: float) -> None:
        """Adds a point of a later step than all others."""
        point = Bin(step, step, value, 1, value, step)
        self.newest = value
        if self.bins and self.bins[-1].count < self._stride:
            self.bins[-1].take(point)
            return
        self.bins.append(point)
        if len(self.bins) > POINTS:
            merged = self.bins[::2]
            for left, right in zip(merged, self.bins[1::2], strict=False):
                left.take(right)
            self.bins, self._stride = merged, 2 * self._stride

    def cut(self, step: int) -> None:
        """Forgets `step` and what comes after it, and of a bin that reaches over it the whole."""
        while self.bins and self.bins[-1].last >= step:
            self.bins.pop()
            self.newest = self.bins[-1].mean if self.bins else math.nan

    @property
    def best(self) -> tuple[float, int]:
        """The least value and its step; there must be one."""
        bin = min(self.bins, key=lambda bin: bin.least)
        return bin.least, bin.at

    def __bool__(self) -> bool:
        return bool(self.bins)


class Run:
    """What a workdir says of its run, as of the last `look`.

    Attributes:
      workdir: its directory.
      series: by the kind of line ("train", "validation", with "_OBJECTIVE" where there are several) and the name.
      step: of the last line; None before the first.
      steps: how many the run is to take, by its config; None if it has none.
      damaged: how many whole lines were no metrics.
      written: when the last line was, in seconds since the epoch.
      checkpoints: the steps of finished ones, each with the numbers beside its weights, in the order of steps.
      best_by: the number by which the best are kept.

    Raises:
      UserError: there is no such directory, or it is no workdir.
    """

    def __init__(self, workdir: str | pathlib.Path):
        self.workdir = pathlib.Path(workdir)
        try:
            if not self.workdir.is_dir():
                raise UserError(f"--workdir={workdir} is no directory: expected the --workdir of a training run")
        except ValueError as error:
            raise UserError(f"--workdir={workdir} cannot be read: {inputs.reason(error)}") from error
        if not any((self.workdir / name).exists() for name in ("config.json", "metrics.jsonl")):
            raise UserError(f"--workdir={workdir} holds no run, which has config.json and metrics.jsonl: expected the "
                            "--workdir of a training run")
        self.steps: int | None = None
        self.written = 0.0
        self.checkpoints: dict[int, dict[str, float]] = {}
        self.best_by = numbers.LOSS
        self._inode: int | None = None
        self._begin()

    def _begin(self) -> None:
        """Forgets all lines."""
        self.series: dict[str, dict[str, Series]] = {}
        self.step: int | None = None
        self.damaged = 0
        self._at = 0  # how many bytes have been read
        self._rest = b""  # of these, the beginning of a line whose end is not there yet
        self._skipping = False  # the rest of a line that is too long to be one
        self._reported: list[tuple[int, float]] = []  # steps with a line on training, and its time

    def look(self) -> bool:
        """Reads what is new, and returns whether there were new lines.

        Raises:
          UserError: the workdir is gone, or a file in it cannot be read.
        """
        if not self.workdir.is_dir():
            raise UserError(f"--workdir={self.workdir} is gone")
        self.steps, self.best_by = _planned(self.workdir / "config.json")
        self.checkpoints = _checkpoints(self.workdir / "checkpoints")
        path = self.workdir / "metrics.jsonl"
        if not path.exists():
            self._begin()
            return False
        inputs.stat_regular(path, "metrics")
        found = False
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._at:  # a run that goes on replaces the file
                self._begin()
            self._inode, self.written = status.st_ino, status.st_mtime
            file.seek(self._at)
            for line in self._lines(file):
                found = True
                self._take(line)
        return found

    def _lines(self, file: Any) -> Iterator[bytes]:
        """The lines that are whole."""
        while chunk := file.read(CHUNK):
            self._at += len(chunk)
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                line, self._rest = self._rest + line, b""
                if self._skipping:
                    self._skipping = False
                else:
                    yield line
            self._rest += rest
            if len(self._rest) > CHUNK:
                self.damaged += not self._skipping
                self._rest, self._skipping = b"", True

    def _take(self, line: bytes) -> None:
        try:
            values = json.loads(line)
            step, kind = values["step"], values["kind"]
            if type(step) is not int or not 0 <= step < 2**53 or not isinstance(kind, str):
                raise ValueError(step)
        except (ValueError, LookupError, TypeError, RecursionError):
            self.damaged += 1
            return
        if not KIND.fullmatch(kind) or (kind not in self.series and len(self.series) >= KINDS):
            return  # what later versions may log
        if self.step is not None and step < self.step:  # the run went on from here, and computes again what came after
            for series in self.series.values():
                for of_name in series.values():
                    of_name.cut(step)
            self._reported = [other for other in self._reported if other[0] < step]
        self.step = step
        of_kind = self.series.setdefault(kind, {})
        for name, value in values.items():
            if self._is_shown(kind, name) and type(value) in (int, float):
                value = _finite(value)
                if value is not None:
                    series = of_kind.setdefault(name, Series())
                    series.cut(step)
                    series.add(step, value)
        if kind.startswith("train") and step not in (other for other, _ in self._reported):
            written = values.get("time")
            written = _finite(written) if type(written) in (int, float) else None
            self._reported = [*self._reported[1 - RECENT:], (step, math.nan if written is None else written)]

    def _is_shown(self, kind: str, name: str) -> bool:
        if kind != "sung":
            return bool(NAME.fullmatch(name))
        return bool(SUNG.fullmatch(name)) and (name in self.series[kind] or len(self.series[kind]) < MOST_SUNG)

    def kinds(self, of: str) -> list[str]:
        """The kinds of lines of "train" or of "validation"."""
        return sorted(kind for kind in self.series if KIND.fullmatch(kind)[1] == of)

    def get(self, kind: str, name: str) -> Series:
        """A series, empty if nothing of it has been logged."""
        return self.series.get(kind, {}).get(name) or Series()

    def of_training(self, name: str) -> Series:
        """What is said of all objectives alike, such as the speed."""
        return next((found for kind in self.kinds("train") if (found := self.get(kind, name))), Series())

    def codebooks(self, kind: str) -> list[int]:
        """Those that lines of `kind` tell apart."""
        return sorted(int(name.partition("_")[2]) for name in self.series.get(kind, ()) if name.startswith("loss_"))

    @property
    def finished(self) -> bool:
        return self.steps is not None and self.step is not None and self.step >= self.steps

    @property
    def seconds_left(self) -> float | None:
        """At the speed of the last lines, with what evaluations and samples took between them, or of lines without
        times at that of the last; None where it or the number of steps is not known."""
        speed = self.of_training("steps_per_second").newest
        if self.steps is None or self.step is None or not speed > 0:
            return None
        steps, seconds = 0, 0.0
        for (before, began), (after, ended) in itertools.pairwise(self._reported):
            if ended - began <= self._patience(after - before):  # else the run had stopped, and went on later
                steps, seconds = steps + after - before, seconds + ended - began
        return max(self.steps - self.step, 0) * (seconds / steps if seconds > 0 else 1 / speed)

    def silent(self, now: float | None = None) -> float:
        """Seconds since the last line."""
        return max((time.time() if now is None else now) - self.written, 0.0)

    def has_stopped(self, now: float | None = None) -> bool:
        """Whether an unfinished run has been silent for much longer than its lines take."""
        last = [0, *(step for step, _ in self._reported)][-2:]
        return not self.finished and self.silent(now) > self._patience(last[-1] - last[0])

    def _patience(self, steps: int) -> float:
        """For how long a run may be silent that logs after so many steps."""
        speed = self.of_training("steps_per_second").newest
        return max(PATIENCE * steps / speed if speed > 0 else 0.0, LEAST_PATIENCE)

    @property
    def newest_checkpoint(self) -> int | None:
        return max(self.checkpoints, default=None)

    @property
    def best_checkpoint(self) -> int | None:
        """The one that is kept with the best number."""
        best = max if better(self.best_by) == "more" else min
        known = {step: found[self.best_by] for step, found in self.checkpoints.items() if self.best_by in found}
        return best(known, key=known.get, default=None)


def better(number: str) -> str:
    """Whether "more" or "less" is better of a number, "KIND/NAME"; "" where neither is."""
    kind, _, name = number.partition("/")
    if kind != "sung":
        return numbers.better(number)
    from autosong_jax.evaluation.metrics import better_of  # which needs more than what most runs are seen with

    return better_of(name)


def _finite(value: int | float) -> float | None:
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _planned(path: pathlib.Path) -> tuple[int | None, str]:
    """How many steps the run is to take, and by which number the best checkpoints are kept."""
    train = inputs.read_json(path, dict[str, Any], "config").get("train") if path.exists() else None
    train = train if isinstance(train, dict) else {}
    steps, best_by = train.get("steps"), train.get("best_by")
    return (steps if type(steps) is int and steps > 0 else None, best_by if isinstance(best_by, str) else numbers.LOSS)


def _checkpoints(directory: pathlib.Path) -> dict[int, dict[str, float]]:
    """The steps that are directories, which are whole, with what the run wrote beside the weights of each."""
    if not directory.is_dir():
        return {}
    steps = sorted(int(path.name) for path in directory.iterdir() if re.fullmatch("[0-9]{1,15}", path.name))
    return {step: _numbers(directory / str(step)) for step in steps if (directory / str(step)).is_dir()}


def _numbers(checkpoint: pathlib.Path) -> dict[str, float]:
    """None of one without evaluation, of one that is damaged and of one that is being deleted."""
    try:
        return numbers.read(checkpoint)
    except (UserError, OSError):
        return {}
