"""Checkpoints: the only file that knows Orbax.

A checkpoint is `checkpoints/STEP/` with the items "params", "ema" and "optimizer" of what is trained; what is frozen is
written once, to `frozen/`. Writing checkpoints goes on in the background, under another name; what has a step's name is
whole, until the disk damages it. Then the checkpoint before it counts.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import jax
import ml_collections
import numpy as np
from orbax.checkpoint import v1 as ocp

from autosong_jax.cli import log
from autosong_jax.errors import UserError
from autosong_jax.layers import lora
from autosong_jax.parallel.sharding import put
from autosong_jax.weights import files, parameters
from autosong_jax.weights.files import Tensors
from autosong_jax.weights.parameters import as_filed, from_filed
from autosong_jax.weights.trainable import Parameters, combine, partition
from autosong_jax.workdir import digests, numbers

T = TypeVar("T")


class State(Protocol):
    """What a run is at a step: a dataclass of these trees of arrays, or of their shapes or shardings.

    Attributes:
      step: int32 [].
      params: what is trained.
      ema: the moving average of `params`, or an empty tree.
      optimizer: its state.
    """

    step: Any
    params: Parameters
    ema: Parameters
    optimizer: Any


S = TypeVar("S", bound=State)


class Checkpoints:
    """The checkpoints of a workdir.

    Args:
      workdir: its `checkpoints` directory is made if it is missing.
      keep_last: how many of the newest to keep.
      keep_best: how many to keep of the best.
      best_by: the number that says how good one is, such as "validation/loss".
      better: "less" or "more" of it.
    """

    def __init__(self, workdir: pathlib.Path, keep_last: int = 1, keep_best: int = 0, best_by: str = numbers.LOSS,
                 better: str = "less"):
        self._workdir, self._keep = workdir, (keep_last, keep_best)
        self._best_by, self._sign = best_by, {"less": -1, "more": 1}[better]
        self._directory = (workdir / "checkpoints").absolute()
        self._writing: int | None = None  # the step that is being written
        self._response = None  # of Orbax, to `_writing`
        self._failed = False  # to write that step

    @functools.cached_property
    def _checkpointer(self) -> ocp.training.Checkpointer:
        # Made when first written to: Orbax reads the list of checkpoints only now, and then keeps it.
        for step in _finished_steps(self._directory):
            _check_descriptions(self._directory / str(step))
        policies = ocp.training.preservation_policies
        keep_last, keep_best = self._keep
        context = ocp.Context()
        # Functions: Orbax copies the context with all that is in it, and a method would take a copy of self along.
        context.asynchronous.post_finalization_callback = lambda: self._written()
        best_by, sign = self._best_by, self._sign
        return ocp.training.Checkpointer(
            self._directory, context=context, cleanup_tmp_directories=True,
            preservation_policy=policies.AnyPreservationPolicy([
                policies.LatestN(keep_last),
                policies.BestN(get_metric_fn=lambda found: sign * numbers.current(found).get(best_by, -sign * math.inf),
                               n=keep_best, keep_checkpoints_without_metrics=False),
            ]))

    @property
    def latest(self) -> int | None:
        """The step of the newest finished checkpoint."""
        return max(_finished_steps(self._directory), default=None)

    def save(self, state: State, step: int, found: Mapping[str, float] | None = None) -> None:
        """Starts to write `state`, beside it the numbers that evaluations have found of it, by "KIND/NAME"; waits first
        for the checkpoint before it, if that is still being written.

        Raises:
          UserError: this one or the one before it cannot be written.
        """
        self.wait()
        items = {"params": as_filed(state.params), "optimizer": as_filed(state.optimizer)}
        if state.ema:
            items["ema"] = as_filed(state.ema)
        if not self._workdir.is_dir():  # Orbax would make it anew, with nothing else in it
            raise UserError(f"workdir {self._workdir} is gone: the checkpoint of step {step} cannot be written; bring "
                            "the workdir back, or start again")
        self._writing = step
        with self._failing():
            self._response = self._checkpointer.save_checkpointables_async(
                step, items, force=True, metrics=numbers.finite(found or {}))

    def _written(self) -> None:
        # Orbax calls this when all items are written, before the checkpoint gets its name.
        if jax.process_index() == 0:
            digests.write(next(self._half_written()))

    def _half_written(self) -> Iterator[pathlib.Path]:
        return self._directory.glob(f"{self._writing}.orbax-checkpoint-tmp*")

    def _remove_half_written(self) -> None:
        absent = 0
        for _ in range(50):  # until it stays away: threads of Orbax that have not failed yet make its folders anew
            paths = list(self._half_written())
            absent = 0 if paths else absent + 1
            if absent == 5:
                return
            for path in paths:
                shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.1)

    def check(self) -> None:
        """Raises UserError if what is written in the background has failed meanwhile."""
        if self._response is not None:
            with self._failing(), contextlib.suppress(TimeoutError):  # it is still being written
                self._response.result(timeout=0)
                self._response = None

    def wait(self) -> None:
        """Returns when everything that was saved is on disk. Raises UserError if it cannot be."""
        if self._response is not None:
            with self._failing():
                self._response.result()
            self._response = None

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Makes what goes wrong in storing a checkpoint an error that says so, and frees the space that it took."""
        try:
            yield
        except Exception as error:
            self._response = None
            self._failed = True
            self._remove_half_written()
            earlier = f"checkpoint {self.latest} is whole" if self.latest is not None else "there is none before it"
            raise UserError(f"the checkpoint of step {self._writing} cannot be written to {self._directory} "
                            f"({_reason(error)}): {earlier}; make room there, or repair it, and start the same command "
                            "again, which goes on from there") from error

    def restore_newest(self, abstract: S, shardings: S) -> tuple[S | Parameters, int]:
        """The state of the newest checkpoint that is whole and its step; of weights without a run, parameters alone.

        Damaged ones are renamed `STEP.damaged`, with a warning, so that training can write their steps again.

        Raises:
          UserError: there is none that is whole, or it does not fit.
        """
        def load(step: int) -> S | Parameters:
            if step == 0:  # no run's: those begin to save later
                return self._load({"params": abstract.params}, {"params": shardings.params}, step)["params"]
            return self.restore(abstract, shardings, step)

        loaded, step, damaged = _newest_whole(self._workdir, lambda items: items, load)
        for other in damaged:
            _set_aside(self._directory / str(other))
        return loaded, step

    def restore(self, abstract: S, shardings: S, step: int) -> S:
        """The state at `step`, on the devices that `shardings` says, whatever devices wrote it."""
        items = {"params": abstract.params, "optimizer": abstract.optimizer}
        targets = {"params": shardings.params, "optimizer": shardings.optimizer}
        if abstract.ema:
            items["ema"], targets["ema"] = abstract.ema, shardings.ema
        items = self._load(items, targets, step)
        return dataclasses.replace(abstract, step=put(np.int32(step), shardings.step), params=items["params"],
                                   ema=items.get("ema", {}), optimizer=items["optimizer"])

    def _load(self, items: dict[str, Any], shardings: dict[str, Any], step: int) -> dict[str, Any]:
        items = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), items, shardings)
        filed = {name: as_filed(item) for name, item in items.items()}
        try:
            loaded = ocp.load_checkpointables(self._directory / str(step), filed)
            return {name: from_filed(loaded[name], item) for name, item in items.items()}
        except (ValueError, KeyError) as error:
            raise UserError(f"checkpoint {self._directory}/{step} does not fit the config ({_reason(error)}): train "
                            "with the config it was written with, or choose another --workdir") from error

    def close(self) -> None:
        """Waits and frees the threads. What fails now has been said, or something worse has."""
        if "_checkpointer" in self.__dict__:
            with contextlib.suppress(Exception):
                self._checkpointer.close()
        if self._failed:
            self._remove_half_written()  # what threads still wrote when it failed


