"""Stretches of a signal that go through convolutions as if all of it went through at once.

Letters: B batch, N positions of a signal, C channels.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array


class Stretch(NamedTuple):
    """A stretch x [B, N, C] of a signal, which begins at index `begin` and ends before index `end`.

    0 <= begin: of a signal that began before the stretch it is 0. An `end` of N or more says that the signal goes on.
    What x holds outside of the signal has no meaning; the two indices are known only at run time.
    """

    x: Array
    begin: Array
    end: Array

    def inside(self) -> Array:
        """bool [N, 1]: which positions belong to the signal."""
        index = jnp.arange(self.x.shape[1])[:, None]
        return (index >= self.begin) & (index < self.end)


class Reach(NamedTuple):
    """How far a layer looks, in positions of its input, and how many input positions make one of its output."""

    before: int = 0
    after: int = 0
    step: Fraction = Fraction(1)


def reach(layers: Sequence[nnx.Module], size: Fraction) -> tuple[int, int, Fraction]:
    """Whole frames before and after its own that a window of the input needs, and the frames in an output position.

    Args:
      size: frames in a position of the input.
    """
    before = after = Fraction(0)
    for step in (step for layer in layers for step in layer.reaches):
        before += step.before * size
        after += step.after * size
        size *= step.step
    return math.ceil(before), math.ceil(after), size
