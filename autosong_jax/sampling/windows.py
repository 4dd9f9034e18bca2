"""Songs window by window: what is asked of a sampler for one window, what it gives, and the loop over windows.

Letters: B songs, T frames of a window, D numbers in a frame: one of each codebook, where frames are codes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from autosong_jax.errors import UserError
from autosong_jax.sampling.drafts import Draft, next_window

Sources = Mapping[str, Mapping[str, Array]]


@dataclasses.dataclass(frozen=True)
class Window:
    """A window to be sung.

    Attributes:
      start: the frame of the songs where it begins.
      keys: PRNG keys [B], one a song.
      frames: [B, T, D]; those that are not given are not read.
      given: bool [B, T], the frames that stay as they are.
      num_frames: int32 [B], at most T: songs are over after so many frames, or earlier where the model says so.
    """

    start: int
    keys: Array
    frames: np.ndarray
    given: np.ndarray
    num_frames: np.ndarray


@dataclasses.dataclass(frozen=True)
class Piece:
    """What a sampler has made of a window since its last piece, on the host.

    Attributes:
      start: the frame of the window where it begins.
      frames: [B, n, D], complete ones; there may be none yet.
      ends: int32 [B], the frame of the window at which each song is over, as far as is known.
      done: the share of the window's work that is done.
    """

    start: int
    frames: np.ndarray
    ends: np.ndarray
    done: float

    @property
    def stop(self) -> int:
        """The frame after its last."""
        return self.start + self.frames.shape[1]


@dataclasses.dataclass(frozen=True)
class WindowSampler:
    """A sampler with its options, for windows of one length.

    Attributes:
      length: T.
      overlap: how many frames a window begins with that stand already, where songs are longer than one.
      sing: (parameters, sources, window, stride) -> its pieces, from its first frame that is not given to its last.
        `stride` is how often there is one, in frames where the sampler makes them in order; None is once, at the end.
    """

    length: int
    overlap: int
    sing: Callable[[Any, Sources, Window, int | None], Iterator[Piece]]


@dataclasses.dataclass(frozen=True)
class Leg:
    """A part of songs that is sung by one sampler.

    Attributes:
      stop: the frame up to which it goes.
      sampler: how it is sung.
      params: of the model that sings it.
      sources: the frame where a window begins -> the sources of B songs as that model reads them.
    """

    stop: int
    sampler: WindowSampler
    params: Any
    sources: Callable[[int], Sources]


@dataclasses.dataclass(frozen=True)
class Made:
    """How far songs are.

    Attributes:
      draft: the songs, which go on to change.
      made: how many frames have been made, those included that a sampler has in hand.
    """

    draft: Draft
    made: int


def sing(draft: Draft, legs: Sequence[Leg], seeds: Sequence[int], stride: int | None = None) -> Iterator[Made]:
    """Makes the frames of songs that do not stand, leg after leg and window after window.

    All that changes from step to step is in the iterator, so any number of them may be gone through in turns.

    Args:
      draft: what stands, of one length for all songs.
      legs: one after another.
      seeds: one a song.
      stride: see `WindowSampler`.

    Raises:
      UserError: a seed is out of range.
    """
    if not 0 <= min(seeds) <= max(seeds) < 2**32:
        raise UserError(f"seeds {min(seeds)} to {max(seeds)}: expected them within 0 to 2**32 - 1")
    return _sing(draft, legs, jax.vmap(jax.random.key)(np.array(seeds, np.uint32)), stride)


def _sing(draft: Draft, legs: Sequence[Leg], keys: Array, stride: int | None) -> Iterator[Made]:
    made = 0
    for leg in legs:
        draft = draft.lengthened(leg.stop)
        yield Made(draft, made)
        while not draft.given.all() and draft.num_frames.max() > draft.standing:
            start, stop = next_window(draft.given, leg.sampler.length, leg.sampler.overlap)
            missing = np.count_nonzero(~draft.given[start:stop])
            frames, given, num_frames = draft.cut(start, leg.sampler.length)
            window_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, draft.standing)
            window = Window(start, window_keys, frames, given, num_frames)
            for piece in leg.sampler.sing(leg.params, leg.sources(start), window, stride):
                draft.add(piece.frames[:, :max(stop - start - piece.start, 0)], start + piece.start,
                          np.where(piece.ends < num_frames, start + piece.ends, len(draft.given)))
                yield Made(draft, made + int(missing * piece.done))
            made += missing
