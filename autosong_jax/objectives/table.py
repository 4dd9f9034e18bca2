"""The objectives by the name that a config gives them."""

from collections.abc import Callable
from typing import Any

import ml_collections

from autosong_jax.codebooks.patterns import Pattern
from autosong_jax.errors import UserError
from autosong_jax.models.kinds import Steps
from autosong_jax.models.of_latents import per_column
from autosong_jax.models.of_samples import mel_of
from autosong_jax.objectives.masked_spans import MaskedSpans
from autosong_jax.objectives.next_latent import NextLatent
from autosong_jax.objectives.next_step import NextStep
from autosong_jax.objectives.objective import Objective
from autosong_jax.objectives.reconstruction import Reconstruction
from autosong_jax.objectives.vocoding import Vocoding

CLASSES = {"next_step": NextStep, "masked_spans": MaskedSpans, "next_latent": NextLatent,
           "reconstruction": Reconstruction, "vocoding": Vocoding}
OBJECTIVES = {name: (name,) for name in CLASSES} | {"both": ("next_step", "masked_spans")}


def samplers_of(objective: str) -> tuple[str, ...]:
    """The names of the samplers of a model that is trained for `objective`, a name in a config."""
    return tuple(CLASSES[name].sampler for name in OBJECTIVES[objective] if CLASSES[name].sampler)


def sampled_by(sampler: str) -> list[str]:
    """The objectives, as a config names them, whose models have a sampler."""
    return [name for name in OBJECTIVES if sampler in samplers_of(name)]


def get_objectives(config: ml_collections.ConfigDict, steps: Pattern | Steps, model: Any) -> dict[str, Objective]:
    """The objectives of `config` by name; a model of several is trained on them in turns.

    Args:
      config: see `autosong_jax/defaults.py`.
      steps: how a window is read.
      model: what is trained; shapes are enough.

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
    return {name: _MAKERS[name](config, steps, model) for name in names}


def _next_step(config: ml_collections.ConfigDict, pattern: Pattern, model: Any) -> NextStep:
    return NextStep(pattern, model.frames.special, config.objective.scheduled_sampling,
                    config.objective.scheduled_sampling_steps)


def _masked_spans(config: ml_collections.ConfigDict, pattern: Pattern, model: Any) -> MaskedSpans:
    return MaskedSpans(pattern.frames.shape[1], model.frames.special, config.objective.span_length)


def _next_latent(config: ml_collections.ConfigDict, steps: Steps, model: Any) -> NextLatent:
    return NextLatent(steps.codec.config.values, per_column(config, steps.codec), config.latents.residual,
                      config.latents.noise)


def _game(config: ml_collections.ConfigDict) -> dict[str, float]:
    objective = config.objective
    return {"generator_weight": objective.adversarial, "feature_weight": objective.feature_matching,
            "adversarial_start": objective.adversarial_start}


def _reconstruction(config: ml_collections.ConfigDict, steps: Steps, model: Any) -> Reconstruction:
    return Reconstruction(mel=steps.codec.config, prior=config.objective.prior, **_game(config))


def _vocoding(config: ml_collections.ConfigDict, steps: Steps, model: Any) -> Vocoding:
    return Vocoding(mel=mel_of(config, steps.codec), mel_weight=config.objective.mel_weight, **_game(config))


_MAKERS: dict[str, Callable[[ml_collections.ConfigDict, Any, Any], Objective]] = {
    "next_step": _next_step, "masked_spans": _masked_spans, "next_latent": _next_latent,
    "reconstruction": _reconstruction, "vocoding": _vocoding}
