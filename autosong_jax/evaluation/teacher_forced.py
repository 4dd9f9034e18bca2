"""What a trained model's own loss says of whole songs, each by itself: that of training, its windows and its batches.

Every row of a batch goes through the objective as a batch of one would, so the sums of a song are those that the
objective would have of it alone.

Letters: B rows of a batch, T frames of a window.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from autosong_jax.data.dataset import Batch, SongDataset, WholeSongs
from autosong_jax.models.song import SongModel
from autosong_jax.objectives.objective import Objective
from autosong_jax.objectives.table import get_objectives
from autosong_jax.sources.text.frozen import text_states
from autosong_jax.workdir.workdir import ModelContext

Sums = dict[str, np.ndarray]


class TeacherForced:
    """A trained model that reads songs.

    Args:
      context: what the model is used with.
      model: as it is trained (`Workdir.load_trained`).
      dataset: of the songs.

    Attributes:
      objectives: what the model is judged by, by names that tell them apart.
      params: the weights.
      group: songs to be read together: the same ones in the same group give the same numbers to the last bit.
    """

    def __init__(self, context: ModelContext, model: SongModel, dataset: SongDataset):
        config, pattern = context.config, context.pattern
        self.objectives = {f"{name}, {kind}" if kind else name: one
                           for name, objective in get_objectives(config, pattern, model).items()
                           for kind, one in objective.judging().items()}
        self.group = config.data.batch_size
        self._songs = WholeSongs(dataset, batch_size=self.group, frames=pattern.num_frames, sources=config.sources,
                                 end_of_song=config.data.end_of_song, beginnings=config.data.beginnings)
        self._texts = text_states(dataset.path)
        graph, self.params = nnx.split(model)
        num_sources = len(model.source_names)
        self._sums = {name: jax.jit(functools.partial(_sums, graph, one, num_sources))
                      for name, one in self.objectives.items()}
        self._choices = next((jax.jit(functools.partial(_choices, graph, one, num_sources))
                              for one in self.objectives.values() if one.choices), None)

    def read(self, songs: Sequence[int]) -> Iterator[dict[str, Sums]]:
        """For each of some songs, by objective, its sums in float64."""
        totals: dict[int, dict[str, Sums]] = {song: {} for song in songs}
        for rows, batch, keys in self.windows(songs):
            for name, of_rows in self._sums.items():
                sums = jax.device_get(of_rows(self.params, batch, keys))
                for row, (song, _) in enumerate(rows):
                    total = totals[song].setdefault(name, {})
                    for term, values in sums.items():
                        total[term] = total.get(term, 0) + np.asarray(values[row], np.float64)
        return iter(totals.values())

    @property
    def has_choices(self) -> bool:
        """Whether the model says of each frame which it holds for the most probable."""
        return self._choices is not None

    def choices(self, songs: Sequence[int]) -> list[np.ndarray]:
        """For each of some songs [T, ...], what the model would take at each frame, all before it being the song's."""
        pieces: dict[int, list[np.ndarray]] = {song: [] for song in songs}
        for rows, batch, keys in self.windows(songs):
            chosen = np.asarray(self._choices(self.params, batch, keys))
            for row, (song, _) in enumerate(rows):
                pieces[song].append(chosen[row, :batch["num_frames"][row]])
        return [np.concatenate(of_song) for of_song in pieces.values()]

    def windows(self, songs: Sequence[int]) -> Iterator[tuple[list[tuple[int, int]], Batch, Array]]:
        """(song, window) of the rows that count, the batch as the model reads it, and keys of all rows."""
        for rows, batch in self._songs.batches(songs):
            numbers = np.array(rows + [(0, 0)] * (self.group - len(rows)), np.uint32)
            yield rows, dict(batch) | {"sources": self._texts(batch["sources"])}, _keys(numbers)


@jax.jit
def _keys(numbers: Array) -> Array:
    """uint32 [B, 2], song and window -> keys [B], so that the same masks and noise meet a window whatever is with it.
    """
    return jax.vmap(lambda pair: jax.random.fold_in(jax.random.fold_in(jax.random.key(0), pair[0]), pair[1]))(numbers)


def _sums(graph: Any, objective: Objective, num_sources: int, params: Any, batch: Batch, keys: Array
          ) -> dict[str, Array]:
    """The sums [B, ...] of each row, over all stages.

    Row after row, since JAX cannot map cuDNN's attention to keys of several lengths over one more axis.
    """
    model = nnx.merge(graph, params)

    def of_row(row_and_key: tuple[Mapping[str, Any], Array]) -> dict[str, Array]:
        row, key = row_and_key
        one = jax.tree.map(lambda x: x[None], row)
        memory = model.encode(one["sources"], jnp.ones((1, num_sources), bool))

        def of_stage(stage: Array) -> dict[str, Array]:
            examples, shared = objective.examples(one, stage, key[None], None)
            return objective.loss(model, examples, shared, memory, None)[1]

        return jax.tree.map(lambda x: x.sum(axis=0), jax.lax.map(of_stage, jnp.arange(objective.stages)))

    return jax.lax.map(of_row, (batch, keys))


def _choices(graph: Any, objective: Objective, num_sources: int, params: Any, batch: Batch, keys: Array) -> Array:
    """[B, T, ...], see `objective.Objective`."""
    model = nnx.merge(graph, params)
    examples, _ = objective.examples(batch, jnp.int32(0), keys, None)
    return objective.choices(model, examples, model.encode(batch["sources"], jnp.ones((len(keys), num_sources), bool)))
