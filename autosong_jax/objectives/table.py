"""The objectives by the name that a config gives them."""

import ml_collections

from autosong_jax.codebooks.patterns import Pattern
from autosong_jax.errors import UserError
from autosong_jax.objectives.masked_spans import MaskedSpans
from autosong_jax.objectives.next_step import NextStep
from autosong_jax.objectives.objective import Objective

OBJECTIVES = {"next_step": ("next_step",), "masked_spans": ("masked_spans",), "both": ("next_step", "masked_spans")}
_CLASSES = {"next_step": NextStep, "masked_spans": MaskedSpans}


def samplers_of(objective: str) -> tuple[str, ...]:
    """The names of the samplers of a model that is trained for `objective`, a name in a config."""
    return tuple(_CLASSES[name].sampler for name in OBJECTIVES[objective])


def sampled_by(sampler: str) -> list[str]:
    """The objectives, as a config names them, whose models have a sampler."""
    return [name for name in OBJECTIVES if sampler in samplers_of(name)]


def get_objectives(config: ml_collections.ConfigDict, pattern: Pattern, special: int) -> dict[str, Objective]:
    """The objectives of `config` by name; a model of several is trained on them in turns.

    Args:
      config: see `autosong_jax/defaults.py`.
      pattern: of a window.
      special: V.

    Raises:
      UserError: if `config.objective` is of no known name or means nothing.
    """
    objective = config.objective
    if objective.name not in OBJECTIVES:
        raise UserError(f"objective.name {objective.name!r}: expected one of {', '.join(OBJECTIVES)}")
    names = OBJECTIVES[objective.name]
    if "masked_spans" in names and config.model.fusion != "cross":
        raise UserError(f"model.fusion {config.model.fusion!r} with objective {objective.name}: expected cross, since "
                        "masked frames see what comes after them, and so would see the padding of a prefix")
    if objective.span_length < 1 or objective.context_ms < 0:
        raise UserError(f"objective.span_length {objective.span_length}, context_ms {objective.context_ms}: expected a "
                        "length of at least 1 frame and a context of at least 0 ms")
    known = {"next_step": NextStep(pattern, special, objective.scheduled_sampling, objective.scheduled_sampling_steps),
             "masked_spans": MaskedSpans(pattern.frames.shape[1], special, objective.span_length)}
    return {name: known[name] for name in names}
