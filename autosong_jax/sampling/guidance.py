"""Classifier-free guidance with a scale for each condition source."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array


def branches(source_names: Sequence[str], scales: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Which sources each forward pass keeps, and with what weight its logits enter the sum.

    Sources are added one after another, in falling order of their scales w_1 >= w_2 >= ...:

        l = l() + w_1 (l(1) - l()) + w_2 (l(1, 2) - l(1)) + ...

    (Brooks et al. 2023, equation 3, for two sources). Sources of equal scale come together, so one scale for all is
    l() + w (l(all) - l()) and takes two passes; passes of weight 0 are left out, so all scales 1 is one pass.

    Args:
      source_names: the sources, in the order of the columns of `keep`.
      scales: the scale of each source.

    Returns:
      keep: bool [G, number of sources]; weights: float32 [G], which sum to 1.
    """
    keep, weights = annealed_branches(source_names, scales, None)
    return keep, weights[0]


def annealed_branches(source_names: Sequence[str], scales: Mapping[str, float], last: float | None
                      ) -> tuple[np.ndarray, np.ndarray]:
    """`branches` of guidance that goes from `scales` to one scale for all, `last` (None is to stay).

    The logits are linear in the scales, so what a scale between the two gives, weights between the two give.

    Returns:
      keep: bool [G, number of sources]; weights: float32 [2, G], at the beginning and at the end.
    """
    levels = sorted({scales[name] for name in source_names}, reverse=True)
    keep = [np.zeros(len(source_names), bool)]
    keep += [np.array([scales[name] >= level for name in source_names]) for level in levels]
    ends = levels if last is None else [last] * len(levels)
    steps = np.array([[1.0, *levels, 0.0], [1.0, *ends, 0.0]])
    weights = steps[:, :-1] - steps[:, 1:]
    used = np.flatnonzero((weights != 0).any(axis=0))
    return np.stack(keep)[used], weights[:, used].astype(np.float32)


def combine(logits: Array, weights: Array) -> Array:
    """Logits [G B, ...] of G branches, branch after branch -> the guided logits [B, ...]."""
    return jnp.einsum("gb...,g->b...", logits.reshape(weights.shape[0], -1, *logits.shape[1:]), weights)
