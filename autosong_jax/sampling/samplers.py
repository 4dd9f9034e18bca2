"""The samplers by the names that objectives give them, and the hybrid of two.

A sampler turns options into a `windows.WindowSampler`: it encodes the conditions of a window once for each branch of
guidance, and has the loops on the device make the frames.

Letters: B songs, G guidance branches, T frames of a window, K codebooks.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx
from jax import Array

from autosong_jax.codebooks.patterns import Pattern
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.errors import UserError
from autosong_jax.models.autoencoder import SCALE
from autosong_jax.models.kinds import Steps
from autosong_jax.models.song import SongModel
from autosong_jax.objectives.table import OBJECTIVES, sampled_by, samplers_of
from autosong_jax.sampling import autoregressive, continuous, masked
from autosong_jax.sampling.guidance import annealed_branches, branches
from autosong_jax.sampling.options import (
    AutoregressiveOptions,
    ContinuousOptions,
    HybridOptions,
    LengthOptions,
    MaskedOptions,
    names,
    pick,
)
from autosong_jax.sampling.windows import Piece, Sources, Window, WindowSampler
from autosong_jax.sources.memory import Memory


@dataclasses.dataclass(frozen=True)
class SampledModel:
    """What samplers need to know of a model.

    Attributes:
      graph: the model without its parameters; `unstacked`.
      config: of the run.
      pattern: how a window of training is read.
      source_names: the model's sources.
    """

    graph: Any
    config: ml_collections.ConfigDict
    pattern: Pattern | Steps
    source_names: Sequence[str]

    def overlap(self, length: int) -> int:
        """How many frames of a window of `length` are to stand already. Raises UserError where that means nothing."""
        if not 0 <= self.config.sampling.overlap < 1:
            raise UserError(f"sampling.overlap {self.config.sampling.overlap}: expected a share from 0 to below 1")
        return int(self.config.sampling.overlap * length)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Another model's say in which codes are made anew.

    Attributes:
      judge: see `masked.Sampler`; the same object for the same model.
      judged_by: the frame where a window begins -> its arrays.
    """

    judge: Callable | None = None
    judged_by: Callable[[int], Any] = lambda start: None


@dataclasses.dataclass(frozen=True)
class Read:
    """What a model reads of windows that are sung.

    Attributes:
      steps: [B, S, ...], as `SongModel` takes them.
      decided: int [T], the step at which the first of each frame is decided.
      local: as `SongModel` takes it.
    """

    steps: Array
    decided: np.ndarray
    local: Array | None = None


class Autoregressive:
    """Sings windows step by step. The frames that are given come first."""

    fills_in = False
    ability = "sing step by step"
    option_kinds = (AutoregressiveOptions,)

    def __init__(self, model: SampledModel):
        self._model, self._loop = model, autoregressive.Sampler(model.graph, model.pattern)
        self._encode = jax.jit(functools.partial(_memory, model.graph))

    def prepare(self, options: Mapping[str, Any]) -> WindowSampler:
        """With options as a caller names them, those of others among them. Raises UserError if one means nothing."""
        chosen, defaults = pick(AutoregressiveOptions, options), self._model.config.sampling
        keep, weights = branches(self._model.source_names, chosen.scales(defaults, self._model.source_names))
        choice, length = chosen.choice(defaults), self._model.pattern.num_frames

        def sing(params: Any, sources: Sources, window: Window, stride: int | None) -> Iterator[Piece]:
            memory = self._encode(params, sources, keep, window.keys)
            request = autoregressive.Request(
                weights, window.keys, window.frames, window.given.sum(axis=1), window.num_frames, choice)
            return self._loop.pieces(params, memory, request, stride)

        return WindowSampler(length, self._model.overlap(length), sing)

    def read(self, model: SongModel, frames: Array) -> Read:
        """How the model reads windows that are sung, [B, any, D], when it is asked what it attends to."""
        steps = self._model.pattern.interleave(
            _padded(frames, self._model.pattern.num_frames, model.frames.special), model.frames.special)
        return Read(steps, self._model.pattern.steps.min(axis=1) - 1)

    def window(self, num_frames: int) -> int:
        """How many frames the model sees at once of a song of so many."""
        return self._model.pattern.num_frames

    def log_probabilities(self, model: SongModel, memory: Memory, frames: Array, num_frames: Array) -> Array:
        """How probable a model without guidance finds each frame of windows, from all that it reads of their songs.

        Args:
          model: the model.
          memory: of B examples.
          frames: [B, T, D], T as `window` has it.
          num_frames: int [], of which so many are of the songs; later ones mean nothing.

        Returns:
          float32 [B, T], in nats, the mean over a frame's codes (given those before it in the pattern).
        """
        pattern, special = self._model.pattern, model.frames.special
        codes = _until(frames, num_frames, special)
        states = model.hidden(pattern.interleave(codes, special)[:, :-1], memory)
        each = functools.partial(autoregressive.log_probabilities, model, pattern, states, codes)
        return jax.lax.map(each, jnp.arange(codes.shape[-1])).mean(axis=0)  # one after another, as in the loss

    @staticmethod
    def check(config: ml_collections.ConfigDict, codec: CodecInfo) -> None:
        """Raises UserError where the defaults of `config` mean nothing for songs of that codec."""


