"""What a new run takes over from a trained model that its own contains: its shape and its weights."""

import itertools
import pathlib

import ml_collections
from flax.traverse_util import unflatten_dict

from autosong_jax import config as config_file
from autosong_jax.cli import log
from autosong_jax.data.dataset import SongDataset, iterate, train_batches
from autosong_jax.errors import UserError
from autosong_jax.models.kinds import Component, kind_of
from autosong_jax.weights.trainable import Parameters
from autosong_jax.workdir.workdir import Workdir, open_trained

SONGS, BATCH = 1024, 16
"""How many songs a component may look at, a window each, and how many at a time."""


def with_component(config: ml_collections.ConfigDict, dataset: SongDataset, workdir: pathlib.Path
                   ) -> ml_collections.ConfigDict:
    """`config` with the description of the component that a run has: of a new one as its own workdir has it.

    Raises:
      UserError: there is no such component, or it is none of the dataset's codec.
    """
    if (component := kind_of(config).component) is None:
        return config
    config = config.copy_and_resolve_references()
    path = workdir / "config.json"
    with config.unlocked():
        component.adopt(config, config_file.load(path) if path.exists() else _opened(component, config, dataset).config)
    return config


def known_parameters(config: ml_collections.ConfigDict, dataset: SongDataset, frames: int) -> Parameters:
    """What a model has before it is trained: the parameters of its component, by their paths in it, or nothing.

    Args:
      config: of a run, with its component's description.
      dataset: whose songs are learned from.
      frames: of a window.
    """
    if (component := kind_of(config).component) is None:
        return {}
    trained = _opened(component, config, dataset)
    log.info("What was learned in %s is taken over", trained.directory)
    batches = train_batches(dataset, batch_size=BATCH, frames=frames, sources={}, end_of_song=False, seed=config.seed)
    few = itertools.islice(iterate(batches), -(-min(SONGS, len(dataset)) // BATCH))
    return unflatten_dict({component.path: component.parameters(config, dataset.codec, trained.read_weights()[0], few)})


def _opened(component: Component, config: ml_collections.ConfigDict, dataset: SongDataset) -> Workdir:
    trained = open_trained(config[component.field], component.field, component.kind)
    if trained.codec != dataset.codec:
        raise UserError(f"{component.field} {trained.directory} has another codec than the dataset {dataset.path}: "
                        "train that model on this dataset, or export the songs as those of the former")
    return trained
