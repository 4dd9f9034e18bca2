"""What the caller may decide about singing: a dataclass of options for each sampler, and what comes of them.

Callers name options flatly, `temperature=0.8, steps=[20, 10]`; `pick` gives each dataclass those that are fields of it.
In all of them None is the default of the model's config.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax.numpy as jnp
import ml_collections
from jax import Array

from autosong_jax.errors import UserError
from autosong_jax.sampling.masked import Plan
from autosong_jax.sampling.tokens import Choice

MAX_SECONDS = 6 * 3600  # of a song: its audio is made in one piece, and takes a few GiB then
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class LengthOptions:
    """How long songs are to be, whatever makes them.

    Attributes:
      duration: seconds, a prompt included. The song may end earlier where the model says so. None is one window.
    """

    duration: float | None = None

    def frames(self, frame_rate: float, window: int) -> int:
        """How long songs are to be, in frames. Raises UserError for a duration that is none."""
        if self.duration is None:
            return window
        if not 0 < self.duration <= MAX_SECONDS:
            raise UserError(f"duration {self.duration}: expected more than 0 s, and at most {MAX_SECONDS}")
        return round(self.duration * frame_rate)


@dataclasses.dataclass(frozen=True)
class GuidanceOptions:
    """How songs are guided: what every sampler takes.

    Attributes:
      cfg_scale: guidance scale of every source.
      cfg_scales: guidance scales of single sources by name.
      temperature: how much of chance there is; 0 for none.
    """

    cfg_scale: float | None = None
    cfg_scales: Mapping[str, float] | None = None
    temperature: float | None = None

    def scales(self, defaults: ml_collections.ConfigDict, names: Sequence[str]) -> dict[str, float]:
        """The guidance scale of each source. Raises UserError for one that the model does not have."""
        of_config = {} if self.cfg_scale is not None else defaults.cfg_scales.to_dict()
        scales = dict.fromkeys(names, self._pick("cfg_scale", defaults)) | of_config | dict(self.cfg_scales or {})
        if unknown := sorted(scales.keys() - set(names)):
            raise UserError(f"guidance scale of {unknown[0]!r}: the model's sources are {', '.join(names) or 'none'}")
        for name, scale in scales.items():
            if not math.isfinite(scale):
                raise UserError(f"guidance scale of {name} {scale}: expected a number; 1 is no guidance")
        return scales

    def _pick(self, name: str, defaults: ml_collections.ConfigDict):
        given = getattr(self, name)
        return defaults[name] if given is None else given


@dataclasses.dataclass(frozen=True)
class DrawOptions(GuidanceOptions):
    """How codes are guided and drawn.

    Attributes:
      temperature, top_k, top_p: see `tokens.Choice`.
    """

    top_k: int | None = None
    top_p: float | None = None

    def choice(self, defaults: ml_collections.ConfigDict) -> Choice:
        """How ids are drawn. Raises UserError for values that mean nothing."""
        temperature, top_k, top_p = (self._pick(name, defaults) for name in ("temperature", "top_k", "top_p"))
        if not (0 <= temperature < math.inf and 0 <= top_k < 2**31 and 0 < top_p <= 1):
            raise UserError(f"temperature {temperature}, top_k {top_k}, top_p {top_p}: expected temperature >= 0, "
                            "top_k >= 0 and 0 < top_p <= 1")
        return Choice(jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p))


@dataclasses.dataclass(frozen=True)
class AutoregressiveOptions(DrawOptions):
    """Of songs that are sung step by step; their defaults are in `config.sampling`."""


@dataclasses.dataclass(frozen=True)
class ContinuousOptions(GuidanceOptions):
    """Of songs of latents; their defaults are in `config.sampling`, those of `latent_steps` in `config.latents`.

    Attributes:
      temperature: noise is scaled by its square root.
      latent_steps: from noise to a latent, of a flow.
    """

    latent_steps: int | None = None

    def noise(self, defaults: ml_collections.ConfigDict) -> Array:
        """The temperature, float32 []. Raises UserError for options that mean nothing."""
        temperature = self._pick("temperature", defaults)
        if not 0 <= temperature < math.inf:
            raise UserError(f"temperature {temperature}: expected 0 or more")
        if self.latent_steps is not None and not 1 <= self.latent_steps <= 10_000:
            raise UserError(f"latent_steps {self.latent_steps}: expected 1 to 10,000")
        return jnp.float32(temperature)


@dataclasses.dataclass(frozen=True)
class MaskedOptions(DrawOptions):
    """Of songs that are filled in; their defaults are in `config.sampling.masked`.

    Attributes:
      cfg_scale_min: guidance scale of the last pass of each codebook.
      steps: passes of each codebook; see `masked.Plan`.
      arrangement, confidence: which spans are made anew; see `masked.Plan`.
      rescore_weight: weight of an external model's probability, from 0 to 1, where there is one.
    """

    cfg_scale_min: float | None = None
    steps: Sequence[int] | None = None
    arrangement: str | None = None
    confidence: str | None = None
    rescore_weight: float | None = None

    def plan(self, config: ml_collections.ConfigDict, num_codebooks: int) -> Plan:
        """How a model of `config` fills in. Raises UserError for values that mean nothing."""
        masked = config.sampling.masked
        plan = Plan(tuple(self._pick("steps", masked)), config.objective.span_length, self._pick("arrangement", masked),
                    self._pick("confidence", masked), masked.anneal, masked.trim)
        plan.check(num_codebooks)
        return plan

    def least_scale(self, defaults: ml_collections.ConfigDict) -> float:
        """Of every source in the last pass of a codebook. Raises UserError where it is none."""
        scale = self._pick("cfg_scale_min", defaults)
        if not math.isfinite(scale):
            raise UserError(f"cfg_scale_min {scale}: expected a number; 1 is no guidance")
        return scale

    def weight(self, defaults: ml_collections.ConfigDict) -> float:
        """Of an external model's probability. Raises UserError where it is none."""
        weight = self._pick("rescore_weight", defaults)
        if not 0 <= weight <= 1:
            raise UserError(f"rescore_weight {weight}: expected a weight from 0 to 1")
        return weight


@dataclasses.dataclass(frozen=True)
class HybridOptions:
    """Of songs that are begun step by step and then filled in; the default is in `config.sampling.masked`.

    Attributes:
      hybrid_seconds: how much of the beginning is sung step by step.
    """

    hybrid_seconds: float | None = None

    def lead_seconds(self, defaults: ml_collections.ConfigDict) -> float:
        """What is sung step by step before the rest is filled in. Raises UserError where that means nothing."""
        seconds = defaults.hybrid_seconds if self.hybrid_seconds is None else self.hybrid_seconds
        if not 0 <= seconds <= MAX_SECONDS:
            raise UserError(f"hybrid_seconds {seconds}: expected at least 0, and at most {MAX_SECONDS}")
        return seconds


def pick(kind: type[T], given: Mapping[str, Any]) -> T:
    """The options of `kind` among those that are given; see the top of this file."""
    return kind(**{name: given[name] for name in names(kind) & given.keys()})


def names(kind: type) -> set[str]:
    """What the options of `kind` are called."""
    return {field.name for field in dataclasses.fields(kind)}
