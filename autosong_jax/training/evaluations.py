"""What a run is judged by while it trains: the losses of the validation split, and the songs that it sings.

Every number has a name of its kind of line and its own, such as "validation/loss". By one of them the best checkpoints
are kept.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from autosong_jax.cli import log
from autosong_jax.data.dataset import Batch
from autosong_jax.errors import UserError
from autosong_jax.objectives.objective import Objective
from autosong_jax.parallel import distributed
from autosong_jax.training.metrics import MetricsWriter
from autosong_jax.training.step import Trainer, TrainState
from autosong_jax.weights.trainable import Parameters, combine
from autosong_jax.workdir import numbers

SUNG = "sung"  # the kind of lines on songs that were sung


class Listener(Protocol):
    """Has a model sing, and says how good that is.

    Attributes:
      better: of each number that it gives, "more" or "less"; "" where neither is.
    """

    better: Mapping[str, str]

    def __call__(self, params: Parameters) -> Mapping[str, float]:
        """The numbers of a model of these parameters, the same on all processes; NaN for what cannot be said."""


class Evaluations:
    """Those of one run.

    Args:
      config: of the run.
      trainer: of the run.
      validation: batches of the validation split, or None.
      put: a batch -> the same on the devices, as the model reads it.
      listener: judges what the model sings; None where nothing does.
    """

    def __init__(self, config: ml_collections.ConfigDict, trainer: Trainer, validation: Any,
                 put: Callable[[Batch], Batch], listener: Listener | None):
        self._train, self._trainer, self._validation, self._put = config.train, trainer, validation, put
        self._listener = listener

    def due(self, step: int) -> bool:
        """Whether there is one after `step`."""
        return self._validates(step) or self._listens(step)

    def _validates(self, step: int) -> bool:
        return self._validation is not None and (due(step, self._train.eval_every) or step == self._train.steps)

    def _listens(self, step: int) -> bool:
        return self._listener is not None and (due(step, self._train.sing_every) or step == self._train.steps)

    def run(self, state: TrainState, frozen: Parameters, step: int, writer: MetricsWriter) -> dict[str, float]:
        """Those that are due after `step`, of the averaged weights: written, and returned by "KIND/NAME".

        "validation/loss" is the mean of the losses of all objectives.
        """
        found = {}
        if self._validates(step):
            losses = []
            for name, values in self._validate(state.average, frozen).items():
                kind, objective = line_kind("validation", name, self._trainer), self._trainer.objectives[name]
                writer.write(step, kind, values)
                log.info("Step %d: %s %s", step, kind, headline(objective, values))
                found |= {f"{kind}/{key}": value for key, value in values.items()}
                losses.append(values["loss"])
            found[numbers.LOSS] = float(np.mean(losses))
        if self._listens(step):
            values = {key: value for key, value in self._listener(combine(state.average, frozen)).items()
                      if np.isfinite(value)}
            writer.write(step, SUNG, values)
            log.info("Step %d: %s %s", step, SUNG, ", ".join(f"{key} {value:.4f}" for key, value in values.items()))
            found |= {f"{SUNG}/{key}": value for key, value in values.items()}
        return found

    def _validate(self, average: Parameters, frozen: Parameters) -> dict[str, dict[str, float]]:
        """One pass over the validation split: what each objective says of it."""
        total = None
        for batch in self._validation:
            arguments = average, frozen, self._put(batch)
            if total is None:
                distributed.compile_together(self._trainer.eval_step, *arguments)
            sums = self._trainer.eval_step(*arguments)
            total = sums if total is None else jax.tree.map(np.add, jax.device_get(sums), jax.device_get(total))
        return {name: self._trainer.objectives[name].summarize(sums)
                for name, sums in jax.device_get(total).items()}

    def better(self) -> str:
        """Whether "more" or "less" is better of the number that `config.train.best_by` names.

        Raises:
          UserError: no evaluation of this run writes it, or neither is better.
        """
        wanted = self._train.best_by
        if wanted == numbers.LOSS:  # for which there need not be a validation split
            return numbers.better(wanted)
        known = self._known()
        if not known.get(wanted):
            why = "neither more nor less of it is better" if wanted in known else "no evaluation of this run writes it"
            there = ", ".join(name for name, better in known.items() if better)
            raise UserError(f"train.best_by {wanted!r}: {why}; expected one of {numbers.LOSS}{there and ', '}{there}")
        return known[wanted]

    def _known(self) -> dict[str, str]:
        """Which numbers this run writes, and whether more or less of each is better."""
        known = {}
        if self._validation is not None:
            shapes = jax.eval_shape(self._trainer.eval_step, self._trainer.abstract.average, self._trainer.frozen,
                                    self._put(self._validation[0]))
            for name, sums in shapes.items():
                kind = line_kind("validation", name, self._trainer)
                values = self._trainer.objectives[name].summarize(
                    jax.tree.map(lambda x: np.ones(x.shape, x.dtype), sums))
                known |= {f"{kind}/{key}": numbers.better(key) for key in values if key != "targets"}
        if self._listener is not None:
            known |= {f"{SUNG}/{key}": better for key, better in self._listener.better.items()}
        return {name: better for name, better in known.items() if name != numbers.LOSS}


def due(step: int, every: int) -> bool:
    """Whether it is the turn of what is done `every` so many steps; 0 for never."""
    return every > 0 and step % every == 0


def headline(objective: Objective, values: Mapping[str, float]) -> str:
    """ "loss 3.1234, accuracy 0.2500" """
    return ", ".join(f"{name} {values[name]:.4f}" for name in objective.headline)


def line_kind(kind: str, objective: str, trainer: Trainer) -> str:
    """The kind of a line of metrics, with the name of the objective where there are several."""
    return kind if len(trainer.objectives) == 1 else f"{kind}_{objective}"
