"""What a run reports: numbers from sums on the device, written as JSON lines and for TensorBoard."""

import json
import pathlib
from collections.abc import Mapping

import jax
import numpy as np

# Peak dense bfloat16 FLOP/s by the device kind that JAX names, from the vendors' data sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v5p": 459e12, "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12, "NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12, "NVIDIA L4": 121e12,
}


def summarize(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Loss, accuracy and perplexity, whole and for each codebook, from sums over any number of batches.

    The loss is the mean over the codebooks of the mean cross-entropy; a perplexity is the exponential of such a mean.

    Args:
      sums: "cross_entropy", "correct", "count", each [K].
    """
    used = np.asarray(sums["count"]) > 0
    count = np.maximum(sums["count"], 1)
    cross_entropy, accuracy = sums["cross_entropy"] / count, sums["correct"] / count
    loss = cross_entropy[used].mean()
    result = {"loss": loss, "accuracy": accuracy[used].mean(), "perplexity": np.exp(loss)}
    for k in range(len(count)):
        result |= {f"loss_{k}": cross_entropy[k], f"accuracy_{k}": accuracy[k],
                   f"perplexity_{k}": np.exp(cross_entropy[k])}
    return {name: float(value) for name, value in result.items()}


def model_flops_utilization(step_flops: float, seconds: float) -> float | None:
    """The share of the devices' peak that a training step used; None for devices whose peak is not known.

    Args:
      step_flops: floating-point operations of the model a step, forward and backward, without recomputation.
      seconds: what the step took.
    """
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return step_flops / seconds / (peak * jax.device_count()) if peak else None


class MetricsWriter:
    """Writes `metrics.jsonl` and TensorBoard event files, from the first process alone.

    Lines of steps after `first_step` are removed first: they are of a run that was cut off after its last checkpoint
    and will be computed again.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int):
        self._file = None
        if jax.process_index() != 0:
            return
        from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
                    if line.endswith("\n") and json.loads(line)["step"] <= first_step]
            path.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Adds one line {"step", "kind", ...} and its scalars.

        `kind` is "train" or "validation", with "_OBJECTIVE" after it if the run has several objectives.
        """
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def write_audio(self, step: int, name: str, audio: np.ndarray, rate: int) -> None:
        """Adds audio float32 [channels, samples] to TensorBoard."""
        if self._file is not None:
            self._board.add_audio(name, audio.mean(axis=0), step, sample_rate=rate)

    def close(self) -> None:
        """Writes out what is buffered."""
        if self._file is not None:
            self._file.close()
            self._board.close()
