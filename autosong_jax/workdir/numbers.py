"""The numbers that stand beside the weights of a checkpoint, by which the best are kept. Needs no JAX.

Orbax writes them, as `CHECKPOINT/metrics/metrics`: what the evaluations of the checkpoint's step have written, by
"KIND/NAME" as in "validation/loss".
"""

import math
import pathlib
from collections.abc import Mapping

from autosong_jax import inputs

LOSS = "validation/loss"
_OLD = "validation_loss"  # the only one of checkpoints that older versions wrote


def read(checkpoint: pathlib.Path) -> dict[str, float]:
    """The numbers of a checkpoint; none of one without evaluation.

    Raises:
      UserError: they are damaged.
    """
    path = checkpoint / "metrics" / "metrics"
    return current(inputs.read_json(path, dict[str, float], "metrics")) if path.exists() else {}


def current(numbers: Mapping[str, float]) -> dict[str, float]:
    """The numbers of a checkpoint by the names that they have now."""
    return {LOSS if name == _OLD else name: value for name, value in numbers.items()}


def finite(numbers: Mapping[str, float]) -> dict[str, float] | None:
    """What is written of numbers; None for nothing."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)} or None


def better(name: str) -> str:
    """ "more" or "less": which is better of a number of validation."""
    return "more" if name.rpartition("/")[2].startswith("accuracy") else "less"
