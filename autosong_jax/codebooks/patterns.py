"""Codebook patterns: the order in which a model reads and writes the K codebooks of T frames.

A pattern is one array, `frames` [S, K]: the frame whose code stands at step s in codebook k, or -1 where none does.
Step 0 holds no code: it is what a model sees before it has written anything. Everything else follows from that array:
interleaving and its inverse are one gather each, the loss mask is `frames >= 0`, the sampler walks its rows.

Letters: B batch, T frames, S steps, K codebooks, V codebook size. The special id V stands wherever no code does.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from autosong_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pattern:
    """The place of every code in the sequence of steps.

    Attributes:
      frames: int32 [S, K], the frame at step s in codebook k, or -1. Each (frame, codebook) pair stands at exactly one
        step >= 1, and a codebook's frames stand in order.
    """

    frames: np.ndarray

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.steps)

    @property
    def num_steps(self) -> int:
        """S, the empty first step included."""
        return self.frames.shape[0]

    @functools.cached_property
    def steps(self) -> np.ndarray:
        """int32 [T, K], the step at which frame t of codebook k stands: the inverse of `frames`."""
        step, codebook = np.nonzero(self.frames >= 0)
        frame = self.frames[step, codebook]
        steps = np.zeros((frame.max() + 1, self.frames.shape[1]), np.int32)
        steps[frame, codebook] = step
        return steps

    def interleave(self, codes: Array, special: int) -> Array:
        """Frames [B, T, K] -> steps [B, S, K], with `special` wherever the pattern has no code."""
        padded = jnp.pad(codes, ((0, 0), (0, 1), (0, 0)), constant_values=special)
        # Index -1 reads the padding.
        return padded[:, self.frames, np.arange(self.frames.shape[1])]

    def deinterleave(self, steps: Array) -> Array:
        """Steps [B, S, K] -> frames [B, T, K]: the inverse of `interleave`."""
        return steps[:, self.steps, np.arange(self.frames.shape[1])]

    def valid(self, num_frames: Array) -> Array:
        """bool [B, S, K]: where a code of one of the first `num_frames` [B] frames stands."""
        return (self.frames >= 0) & (self.frames < num_frames[:, None, None])


def delay(num_frames: int, delays: Sequence[int]) -> Pattern:
    """Codebook k is written `delays[k]` steps late: step s holds frame s - 1 - delays[k].

    MusicGen's pattern (Copet et al. 2023, figure 1) is `delays` = 0, 1, 2, 3; its stereo models interleave left and
    right with 0, 0, 1, 1, 2, 2, 3, 3. S = T + 1 + max(delays).
    """
    steps = np.arange(num_frames + 1 + max(delays))[:, None]
    frames = steps - 1 - np.asarray(delays)[None]
    return Pattern(np.where((frames >= 0) & (frames < num_frames), frames, -1).astype(np.int32))


def parallel(num_frames: int, num_codebooks: int) -> Pattern:
    """All codebooks of a frame in one step. S = T + 1."""
    return delay(num_frames, [0] * num_codebooks)


def flatten(num_frames: int, num_codebooks: int) -> Pattern:
    """One code a step, frame by frame: step 1 + t K + k holds frame t of codebook k. S = T K + 1."""
    return _one_code_a_step(np.arange(num_frames * num_codebooks).reshape(num_frames, num_codebooks))


def coarse_first(num_frames: int, num_codebooks: int) -> Pattern:
    """One code a step, codebook by codebook: step 1 + k T + t holds frame t of codebook k. S = T K + 1."""
    return _one_code_a_step(np.arange(num_frames * num_codebooks).reshape(num_codebooks, num_frames).T)


def _one_code_a_step(order: np.ndarray) -> Pattern:
    """The pattern that writes code (t, k) at step 1 + order[t, k]."""
    num_frames, num_codebooks = order.shape
    frames = np.full((num_frames * num_codebooks + 1, num_codebooks), -1, np.int32)
    frames[1 + order, np.arange(num_codebooks)] = np.arange(num_frames)[:, None]
    return Pattern(frames)


PATTERNS = {"parallel": parallel, "flatten": flatten, "coarse_first": coarse_first}


def get_pattern(name: str, num_frames: int, num_codebooks: int, delays: Sequence[int] = ()) -> Pattern:
    """The pattern called `name` for T frames of K codebooks; `delays` is for "delay" alone (default 0, 1, ..., K - 1).

    Raises:
      UserError: if the name is unknown or `delays` does not give one delay for each codebook.
    """
    if name == "delay":
        delays = list(delays) or list(range(num_codebooks))
        if len(delays) != num_codebooks or min(delays) != 0:
            raise UserError(f"pattern delays {delays}: expected {num_codebooks} delays, one a codebook, the smallest 0")
        return delay(num_frames, delays)
    if name not in PATTERNS:
        raise UserError(f"pattern {name!r}: expected one of {', '.join(['delay', *PATTERNS])}")
    return PATTERNS[name](num_frames, num_codebooks)
