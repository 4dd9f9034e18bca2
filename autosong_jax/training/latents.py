"""What a song model of latents takes from an autoencoder: its shape, its weights, and the statistics of its latents."""

import itertools
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx
from jax import Array

from autosong_jax import config as config_file
from autosong_jax.cli import log
from autosong_jax.data.dataset import SongDataset, iterate, train_batches
from autosong_jax.errors import UserError
from autosong_jax.models.autoencoder import SCALE
from autosong_jax.models.of_mels import autoencoder
from autosong_jax.weights.trainable import Parameters
from autosong_jax.workdir.workdir import Workdir

SONGS, BATCH = 1024, 16
"""How many songs the statistics are taken of, a window each, and how many at a time."""


def with_autoencoder(config: ml_collections.ConfigDict, dataset: SongDataset, workdir: pathlib.Path
                     ) -> ml_collections.ConfigDict:
    """`config` with the shape of the autoencoder that a run has: of a new one that of `latents.workdir`.

    Raises:
      UserError: there is none, or it is none of the dataset's mel spectrograms.
    """
    if config.objective.name != "next_latent":
        return config
    config = config.copy_and_resolve_references()
    path = workdir / "config.json"
    with config.unlocked():
        config.autoencoder = (config_file.load(path) if path.exists() else _trained(config, dataset).config).autoencoder
        config.autoencoder.discriminator_width = 0
    return config


def _trained(config: ml_collections.ConfigDict, dataset: SongDataset) -> Workdir:
    if not config.latents.workdir:
        raise UserError("latents.workdir is empty: expected the workdir of a trained autoencoder, which "
                        "--config=configs/autosong_autoencoder.py makes")
    base = Workdir(config.latents.workdir)
    if base.config.objective.name != "reconstruction":
        raise UserError(f"latents.workdir {base.directory} is of objective {base.config.objective.name}: expected a "
                        "trained autoencoder, which --config=configs/autosong_autoencoder.py makes")
    if base.codec != dataset.codec:
        raise UserError(f"latents.workdir {base.directory} has other mel spectrograms than the dataset {dataset.path}: "
                        "train an autoencoder on that, or export the songs as those of the former")
    return base


def known_parameters(config: ml_collections.ConfigDict, dataset: SongDataset, frames: int) -> Parameters:
    """What a model has before it is trained: of one of latents the parameters of `models.latent_frames.Latents`, by
    their paths in it; of others nothing.

    Args:
      config: of a run, with the autoencoder's shape.
      dataset: whose songs are learned from.
      frames: of a window.
    """
    if config.objective.name != "next_latent":
        return {}
    base = _trained(config, dataset)
    log.info("Latents are those of the autoencoder in %s", base.directory)
    params = {name: part for name, part in base.read_weights()[0].items() if name != "discriminator"}
    graph = nnx.graphdef(nnx.eval_shape(lambda: autoencoder(config, "float32", rngs=nnx.Rngs(0))))
    values = dataset.codec.config.values

    @jax.jit
    def sums(params: Any, frames: Array, num_frames: Array) -> tuple[Array, Array, Array]:
        """The number of columns, the sum and the sum of squares [R, C] of their latents."""
        latents = nnx.merge(graph, params).to_latents(values(frames))
        inside = (np.arange(latents.shape[1]) < -(-num_frames[:, None] // SCALE))[..., None, None]
        latents = latents * inside
        return inside.sum(), latents.sum((0, 1)), (latents**2).sum((0, 1))

    batches = train_batches(dataset, batch_size=BATCH, frames=frames, sources={}, end_of_song=False, seed=config.seed)
    total = None
    for batch in itertools.islice(iterate(batches), -(-min(SONGS, len(dataset)) // BATCH)):
        of_batch = jax.tree.map(np.float64, jax.device_get(sums(params, batch["frames"], batch["num_frames"])))
        total = of_batch if total is None else jax.tree.map(np.add, total, of_batch)
    count, first, second = total
    mean = first / count
    spread = np.sqrt(np.maximum(second / count - mean**2, 1e-12))
    return {"frames": {"latents": {"autoencoder": params, "mean": mean.astype(np.float32),
                                   "spread": spread.astype(np.float32)}}}