def _finished_steps(directory: pathlib.Path) -> list[int]:
    if not directory.is_dir():
        return []
    return [int(path.name) for path in directory.iterdir() if path.name.isdecimal() and path.is_dir()]


def _newest_whole(workdir: pathlib.Path, choose: Callable[[set[str]], Collection[str]], load: Callable[[int], T]
                  ) -> tuple[T, int, list[int]]:
    """The first that `load` reads of the checkpoints from the newest on, its step, and the damaged steps after it.

    A checkpoint is damaged if the items of it that `choose` chooses differ from their checksums, or if it has none and
    cannot be read. Each is warned of.
    """
    damaged: dict[int, str] = {}
    misfit = None
    while steps := set(_finished_steps(workdir / "checkpoints")) - damaged.keys():
        step = max(steps)
        directory = workdir / "checkpoints" / str(step)
        damage = digests.find_damage(directory, choose)
        if damage is None:
            try:
                return load(step), step, list(damaged)
            except (MemoryError, jax.errors.JaxRuntimeError):  # the machine's
                raise
            except Exception as error:
                if digests.are_known(directory):
                    raise
                damage = _reason(error)
                misfit = misfit or (error if isinstance(error, UserError) else None)
        damaged[step] = damage
        if len(steps) > 1:
            log.warning("Checkpoint %s is damaged (%s): trying the one before it", directory, damage)
    if not damaged:
        raise UserError(f"{workdir}/checkpoints holds no finished checkpoint: expected a workdir that "
                        "`python -m autosong_jax.train` wrote; train until the first is written")
    if misfit:  # without checksums nobody knows which it is
        raise misfit
    raise UserError(f"no checkpoint in {workdir}/checkpoints can be used ("
                    + "; ".join(f"{step}: {damage}" for step, damage in damaged.items())
                    + "): copy the whole workdir again, or train anew in another one")


