"""Whole songs, sung to what the songs of a dataset have: their lyrics, their genre, their backing."""

from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from autosong_jax.data.dataset import SongDataset
from autosong_jax.sampling.singer import Singer

ROOM = 1.25  # times as long as the longest true song may songs become that do not end


def longest(config: ml_collections.ConfigDict, dataset: SongDataset, count: int) -> float:
    """Seconds that a model of `config` may sing at most to the first `count` songs of a dataset."""
    seconds = max(len(dataset[i]["frames"]) for i in range(count)) / dataset.frame_rate
    return max(ROOM * seconds, config.data.seconds) if config.data.end_of_song else seconds


def limit(config: ml_collections.ConfigDict, dataset: SongDataset, duration: float) -> int | None:
    """Frames that such a song has at most where it does not end by itself; None if nothing says where it ends."""
    return round(duration * dataset.frame_rate) if config.data.end_of_song else None


def sing_to(singer: Singer, dataset: SongDataset, songs: Sequence[int], *, seed: int, duration: float, **options: Any
            ) -> list[np.ndarray]:
    """The frames [any, D] of a song for each of some songs of a dataset. Song i has the seed `seed` + i.

    Args:
      singer: what sings.
      dataset: of the songs.
      songs: their numbers.
      seed, duration, **options: as of `Singer.sing`; what says nothing of its end is as long as the true song.
    """
    sources = singer.encode_conditions([singer.conditions_of(dataset[i]) for i in songs])
    made = singer.sing(sources, [seed + i for i in songs], duration=duration, **options)
    if singer.config.data.end_of_song:
        return made
    return [frames[:len(dataset[i]["frames"])] for i, frames in zip(songs, made, strict=True)]
