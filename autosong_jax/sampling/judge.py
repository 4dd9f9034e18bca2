"""What a model that sings step by step thinks of codes that another one has made.

Letters: B songs, T frames, K codebooks.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx
from jax import Array

from autosong_jax.sampling.autoregressive import log_probabilities
from autosong_jax.sampling.samplers import encode
from autosong_jax.workdir.workdir import ModelContext, window_pattern


class Judge:
    """A model that reads all codes of songs at once.

    Args:
      graph: the model without its parameters; `unstacked`.
      context: what it is used with.
    """

    def __init__(self, graph: Any, context: ModelContext):
        self._graph, self._context = graph, context

    def __call__(self, judged_by: tuple[Any, Mapping[str, Mapping[str, Array]]], codes: Array, stage: Array) -> Array:
        """How probable the codes of one codebook are.

        Codes that are still masked are the special id, as before the beginning of a song.

        Args:
          judged_by: the model's parameters, and sources of B songs.
          codes: int32 [B, T, K].
          stage: int [], a codebook.

        Returns:
          float32 [B, T], the log probability of each frame's code in that codebook, of all codes.
        """
        params, sources = judged_by
        model = nnx.merge(self._graph, params)
        pattern = window_pattern(self._context.config, self._context.codec, codes.shape[1])
        memory = encode(model, sources, np.ones((1, len(model.source_names)), bool), len(codes))
        states = model.hidden(pattern.interleave(codes, model.frames.special)[:, :-1], memory)
        return log_probabilities(model, pattern, states, codes, stage)
