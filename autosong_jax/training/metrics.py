"""What a run reports: numbers from sums on the device, written as JSON lines and for TensorBoard."""

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Mapping

import jax
import numpy as np

from autosong_jax.outputs import writing

# Peak dense bfloat16 FLOP/s by the device kind that JAX names, from the vendors' data sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v5p": 459e12, "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12, "NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12, "NVIDIA L4": 121e12,
}
FLUSH_SECONDS = 60.0  # how late TensorBoard may see a number


def model_flops_utilization(step_flops: float | None, seconds: float) -> float | None:
    """The share of the devices' peak that a training step used; None for devices whose peak is not known.

    Args:
      step_flops: floating-point operations of the model a step, forward and backward, without recomputation; None where
        they are not known.
      seconds: what the step took.
    """
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return step_flops / seconds / (peak * jax.device_count()) if peak and step_flops else None


class MetricsWriter:
    """Writes `metrics.jsonl` and TensorBoard event files, from the first process alone.

    Lines of steps after `first_step` are removed first: they are of a run that was cut off after its last checkpoint
    and will be computed again. So is a line that was cut off itself.

    Raises:
      UserError: from every method, if the workdir cannot be written.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int):
        self._file, self._workdir = None, workdir
        if jax.process_index() != 0:
            return
        with writing(workdir):
            path, kept = workdir / "metrics.jsonl", workdir / "metrics.tmp"
            if path.exists():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
                kept.write_text("".join(line for line in lines if _step_of(line) <= first_step), encoding="utf-8")
                kept.replace(path)  # in one move: a kill here must not cost what the run has reported so far
            self._board = _EventFile(workdir / "tensorboard", first_step + 1)
            self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Adds one line {"step", "kind", ...} and its scalars.

        `kind` is "train" or "validation", with "_OBJECTIVE" after it if the run has several objectives.
        """
        if self._file is None:
            return
        from tensorboardX import summary

        with writing(self._workdir):
            self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._board.write(step, summary=summary.scalar(f"{kind}/{name}", value))

    def write_audio(self, step: int, name: str, audio: np.ndarray, rate: int) -> None:
        """Adds audio float32 [channels, samples] to TensorBoard."""
        if self._file is None:
            return
        from tensorboardX import summary

        with writing(self._workdir):
            self._board.write(step, summary=summary.audio(name, audio.mean(axis=0), sample_rate=rate))

    def close(self) -> None:
        """Closes the files; all that counts has been written out before."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self._board.close()


class _EventFile:
    """A new file of TensorBoard's in `directory`, in which what is of `first_step` or later replaces what is in others.

    Without tensorboardX's SummaryWriter, whose thread dies of a full disk and leaves the run waiting for it for ever.
    """

    def __init__(self, directory: pathlib.Path, first_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        directory.mkdir(exist_ok=True)
        self._event = event_pb2.Event
        self._file = EventsWriter(str(directory / "events"))
        self._flushed = -FLUSH_SECONDS
        if first_step > 1:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.SessionStatus.START)
            self.write(first_step, session_log=start)

    def write(self, step: int, **what) -> None:
        self._file.write_event(self._event(wall_time=time.time(), step=step, **what))
        if time.monotonic() > self._flushed + FLUSH_SECONDS:  # it waits for the disk
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    """The step of a line of metrics; infinity if it was cut off."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else math.inf
    except (ValueError, LookupError, TypeError):
        return math.inf
