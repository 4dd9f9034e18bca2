"""What a run reports: numbers from sums on the device, written as JSON lines, and to whoever else is to have them."""

import contextlib
import json
import math
import operator
import pathlib
import time
from collections.abc import Mapping

import jax
import ml_collections
import numpy as np

from autosong_jax.outputs import writing
from autosong_jax.training.writers import open_writers

# Peak dense bfloat16 FLOP/s by the device kind that JAX names, from the vendors' data sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v5p": 459e12, "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12, "NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12, "NVIDIA L4": 121e12,
}


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
    """Writes `metrics.jsonl`, and what the config has of `WRITERS` besides, from the first process alone.

    Lines of steps after `first_step` are removed first: they are of a run that was cut off after its last checkpoint
    and will be computed again. So is a line that was cut off itself.

    Raises:
      UserError: from every method, if the workdir cannot be written.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path, first_step: int):
        self._file, self._workdir = None, workdir
        if jax.process_index() != 0:
            return
        with writing(workdir):
            path, kept = workdir / "metrics.jsonl", workdir / "metrics.tmp"
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            lines = [(_place_of(line), line) for line in text.splitlines(keepends=True)]
            # What trackers have been told they keep a note of, before it is removed here.
            cut = [(step, kind) for (step, kind), _ in lines if first_step < step < math.inf]
            self._writers = open_writers(config, workdir, first_step, cut)
            if lines:
                kept.write_text("".join(line for (step, _), line in lines if step <= first_step), encoding="utf-8")
                kept.replace(path)  # in one move: a kill here must not cost what the run has reported so far
            self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Adds one line {"step", "kind", ..., "time"} and its scalars.

        The time is in seconds since the epoch. `kind` is "train" or "validation", with "_OBJECTIVE" after it if the run
        has several objectives.
        """
        if self._file is None:
            return
        with writing(self._workdir):
            self._file.write(json.dumps({"step": step, "kind": kind, **values, "time": round(time.time())}) + "\n")
            self._file.flush()
            for writer in self._writers:
                writer.write(step, kind, values)

    def write_audio(self, step: int, name: str, audio: np.ndarray, rate: int) -> None:
        """Gives audio float32 [channels, samples] to all that can keep it."""
        if self._file is None:
            return
        with writing(self._workdir):
            for writer in self._writers:
                writer.write_audio(step, name, audio, rate)

    def close(self) -> None:
        """Closes the files; all that counts has been written out before."""
        if self._file is None:
            return
        for part in (self._file, *self._writers):
            with contextlib.suppress(OSError):
                part.close()


def _place_of(line: str) -> tuple[float, str]:
    """The step and the kind of a line of metrics; infinity if it was cut off."""
    try:
        values = json.loads(line) if line.endswith("\n") else {}
        return operator.index(values["step"]), str(values["kind"])
    except (ValueError, LookupError, TypeError):
        return math.inf, ""