class Masked:
    """Fills windows in. The frames that are given may stand anywhere."""

    fills_in = True
    ability = "fill in"
    option_kinds = (MaskedOptions, HybridOptions)

    def __init__(self, model: SampledModel):
        self._model, self._loop = model, masked.Sampler(model.graph)
        self._encode = jax.jit(functools.partial(_memory, model.graph))

    def prepare(self, options: Mapping[str, Any], num_frames: int, other: Judgement) -> WindowSampler:
        """As of `Autoregressive`, for songs of `num_frames`."""
        chosen, defaults = pick(MaskedOptions, options), self._model.config.sampling.masked
        scales = chosen.scales(defaults, self._model.source_names)
        keep, weights = annealed_branches(self._model.source_names, scales, chosen.least_scale(defaults))
        choice, plan, weight = chosen.choice(defaults), self._plan(options), chosen.weight(defaults)

        def sing(params: Any, sources: Sources, window: Window, stride: int | None) -> Iterator[Piece]:
            memory = self._encode(params, sources, keep, window.keys)
            request = masked.Request(weights, window.keys, window.frames, window.given, window.num_frames, choice,
                                     other.judged_by(window.start), weight)
            return self._loop.pieces(params, memory, request, plan, other.judge, stride)

        length = plan.window(num_frames, self._model.pattern.num_frames)
        return WindowSampler(length, self._model.overlap(length), sing)

    def frames(self, options: Mapping[str, Any], num_frames: int) -> int:
        """How many of `num_frames` songs are made of."""
        return self._plan(options).frames(num_frames)

    def read(self, model: SongModel, frames: Array) -> Read:
        """As of `Autoregressive`: in the first stage, at its end. All of the first codebook stands, no other does."""
        frames = _padded(frames, self._model.pattern.num_frames, model.frames.special)
        steps = jnp.where(jnp.arange(frames.shape[-1]) == 0, frames, model.frames.special)
        return Read(steps, np.arange(frames.shape[1]), jnp.array(False))

    def window(self, num_frames: int) -> int:
        """As of `Autoregressive`."""
        longest = self._model.pattern.num_frames
        return min(num_frames, longest) if self._model.config.sampling.masked.trim else longest

    def log_probabilities(self, model: SongModel, memory: Memory, frames: Array, num_frames: Array) -> Array:
        """As of `Autoregressive`, but a pseudo-likelihood: see `masked.log_probabilities`."""
        codes = _until(frames, num_frames, model.frames.special)
        return masked.log_probabilities(model, memory, codes, self._model.config.objective.span_length)

    def _plan(self, options: Mapping[str, Any]) -> masked.Plan:
        return pick(MaskedOptions, options).plan(self._model.config, self._model.pattern.frames.shape[1])

    @staticmethod
    def check(config: ml_collections.ConfigDict, codec: CodecInfo) -> None:
        """As of `Autoregressive`."""
        MaskedOptions().plan(config, codec.frames.width)


