"""How good the songs are that a model sings while it trains, by some of the metrics that finished models are judged by.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import numpy as np

from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from autosong_jax.evaluation.metrics import METRICS, Metric, Song, number_name
from autosong_jax.evaluation.suite import Suite
from autosong_jax.parallel import distributed

# (parameters, songs) -> the frames of each that a model of these parameters sings, on the first process alone
Sing = Callable[[Any, Sequence[int]], list[np.ndarray] | None]


class Listener:
    """Has the first songs of the validation split sung, with their lyrics, and judges them by `train.evaluations`.

    Args:
      config: of the run.
      workdir: of the run.
      dataset: the validation split.
      sing: sings.
      limit: frames that a song can have at most; None where nothing ends it but itself.

    Attributes:
      better: of each number that it gives, "more" or "less"; "" where neither is.

    Raises:
      UserError: there is no such metric, it needs what is not to be had while a model trains, or the codec cannot be
        used here.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path, dataset: SongDataset, sing: Sing,
                 limit: int | None):
        self._sing, self._limit = sing, limit
        self._suite = Suite(dataset, "validation", workdir, config.train.sing_songs)
        # Each is asked of true songs, as if they had been sung: so what is missing is said before training begins.
        true = [self._song(i, dataset[i]["frames"]) for i in range(self._suite.count)]
        can = [metric for metric in METRICS if any(map(metric.applies, true))]
        known = {number_name(metric.name): metric for metric in can}
        self._metrics = []
        for name in dict.fromkeys(config.train.evaluations):
            if number_name(name) not in known:
                raise UserError(f"train.evaluations has {name!r}: expected some of {', '.join(known)}")
            self._metrics.append(known[number_name(name)])
        self.better = {name: metric.better for metric in self._metrics
                       for name in judge([metric], [next(filter(metric.applies, true))])}

    def __call__(self, params: Any) -> dict[str, float]:
        """The numbers of a model of these parameters, the same on all processes; NaN for what cannot be said."""
        made = self._sing(params, range(self._suite.count))
        found = {} if made is None else judge(self._metrics, [self._song(i, frames) for i, frames in enumerate(made)])
        return json.loads(distributed.from_first(json.dumps(found)))

    def _song(self, i: int, frames: np.ndarray) -> Song:
        return self._suite.song(i, frames, limit=self._limit)


def judge(metrics: Sequence[Metric], songs: Sequence[Song]) -> dict[str, float]:
    """What metrics say of some songs together: numbers by their names, as `number_name` has them."""
    found = {}
    for metric in metrics:
        sums = [metric.of_song(song) for song in songs if metric.applies(song)]
        if sums:
            total = {name: sum(np.asarray(of_song[name], np.float64) for of_song in sums) for name in sums[0]}
            with np.errstate(divide="ignore", invalid="ignore"):
                found |= {number_name(metric.label(detail)): value for detail, value in
                          metric.summarize(total).items()}
    return found