def _set_aside(directory: pathlib.Path) -> None:
    """Renames a damaged checkpoint, so that it is none any more but nothing is lost."""
    if jax.process_index() == 0:
        aside = directory.with_name(f"{directory.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            directory.rename(aside)
            log.warning("The damaged checkpoint is now %s; it may be deleted", aside)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"{directory.name} is set aside")


def _check_descriptions(directory: pathlib.Path) -> None:
    """Sets a checkpoint aside whose descriptions Orbax could not read: it reads those of all when it starts."""
    try:
        if digests.find_irregular(directory):
            _set_aside(directory)
        else:
            numbers.read(directory)
    except UserError:
        _set_aside(directory)


def latest_step(workdir: pathlib.Path) -> int | None:
    """The step of the newest finished checkpoint of a workdir, which need not exist; of exported weights 0."""
    return max(_finished_steps(workdir / "checkpoints"), default=0 if is_exported(workdir) else None)


def load_weights(workdir: pathlib.Path, config: ml_collections.ConfigDict, abstract: Parameters
                 ) -> tuple[Parameters, int]:
    """The weights to sample with, from the newest checkpoint: the moving average where there is one, LoRA merged.

    Writes nothing. Damaged checkpoints are passed over with a warning.

    Args:
      workdir: of a training run, a converted model or an exported one.
      config: what its `config.json` says.
      abstract: shapes, dtypes and shardings of all parameters, LoRA's among them; or NumPy arrays, to have the weights
        in the host's memory.

    Returns:
      The parameters of the model without LoRA, and the step of the checkpoint.

    Raises:
      UserError: if there is no finished checkpoint that is whole, or it does not fit the config.
    """
    if is_exported(workdir):
        return _load_exported(workdir, abstract), 0
    trained, frozen = partition(abstract, config.train.trainable)

    def choose(items: set[str]) -> list[str]:
        return ["ema" if "ema" in items else "params"]

    def load(step: int) -> Parameters:
        checkpoint = (workdir / "checkpoints" / str(step)).absolute()
        item, = choose({path.name for path in checkpoint.iterdir()})
        try:
            return from_filed(ocp.load_checkpointables(checkpoint, {item: as_filed(trained)})[item], trained)
        except (ValueError, KeyError) as error:
            raise UserError(f"checkpoint {checkpoint} does not fit {workdir}/config.json ({_reason(error)}): copy the "
                            "whole workdir again, or train anew") from error

    trained, step, _ = _newest_whole(workdir, choose, load)
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
        checkpointer.save_checkpointables(0, {"params": as_filed(params)}, overwrite=True)
    digests.write(workdir / "checkpoints" / "0")


def save_frozen(workdir: pathlib.Path, params: Parameters) -> None:
    """Writes the parameters that are not trained; in place of others, if a run was cut off before it had begun."""
    ocp.save((workdir / "frozen").absolute(), as_filed(params), overwrite=True)
    if jax.process_index() == 0:
        digests.write(workdir / "frozen")


def load_frozen(workdir: pathlib.Path, abstract: Parameters) -> Parameters:
    """Reads what `save_frozen` wrote, in the dtypes and onto the devices of `abstract`; an empty tree for none.

    Raises:
      UserError: if they are not there, are damaged, or are of another model.
    """
    if not abstract:
        return {}
    directory = workdir / "frozen"
    damage = digests.find_damage(directory)
    try:
        if damage:
            raise ValueError(damage)
        return from_filed(ocp.load(directory.absolute(), as_filed(abstract)), abstract)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{workdir}/frozen does not hold the frozen parameters ({_reason(error)}): copy the whole "
                        "workdir again, or train anew") from error


def _reason(error: Exception) -> str:
    """The first line of what Orbax found wrong at the bottom of it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).splitlines()[0]
