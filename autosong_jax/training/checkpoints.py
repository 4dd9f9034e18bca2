"""Checkpoints: the only file that knows Orbax.

A checkpoint is `checkpoints/STEP/` with the items "params", "ema" and "optimizer" of what is trained; what is frozen is
written once, to `frozen/`. Writing checkpoints goes on in the background; one without Orbax's commit mark was cut off
and counts as absent.
"""

import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
from orbax.checkpoint import v1 as ocp

from autosong_jax.errors import UserError
from autosong_jax.models import lora
from autosong_jax.pretrained import files, parameters
from autosong_jax.pretrained.files import Tensors
from autosong_jax.training.step import TrainState
from autosong_jax.training.trainable import Parameters, combine, partition


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

    def holds_optimizer(self, step: int) -> bool:
        """Whether the run at `step` can go on; if not, what is there are weights to start from."""
        return (pathlib.Path(self._checkpointer.directory) / str(step) / "optimizer").exists()

    def restore(self, abstract: TrainState, shardings: TrainState, step: int) -> TrainState:
        """The state at `step`, on the devices that `shardings` says, whatever devices wrote it."""
        items = {"params": abstract.params, "optimizer": abstract.optimizer}
        targets = {"params": shardings.params, "optimizer": shardings.optimizer}
        if abstract.ema:
            items["ema"], targets["ema"] = abstract.ema, shardings.ema
        items = self._load(items, targets, step)
        step_array = jax.device_put(jax.numpy.int32(step), shardings.step)
        return TrainState(step_array, items["params"], items.get("ema", {}), items["optimizer"])

    def restore_params(self, abstract: TrainState, shardings: TrainState, step: int) -> Parameters:
        """The trained parameters alone, as `restore` does."""
        return self._load({"params": abstract.params}, {"params": shardings.params}, step)["params"]

    def _load(self, items: dict[str, Any], shardings: dict[str, Any], step: int) -> dict[str, Any]:
        items = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), items, shardings)
        try:
            return self._checkpointer.load_checkpointables(step, items)
        except (ValueError, KeyError) as error:
            raise UserError(f"checkpoint {self._checkpointer.directory}/{step} does not fit the config "
                            f"({_reason(error)}): train with the config it was written with, or choose another "
                            "--workdir") from error

    def wait(self) -> None:
        """Returns when everything that was saved is on disk."""
        self._checkpointer.wait()

    def close(self) -> None:
        """Waits and frees the threads."""
        self._checkpointer.close()


def latest_step(workdir: pathlib.Path) -> int | None:
    """The step of the newest finished checkpoint of a workdir, which need not exist; of exported weights 0."""
    checkpoints = workdir / "checkpoints"
    if not checkpoints.is_dir():
        return 0 if is_exported(workdir) else None
    with ocp.training.Checkpointer(checkpoints.absolute()) as checkpointer:
        return checkpointer.latest.step if checkpointer.latest else None


def load_weights(workdir: pathlib.Path, config: ml_collections.ConfigDict, abstract: Parameters
                 ) -> tuple[Parameters, int]:
    """The weights to sample with, from the newest checkpoint: the moving average where there is one, LoRA merged.

    Args:
      workdir: of a training run, a converted model or an exported one.
      config: what its `config.json` says.
      abstract: shapes, dtypes and shardings of all parameters, LoRA's among them; or NumPy arrays, to have the weights
        in the host's memory.

    Returns:
      The parameters of the model without LoRA, and the step of the checkpoint.

    Raises:
      UserError: if there is no finished checkpoint, or it does not fit the config.
    """
    step = latest_step(workdir)
    if step is None:
        raise UserError(f"{workdir}/checkpoints holds no finished checkpoint: expected a workdir that "
                        "`python -m autosong_jax.train` wrote; train until the first is written")
    if is_exported(workdir):
        return _load_exported(workdir, abstract), step
    trained, frozen = partition(abstract, config.train.trainable)
    checkpoint = workdir / "checkpoints" / str(step)
    item = "ema" if (checkpoint / "ema").exists() else "params"
    with ocp.training.Checkpointer(checkpoint.parent.absolute()) as checkpointer:
        try:
            trained = checkpointer.load_checkpointables(step, {item: trained})[item]
        except (ValueError, KeyError) as error:
            raise UserError(f"checkpoint {checkpoint} does not fit {workdir}/config.json ({_reason(error)}): copy the "
                            "whole workdir again, or train anew") from error
    return lora.merge(combine(trained, load_frozen(workdir, frozen)), config.lora), step


def is_exported(workdir: pathlib.Path) -> bool:
    """Whether the weights are in safetensors, as `pretrained.export` writes them, in place of checkpoints."""
    return not (workdir / "checkpoints").is_dir() and any(
        (workdir / name).exists() for name in (files.SINGLE, files.INDEX))


def _load_exported(directory: pathlib.Path, abstract: Parameters) -> Parameters:
    on_host = isinstance(jax.tree.leaves(abstract)[0], np.ndarray)
    params = parameters.load(
        abstract, parameters.own_recipes(abstract), Tensors.open(directory), what=f"{directory}/config.json",
        shardings=None if on_host else jax.tree.map(lambda x: x.sharding, abstract))
    return jax.tree.map(np.array, params) if on_host else params


def save_weights(workdir: pathlib.Path, params: Parameters) -> None:
    """Writes weights that no training has made as checkpoint 0: enough to sample with and to start training from."""
    with ocp.training.Checkpointer((workdir / "checkpoints").absolute()) as checkpointer:
        checkpointer.save_checkpointables(0, {"params": params}, overwrite=True)


def save_frozen(workdir: pathlib.Path, params: Parameters) -> None:
    """Writes the parameters that are not trained; in place of others, if a run was cut off before it had begun."""
    ocp.save((workdir / "frozen").absolute(), params, overwrite=True)


def load_frozen(workdir: pathlib.Path, abstract: Parameters) -> Parameters:
    """Reads what `save_frozen` wrote, in the dtypes and onto the devices of `abstract`; an empty tree for none.

    Raises:
      UserError: if they are not there, or are of another model.
    """
    if not abstract:
        return {}
    try:
        return ocp.load((workdir / "frozen").absolute(), abstract)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{workdir}/frozen does not hold the frozen parameters ({_reason(error)}): copy the whole "
                        "workdir again, or train anew") from error


def _reason(error: Exception) -> str:
    """The first line of what Orbax found wrong at the bottom of it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0]