class Continuous:
    """Sings windows of latents step by step; its frames are columns. Those that are given come first."""

    fills_in = False
    ability = "sing latents step by step"
    option_kinds = (ContinuousOptions,)

    def __init__(self, model: SampledModel):
        self._model, steps = model, model.pattern
        self._columns = steps.num_frames // SCALE
        self._loop = continuous.Sampler(model.graph, self._columns, steps.num_steps // self._columns,
                                        model.config.latents.residual)
        self._encode = jax.jit(functools.partial(_memory, model.graph))

    def prepare(self, options: Mapping[str, Any]) -> WindowSampler:
        """As of `Autoregressive`."""
        chosen, defaults = pick(ContinuousOptions, options), self._model.config.sampling
        keep, weights = branches(self._model.source_names, chosen.scales(defaults, self._model.source_names))
        temperature, steps = chosen.noise(defaults), chosen.latent_steps

        def sing(params: Any, sources: Sources, window: Window, stride: int | None) -> Iterator[Piece]:
            memory = self._encode(params, sources, keep, window.keys)
            request = continuous.Request(
                weights, window.keys, window.frames, window.given.sum(axis=1), window.num_frames, temperature, steps)
            return self._loop.pieces(params, memory, request, stride)

        return WindowSampler(self._columns, self._model.overlap(self._columns), sing)

    def read(self, model: SongModel, frames: Array) -> Read:
        """As of `Autoregressive`; frames are columns."""
        steps = model.frames.inputs(model.frames.steps(_padded(frames, self._columns, 0)))
        return Read(steps, np.arange(self._columns) * model.frames.per_column)

    def window(self, num_frames: int) -> int:
        """As of `Autoregressive`; frames are columns."""
        return self._columns

    def log_probabilities(self, model: SongModel, memory: Memory, frames: Array, num_frames: Array) -> Array:
        """As of `Autoregressive`, the mean over a column's values; wants a head that is `exact`."""
        frames, adapter = _until(frames, num_frames, 0), model.frames
        steps = adapter.steps(frames)
        before = jnp.pad(steps, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        states = adapter.predict(model.hidden(adapter.inputs(steps), memory))
        targets = steps - before if self._model.config.latents.residual else steps
        losses, _ = jax.vmap(adapter.head.loss)(adapter.condition(states, before), targets)
        return -losses.reshape(*frames.shape[:2], adapter.per_column).mean(axis=-1)

    @staticmethod
    def check(config: ml_collections.ConfigDict, codec: CodecInfo) -> None:
        """As of `Autoregressive`."""


SAMPLERS = {"autoregressive": Autoregressive, "masked": Masked, "continuous": Continuous}
ALL_OPTIONS = names(LengthOptions).union(
    *(names(kind) for sampler in SAMPLERS.values() for kind in sampler.option_kinds))


def get_samplers(model: SampledModel) -> list[Autoregressive | Masked | Continuous]:
    """The samplers of a model; the last is the one it sings by, and those before it may begin songs for that."""
    return [SAMPLERS[name](model) for name in samplers_of(model.config.objective.name)]


def check_sings(config: ml_collections.ConfigDict, what: str) -> None:
    """Raises UserError where a model of `config`, called `what`, makes no songs."""
    if not samplers_of(config.objective.name):
        raise UserError(f"{what} is of objective {config.objective.name}, which sings nothing: expected one of "
                        f"{', '.join(name for name in OBJECTIVES if samplers_of(name))}")


def check_config(config: ml_collections.ConfigDict, codec: CodecInfo, field: str) -> None:
    """Raises UserError where a model of `config` could not sing songs of that codec with its own defaults, as a field
    of its training asks for."""
    check_sings(config, f"train.{field} {config.train[field]}: the model")
    for name in samplers_of(config.objective.name):
        SAMPLERS[name].check(config, codec)


def trained_to(sampler: type) -> str:
    """For errors, of which models have a sampler: "trained to fill in (objective masked_spans or both)"."""
    name = next(name for name, known in SAMPLERS.items() if known is sampler)
    return f"trained to {sampler.ability} (objective {' or '.join(sampled_by(name))})"


def options_of(samplers: Sequence[Autoregressive | Masked | Continuous]) -> set[str]:
    """The options that some sampler of a model takes, and the length of songs."""
    return names(LengthOptions).union(*(names(kind) for sampler in samplers for kind in sampler.option_kinds))


def check_options(given: Mapping[str, Any], samplers: Sequence[Autoregressive | Masked | Continuous]) -> None:
    """Raises UserError for an option that no sampler of a model takes, and TypeError for one that none at all does."""
    for option in sorted(given.keys() - options_of(samplers)):
        taker = next((sampler for sampler in SAMPLERS.values()
                      if any(option in names(kind) for kind in sampler.option_kinds)), None)
        if taker is None:
            raise TypeError(f"{option!r} is no option of any sampler")
        raise unable(option, samplers, taker)


def unable(wish: str, samplers: Sequence[Autoregressive | Masked | Continuous], sampler: type) -> UserError:
    """The error of a wish that only a model with `sampler` could fulfil."""
    return UserError(f"{wish}: this model can only {' and '.join(s.ability for s in samplers)}; expected one that was "
                     f"{trained_to(sampler)}")


def _padded(frames: Array, length: int, value: int) -> Array:
    """[B, any, D] -> [B, length, D]: windows all have one length, so that one program reads them."""
    return jnp.pad(frames, ((0, 0), (0, length - frames.shape[1]), (0, 0)), constant_values=value)


def _until(frames: Array, num_frames: Array, value: int) -> Array:
    """Frames [B, T, D], with `value` from frame `num_frames` on."""
    return jnp.where((jnp.arange(frames.shape[1]) < num_frames)[:, None], frames, value)


def _memory(graph: Any, params: Any, sources: Sources, keep: Array, keys: Array) -> Memory:
    return encode(nnx.merge(graph, params), sources, keep, len(keys))


def encode(model: SongModel, sources: Sources, keep: Array, batch: int) -> Memory:
    """The memory of G B examples, branch after branch, from sources of B songs and `keep` bool [G, sources]."""
    tiled = jax.tree.map(lambda x: jnp.tile(x, (keep.shape[0],) + (1,) * (x.ndim - 1)), dict(sources))
    return model.encode(tiled, jnp.repeat(keep, batch, axis=0))
