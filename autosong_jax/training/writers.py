"""Where the numbers and the songs of a run go, beside `metrics.jsonl`."""

import importlib.util
import pathlib
import time
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import ml_collections
import numpy as np

from autosong_jax.errors import UserError
from autosong_jax.training.trackers import Tracker, recall

FLUSH_SECONDS = 60.0  # how late TensorBoard may see a number


class Writer(Protocol):
    """Takes what a run reports. Its methods raise OSError if it is written to the workdir and that cannot be."""

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Takes the values of a line of metrics, as KIND/NAME."""

    def write_audio(self, step: int, name: str, audio: np.ndarray, rate: int) -> None:
        """Takes a song, float32 [channels, samples] at `rate` Hz."""

    def close(self) -> None:
        """Waits for what has been taken; not for ever."""


class TensorBoard:
    """A new event file in `workdir/tensorboard`, in which what is of steps after `first_step` replaces others' of them.

    Without tensorboardX's SummaryWriter, whose thread dies of a full disk and leaves the run waiting for it for ever.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        directory = workdir / "tensorboard"
        directory.mkdir(exist_ok=True)
        self._event = event_pb2.Event
        self._file = EventsWriter(str(directory / "events"))
        self._flushed = -FLUSH_SECONDS
        if first_step > 0:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.SessionStatus.START)
            self._write(first_step + 1, session_log=start)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        from tensorboardX import summary

        for name, value in values.items():
            self._write(step, summary=summary.scalar(f"{kind}/{name}", value))

    def write_audio(self, step: int, name: str, audio: np.ndarray, rate: int) -> None:
        from tensorboardX import summary

        self._write(step, summary=summary.audio(name, audio.mean(axis=0), sample_rate=rate))

    def _write(self, step: int, **what) -> None:
        self._file.write_event(self._event(wall_time=time.time(), step=step, **what))
        if time.monotonic() > self._flushed + FLUSH_SECONDS:  # it waits for the disk
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._file.close()


TRACKERS = ("wandb", "trackio")  # as the packages are called, and the extras that install them


def check_writers(config: ml_collections.ConfigDict) -> None:
    """Raises UserError if the package of one of `config.train.writers` is not there."""
    for name in config.train.writers:
        # A folder of that name, such as W&B makes where it runs, can be imported, too; it has no origin.
        if name in TRACKERS and getattr(importlib.util.find_spec(name), "origin", None) is None:
            raise UserError(f"train.writers has {name!r}, whose package is not installed: pip install "
                            f"'autosong_jax[{name}]', or leave it out")


def open_writers(config: ml_collections.ConfigDict, workdir: pathlib.Path, first_step: int,
                 cut: Collection[tuple[int, str]]) -> list[Writer]:
    """Those of `config.train.writers`.

    Args:
      config: of the run.
      workdir: of the run.
      first_step: the checkpoint that it goes on from.
      cut: step and kind of the lines that it has reported after that, and will report again.
    """
    makers: dict[str, Callable[[], Writer]] = {"tensorboard": lambda: TensorBoard(workdir, first_step)}
    trackers = [name for name in config.train.writers if name in TRACKERS]
    if trackers:
        id, reported = recall(workdir, trackers, first_step, cut)
        arguments = {"project": config.train.project, "name": workdir.absolute().name, "id": id,
                     "workdir": str(workdir.absolute()), "config": config.to_dict()}
        makers |= {name: lambda name=name: Tracker(name, arguments, reported[name]) for name in trackers}
    return [makers[name]() for name in dict.fromkeys(config.train.writers)]
