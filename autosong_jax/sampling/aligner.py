"""What a model attends to in its lyrics while it makes a song, or would while it made this one, and so when it sings
which of them (`alignment`).

A song that stands is read again, window by window as it would be sung (`windows.sing`), in one pass each.

Letters: T frames of a song, D numbers in a frame, M slots of the lyrics, C columns of `alignment`, N heads.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from autosong_jax.errors import UserError
from autosong_jax.models.alignment import cross_attention_weights
from autosong_jax.sampling.alignment import Alignment, Calibration, Head, Reader, Text, Walk, best_heads, calibrate
from autosong_jax.sampling.drafts import laid
from autosong_jax.sampling.samplers import Autoregressive, Continuous, Masked, SampledModel, encode
from autosong_jax.sources.memory import Memory
from autosong_jax.sources.user import UserConditions

LYRICS = "lyrics"
AT_ONCE = 2**26  # numbers of attention that are in memory at once


class SungSong(NamedTuple):
    """A song that is sung: its frames [T, D] as a medium has them, and its conditions, `lyrics` among them."""

    frames: np.ndarray
    conditions: Mapping[str, Any]


class Aligner:
    """Reads songs with one model.

    Args:
      model: the model.
      sampler: which sings with it.
      conditions: what encodes those of songs.
      text: gives the encoder that lyrics go through.
      length: frames of a window, as songs are sung in.
      rate: how many of them a second has.
    """

    def __init__(self, model: SampledModel, sampler: Autoregressive | Masked | Continuous, conditions: UserConditions,
                 text: Callable[[], Any], length: int, rate: float):
        self._model, self._sampler, self._conditions, self._text = model, sampler, conditions, text
        self._length, self._rate = length, rate
        self._encode = jax.jit(functools.partial(_encoded, model.graph))

    def check(self, conditions: Mapping[str, Any]) -> None:
        """Raises UserError where there are no lyrics to align, or this model cannot."""
        fusion = self._model.config.model.fusion
        if LYRICS not in self._model.source_names:
            raise UserError("times of lyrics: this model was not trained with lyrics; expected one that was")
        if fusion != "cross":
            raise UserError(f"times of lyrics: this model reads its lyrics as a {fusion}; expected one that attends to "
                            "them by cross-attention (model.fusion 'cross')")
        if not Text(conditions.get(LYRICS) or "", np.zeros((0, 2))).words:
            raise UserError("times of lyrics: the lyrics hold no words to sing; expected some")

    def align(self, params: Any, song: SungSong, heads: Sequence[Head] | None) -> Alignment:
        """When each line of its lyrics is sung.

        Args:
          params: of the model.
          song: the song.
          heads: whose attention is averaged; None for the most monotone ones.

        Raises:
          UserError: as `check`; also if the song is empty, or there is no such head.
        """
        text, read = self._reader(params, song)
        if heads:
            scores = sum(scores for _, scores in read(heads)) / len(heads)
        else:
            best = best_heads((head, Walk(text, scores)) for head, scores in read(self._heads))
            heads, scores = list(best), sum(walk.scores for walk in best.values()) / len(best)
        return Alignment.of(Walk(text, scores), self._rate, heads, spelled=not self._text().info.frozen)

    def calibrate(self, params: Any, songs: Iterable[tuple[SungSong, Sequence[tuple[int, float]]]], show_progress: bool
                  ) -> Calibration:
        """The heads by which times come out best; for arguments and errors see `align` and `alignment.calibrate`."""
        read = [(*self._reader(params, song), times) for song, times in songs]
        return calibrate(read, self._heads, self._rate, show_progress=show_progress)

    @property
    def _heads(self) -> list[Head]:
        model = self._model.config.model
        return list(itertools.product(range(model.layers), range(model.heads)))

    def _reader(self, params: Any, song: SungSong) -> tuple[Text, Reader]:
        """What of a song's lyrics is sung, and what gives the attention [T, C] of heads, one after another."""
        self.check(song.conditions)
        if not len(song.frames):
            raise UserError("times of lyrics: the song is empty")
        lyrics = song.conditions[LYRICS]
        spans = self._text().spans(lyrics)
        sources = self._conditions.encode([song.conditions])
        text = Text(lyrics, spans[:sources[LYRICS]["length"][0]])
        if not len(text.spans):
            raise UserError("times of lyrics: the model reads no word of them, so long is what stands before the first")

        def read(heads: Sequence[Head]) -> Iterator[tuple[Head, np.ndarray]]:
            some = max(1, AT_ONCE // (max(self._length, len(song.frames)) * len(spans)))
            for first in range(0, len(heads), some):
                group = heads[first:first + some]
                windows = self._windows(params, song.frames, sources, group)
                scores = np.concatenate([text.scores(window) for window in windows], axis=1)
                yield from zip(group, scores, strict=True)

        return text, read

    def _windows(self, params: Any, frames: np.ndarray, sources: Mapping[str, Any], heads: Sequence[Head]
                 ) -> Iterator[np.ndarray]:
        """Window after window the attention float32 [N, any, M] of the frames that it would have made."""
        model, given = nnx.merge(self._model.graph, params), np.zeros(len(frames), bool)
        for start, made in laid(given, self._length, self._model.overlap(self._length)):
            memory = self._encode(params, self._conditions.at(sources, start / self._rate))
            read = self._sampler.read(model, jnp.asarray(frames[None, start:start + self._length]))
            weights = cross_attention_weights(model, read.steps, memory, heads, local=read.local)[0]
            of_lyrics = np.asarray(memory.source[0]) == model.source_names.index(LYRICS)
            yield np.asarray(weights[:, read.decided[made - start]])[..., of_lyrics]


def _encoded(graph: Any, params: Any, sources: Mapping[str, Any]) -> Memory:
    model = nnx.merge(graph, params)
    return encode(model, sources, np.ones((1, len(model.source_names)), bool), 1)
