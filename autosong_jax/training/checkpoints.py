"""Checkpoints: the only file that knows Orbax.

A checkpoint is `checkpoints/STEP/` with the items "params", "ema" and "optimizer". Writing goes on in the background;
a checkpoint without Orbax's commit mark was cut off and counts as absent.
"""

import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from autosong_jax.errors import UserError
from autosong_jax.training.step import TrainState


class Checkpoints:
    """The checkpoints of a workdir.

    Args:
      workdir: its `checkpoints` directory is made if it is missing.
      keep_last: how many of the newest to keep.
      keep_best: how many to keep of those with the lowest validation loss.
    """

    def __init__(self, workdir: pathlib.Path, keep_last: int = 1, keep_best: int = 0):
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            (workdir / "checkpoints").absolute(), cleanup_tmp_directories=True,
            preservation_policy=policies.AnyPreservationPolicy([
                policies.LatestN(keep_last),
                policies.BestN(get_metric_fn=lambda metrics: -metrics["validation_loss"], n=keep_best,
                               keep_checkpoints_without_metrics=False),
            ]))

    @property
    def latest(self) -> int | None:
        """The step of the newest finished checkpoint."""
        newest = self._checkpointer.latest
        return newest.step if newest else None

    def save(self, state: TrainState, step: int, validation_loss: float | None = None) -> None:
        """Starts to write `state`; waits first for the checkpoint before it, if that is still being written."""
        items = {"params": state.params, "optimizer": state.optimizer}
        if state.ema:
            items["ema"] = state.ema
        metrics = None if validation_loss is None else {"validation_loss": validation_loss}
        self._checkpointer.save_checkpointables_async(step, items, force=True, metrics=metrics)

    def restore(self, abstract: TrainState, shardings: TrainState, step: int) -> TrainState:
        """The state at `step`, on the devices that `shardings` says, whatever devices wrote it."""
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        items = {"params": target.params, "optimizer": target.optimizer}
        if target.ema:
            items["ema"] = target.ema
        try:
            items = self._checkpointer.load_checkpointables(step, items)
        except (ValueError, KeyError) as error:
            raise UserError(f"checkpoint {self._checkpointer.directory}/{step} does not fit the config "
                            f"({_reason(error)}): train with the config it was written with, or choose another "
                            "--workdir") from error
        step_array = jax.device_put(jax.numpy.int32(step), shardings.step)
        return TrainState(step_array, items["params"], items.get("ema", {}), items["optimizer"])

    def wait(self) -> None:
        """Returns when everything that was saved is on disk."""
        self._checkpointer.wait()

    def close(self) -> None:
        """Waits and frees the threads."""
        self._checkpointer.close()


def load_weights(workdir: pathlib.Path, abstract: Any) -> tuple[Any, int]:
    """The weights to sample with, from the newest checkpoint: the moving average where there is one.

    Args:
      workdir: of a training run.
      abstract: a tree of shapes, dtypes and shardings of the parameters.

    Returns:
      The parameters and the step of the checkpoint.

    Raises:
      UserError: if there is no finished checkpoint.
    """
    checkpoints = workdir / "checkpoints"
    if not checkpoints.is_dir():
        raise UserError(f"{workdir} has no checkpoints: expected a workdir that `python -m autosong_jax.train` wrote")
    with ocp.training.Checkpointer(checkpoints.absolute()) as checkpointer:
        newest = checkpointer.latest
        if newest is None:
            raise UserError(f"{checkpoints} holds no finished checkpoint: train until the first is written")
        item = "ema" if (checkpoints / str(newest.step) / "ema").exists() else "params"
        try:
            return checkpointer.load_checkpointables(newest.step, {item: abstract})[item], newest.step
        except (ValueError, KeyError) as error:
            raise UserError(f"checkpoint {checkpoints}/{newest.step} does not fit {workdir}/config.json "
                            f"({_reason(error)}): copy the whole workdir again, or train anew") from error


def _reason(error: Exception) -> str:
    """The first line of what Orbax found wrong at the bottom of it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0]
