"""Songs sampled during training, written as audio to the workdir."""

import pathlib
from typing import Any

import ml_collections
import numpy as np
from flax import nnx

from autosong_jax.audio import io
from autosong_jax.cli import log
from autosong_jax.data.dataset import SongDataset, eval_batches
from autosong_jax.errors import UserError
from autosong_jax.sampling.song import Singer
from autosong_jax.training.metrics import MetricsWriter


class SampleWriter:
    """Sings the lyrics of `config.train.prompts`, each "SPLIT:NUMBER", a song of the dataset.

    Raises:
      UserError: on the first use, if a prompt names no song.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path, graph: Any):
        self._config, self._workdir, self._graph = config, workdir, graph
        self._singer = None

    def write(self, params: Any, step: int, writer: MetricsWriter) -> None:
        """Writes workdir/samples/STEP/SPLIT-NUMBER.wav for every prompt."""
        model = nnx.merge(self._graph, params).unstacked()
        if self._singer is None:
            self._rows = [self._sources(prompt) for prompt in self._config.train.prompts]
            self._singer = Singer(self._config, SongDataset(self._config.data.path, "train").text, model,
                                  self._workdir / "codec")
        self._singer.replace_weights(model)
        sources = {name: {key: np.concatenate([row[name][key] for row in self._rows]) for key in self._rows[0][name]}
                   for name in self._rows[0]}
        try:
            codec = self._singer.codec
        except UserError as error:
            log.warning("No samples: %s", error)
            return
        directory = self._workdir / "samples" / str(step)
        directory.mkdir(parents=True, exist_ok=True)
        songs = self._singer.sing(sources, range(len(self._rows)))
        for prompt, codes in zip(self._config.train.prompts, songs, strict=True):
            audio = codec.decode(codes)
            name = prompt.replace(":", "-")
            io.write(directory / f"{name}.wav", audio, codec.sample_rate)
            writer.write_audio(step, name, audio, codec.sample_rate)

    def _sources(self, prompt: str) -> dict:
        """The sources of one song, as a batch of one."""
        split, _, number = prompt.partition(":")
        config = self._config
        songs = SongDataset(config.data.path, split)
        if not number.isdecimal() or int(number) >= len(songs):
            raise UserError(f"train.prompts has {prompt!r}: expected SPLIT:NUMBER with a number below {len(songs)}")
        batches = eval_batches(songs, batch_size=1, frames=1, end_of_song=False,
                               sources={name: source.max_length for name, source in config.sources.items()})
        return batches[int(number)]["sources"]
