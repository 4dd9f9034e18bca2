"""The way to the first step: the step compiled while the weights are made or read, and where the time went."""

import concurrent.futures
import time
from collections.abc import Callable
from typing import Any

import jax

from autosong_jax.training.step import Batch, Trainer, TrainState
from autosong_jax.weights.trainable import Parameters


def compile_ahead(trainer: Trainer, batch: Batch) -> Callable[[], Callable]:
    """Begins to compile `trainer.train_step` in a thread.

    Args:
      trainer: its state and frozen parameters need not exist yet.
      batch: one batch, on the devices.

    Returns:
      A function that waits for it and gives what to call in place of `trainer.train_step`.
    """
    def shaped(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    state = jax.tree.map(shaped, trainer.abstract, trainer.shardings)
    batch = jax.tree.map(lambda x: shaped(x, x.sharding), batch)
    executor = concurrent.futures.ThreadPoolExecutor(1, "compile")
    future = executor.submit(lambda: trainer.train_step.lower(state, trainer.frozen, batch).compile())
    executor.shutdown(wait=False)

    def wait() -> Callable:
        compiled = future.result()

        def step(state: TrainState, frozen: Parameters, other: Batch) -> Any:
            same = other["frames"].shape == batch["frames"].shape  # a curriculum has windows of several lengths
            return (compiled if same else trainer.train_step)(state, frozen, other)

        return step

    return wait


class Laps:
    """Names for the time since the command began: `lap("data")` is what ended just now. As text, one line."""

    def __init__(self, started: float):
        self._started = self._last = started
        self._seconds: list[tuple[str, float]] = []

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds.append((name, now - self._last))
        self._last = now

    def __str__(self) -> str:
        return f"{self._last - self._started:.1f} s: " + ", ".join(
            f"{seconds:.1f} s {name}" for name, seconds in self._seconds)
