"""Windows of songs on the device: what the sampler of each objective does with one.

Letters: B songs, G guidance branches, T frames of a window, K codebooks.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx
from jax import Array

from autosong_jax.codebooks.patterns import Pattern
from autosong_jax.models.song import SongModel
from autosong_jax.sampling import autoregressive, masked
from autosong_jax.sampling.guidance import annealed_branches, branches
from autosong_jax.sampling.options import SamplingOptions
from autosong_jax.sources.memory import Memory

Sources = Mapping[str, Mapping[str, Array]]


class NextStepWindows:
    """Windows that are sung step by step.

    Args:
      graph: the model without its parameters; `unstacked`.
      config: of the run.
      pattern: of a window.
    """

    def __init__(self, graph: Any, config: ml_collections.ConfigDict, pattern: Pattern):
        self._config, self._pattern, self._sampler = config, pattern, autoregressive.Sampler(graph, pattern)
        self._encode = jax.jit(functools.partial(_memory, graph))

    def prepare(self, names: Sequence[str], options: SamplingOptions, num_frames: int) -> tuple[Callable, int, int]:
        """A sampler with options.

        Args:
          names: the model's sources.
          num_frames: of the songs.

        Returns:
          (params, sources, keys [B], codes int32 [B, T, K], given bool [B, T], num_frames int32 [B], on_step) ->
          codes, num_frames, where given frames come first; the number of steps that it tells `on_step` of; T.
        """
        sampling = self._config.sampling
        keep, weights = branches(names, options.scales(sampling, names))
        choice = options.choice(sampling)

        def sample(params, sources, keys, codes, given, num_frames, on_step):
            memory = self._encode(params, sources, keep, keys)
            request = autoregressive.Request(weights, keys, codes, given.sum(axis=1), num_frames, choice)
            return self._sampler(params, memory, request, on_step)

        return sample, self._pattern.num_steps, len(self._pattern.steps)


class MaskedWindows:
    """Windows that are filled in; see `NextStepWindows`. Given frames may stand anywhere."""

    def __init__(self, graph: Any, config: ml_collections.ConfigDict, pattern: Pattern):
        self._config, self._pattern, self._sampler = config, pattern, masked.Sampler(graph)
        self._encode = jax.jit(functools.partial(_memory, graph))

    def prepare(self, names: Sequence[str], options: SamplingOptions, num_frames: int,
                judge: Callable | None = None, judged_by: Any = None) -> tuple[Callable, int, int]:
        """As of `NextStepWindows`.

        Args:
          judge: (judged_by, codes int32 [B, T, K], stage []) -> log probabilities [B, T] of the codes of a stage, by
            another model; the same object for the same model.
          judged_by: arrays for `judge`.
        """
        defaults = self._config.sampling.masked
        keep, weights = annealed_branches(names, options.scales(defaults, names), options.least_scale(defaults))
        choice, plan = options.choice(defaults), options.plan(self._config, self._pattern.frames.shape[1])
        weight = options.weight(defaults)

        def sample(params, sources, keys, codes, given, num_frames, on_step):
            memory = self._encode(params, sources, keep, keys)
            request = masked.Request(weights, keys, codes, given, num_frames, choice, judged_by, weight)
            return self._sampler(params, memory, request, plan, judge, on_step)

        return sample, sum(plan.steps), plan.window(num_frames, len(self._pattern.steps))


def _memory(graph: Any, params: Any, sources: Sources, keep: Array, keys: Array) -> Memory:
    return encode(nnx.merge(graph, params), sources, keep, len(keys))


WINDOWS = {"next_step": NextStepWindows, "masked_spans": MaskedWindows}  # by objective


def encode(model: SongModel, sources: Sources, keep: Array, batch: int) -> Memory:
    """The memory of G B examples, branch after branch, from sources of B songs and `keep` bool [G, sources]."""
    tiled = jax.tree.map(lambda x: jnp.tile(x, (keep.shape[0],) + (1,) * (x.ndim - 1)), dict(sources))
    return model.encode(tiled, jnp.repeat(keep, batch, axis=0))
