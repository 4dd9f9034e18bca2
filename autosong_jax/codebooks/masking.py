"""Which frames a masked model does not see: spans of frames at random places, to an expected share of the song.

Letters: T frames, L span length.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def mask_rate(time: Array) -> Array:
    """The share of a song that is masked at `time` in [0, 1]: cos(pi time / 2), MAGNeT's schedule (Ziv et al. 2024)."""
    return jnp.cos(jnp.pi / 2 * time)


def span_counts(num_frames: int, span_length: int) -> np.ndarray:
    """How many spans of L frames mask a share of T frames: int32 [101], by the share in percent.

    That is the least u >= 1 whose expected share is no less; spans may overlap, and those at the end are cut off. With
    u distinct starts a frame stays clear if none is among the L places that would cover it, so the expected share is
    1 - prod_{j < u} (T - L - j) / (T - j), as if the frames were a circle (Ziv et al. 2024, appendix C).
    """
    j = np.arange(num_frames)
    clear = np.cumprod(np.maximum(num_frames - span_length - j, 0) / (num_frames - j))
    return 1 + np.searchsorted(1 - clear, np.arange(101) / 100).astype(np.int32)


def cover(starts: Array, span_length: int) -> Array:
    """bool [..., T], the starts of spans -> bool [..., T], the frames that they cover; the last ones end with the song.
    """
    covered = starts
    for i in range(1, span_length):
        covered |= jnp.roll(starts, i, axis=-1).at[..., :i].set(False)
    return covered


def random_mask(key: Array, rate: Array, num_frames: int, span_length: int) -> Array:
    """Masks about `rate` of T frames in spans of L.

    Args:
      key: a PRNG key.
      rate: float [], in [0, 1]; for spans it is rounded to a percent.
      num_frames, span_length: T and L. For L <= 1 exactly round(T rate) frames are masked, but at least one.

    Returns:
      bool [T].
    """
    if span_length <= 1:
        count = jnp.maximum(jnp.round(num_frames * rate), 1)
    else:
        count = jnp.asarray(span_counts(num_frames, span_length))[jnp.round(100 * rate).astype(jnp.int32)]
    return cover(jax.random.permutation(key, num_frames) < count, span_length)
