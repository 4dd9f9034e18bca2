"""Songs sampled during training: written as audio to the workdir, or sung for whoever judges them."""

import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import ml_collections
import numpy as np
from flax import nnx

from autosong_jax.audio import io
from autosong_jax.cli import log
from autosong_jax.data import schema
from autosong_jax.data.dataset import Batch, SongDataset, eval_batches
from autosong_jax.errors import UserError
from autosong_jax.layers.declaration import declarations
from autosong_jax.outputs import writing
from autosong_jax.parallel import distributed
from autosong_jax.parallel.sharding import on_first_process
from autosong_jax.sampling.samplers import check_config
from autosong_jax.sampling.singer import Singer
from autosong_jax.sources.text.frozen import text_states
from autosong_jax.workdir.workdir import ModelContext, window_pattern

T = TypeVar("T")
WriteAudio = Callable[[int, str, np.ndarray, int], None]  # step, name, float32 [channels, samples], Hz


class TrainingSinger:
    """Lets something be sung with the weights that a run has just then; of several processes, by the first alone.

    Args:
      config: of the run.
      workdir: of the run.
      graph: the model without its parameters.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path, graph: Any):
        self._config, self._workdir, self._graph = config, workdir, graph
        self._singer = None

    def __call__(self, params: Any, sing: Callable[[Singer], T]) -> T | None:
        """What `sing` gives with a model of these parameters, on the first process; None on others."""
        params, made = on_first_process(params, declarations(self._graph, params)), None
        if distributed.is_first():
            model = nnx.merge(self._graph, params).unstacked()
            if self._singer is None:
                self._singer = Singer(ModelContext.read(self._config, self._workdir), model)
            self._singer.replace_weights(model)
            try:
                made = sing(self._singer)
            finally:
                self._singer.release_weights()
        distributed.barrier()
        return made


class SampleWriter:
    """Sings the beginnings of `config.train.prompts`, each "SPLIT:NUMBER", a song of the dataset: its lyrics, or to
    its backing.

    Songs that the dataset does not have are left out, with a warning before training starts.

    Args:
      config: of the run.
      workdir: in which it writes.
      graph: the model without its parameters.

    Raises:
      UserError: if a prompt is not of that form, or the config's sampling means nothing.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path, graph: Any):
        self._config, self._workdir = config, workdir
        self._sing = TrainingSinger(config, workdir, graph)
        self._prompts = {}
        if config.train.sample_every:
            check_config(config, SongDataset(config.data.path, "train").codec, "sample_every")
            states = text_states(config.data.path) if distributed.is_first() else None
            self._prompts = {prompt: self._sources(prompt, states) for prompt in config.train.prompts}
            for prompt in [prompt for prompt, sources in self._prompts.items() if sources is None]:
                log.warning("No samples of %s: the dataset has no such song", prompt)
                del self._prompts[prompt]

    def __call__(self, params: Any, step: int, write_audio: WriteAudio) -> None:
        """Writes workdir/samples/STEP/SPLIT-NUMBER.wav for every prompt; of several processes, the first alone does.

        Args:
          params: of the model.
          step: of training.
          write_audio: is given all audio, too.
        """
        if self._prompts:
            self._sing(params, lambda singer: self._write_songs(singer, step, write_audio))

    def _write_songs(self, singer: Singer, step: int, write_audio: WriteAudio) -> None:
        rows = list(self._prompts.values())
        sources = {name: {key: np.concatenate([row[name][key] for row in rows]) for key in rows[0][name]}
                   for name in rows[0]}
        try:
            codec = singer.codec
        except UserError as error:
            log.warning("No samples: %s", error)
            return
        directory = self._workdir / "samples" / str(step)
        with writing(self._workdir):
            directory.mkdir(parents=True, exist_ok=True)
        songs = singer.sing(sources, range(len(rows)))
        for prompt, codes in zip(self._prompts, songs, strict=True):
            audio = codec.decode(codes)
            name = prompt.replace(":", "-")
            io.write(directory / f"{name}.wav", audio, codec.sample_rate)
            write_audio(step, name, audio, codec.sample_rate)

    def _sources(self, prompt: str, states: Callable[[Batch], Batch] | None) -> dict | None:
        """The sources of one song's beginning, as a batch of one, or nothing without `states`; None if there is no such
        song."""
        split, _, number = prompt.partition(":")
        if not number.isdecimal():
            raise UserError(f"train.prompts has {prompt!r}: expected SPLIT:NUMBER, such as train:0")
        config = self._config
        if int(number) >= sum(schema.read_dataset_info(config.data.path)[1].get(split, [])):
            return None
        if states is None:
            return {}
        songs = SongDataset(config.data.path, split)
        frames = window_pattern(config, songs.codec).num_frames
        batches = eval_batches(songs, batch_size=1, frames=frames, end_of_song=False, sources=config.sources,
                               beginnings=True)
        return jax.device_get(states(batches[int(number)]["sources"]))
