"""How a run begins: from its own checkpoint, from another workdir's weights, or from nothing."""

import pathlib
from collections.abc import Callable

import jax
import ml_collections

from autosong_jax.cli import log
from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from autosong_jax.layers import lora
from autosong_jax.parallel.sharding import put
from autosong_jax.training.step import Trainer, TrainState
from autosong_jax.weights.parameters import leaves
from autosong_jax.weights.trainable import Parameters, combine, partition
from autosong_jax.workdir.checkpoints import Checkpoints, latest_step, load_frozen, save_frozen
from autosong_jax.workdir.runs import same_codec, same_text_encoder, source_shapes
from autosong_jax.workdir.workdir import Workdir

# Fields of config.model that may differ from the base's: they change neither the parameters nor what is done with them.
FREE = ("dropout", "dtype", "pattern", "delays")


def open_base(config: ml_collections.ConfigDict, dataset: SongDataset) -> Workdir:
    """The model in `config.init.workdir`, once it is sure that its codes and texts are those of the dataset.

    Raises:
      UserError: if they are not, it is no trained model, or a run with `config` would use its parameters otherwise.
    """
    base = Workdir(config.init.workdir)
    workdir, text = base.directory, base.text
    if latest_step(workdir) is None:
        raise UserError(f"init.workdir {workdir} holds no finished checkpoint: expected a model trained or converted")
    if not same_text_encoder(text, dataset.text):
        raise UserError(f"init.workdir {workdir} reads texts by {text.name} (revision {text.revision}), the dataset "
                        f"{dataset.path} by {dataset.text.name} (revision {dataset.text.revision}): export the songs "
                        "with the text encoder of the former")
    if not same_codec(workdir / "codec", dataset.path / "codec"):
        raise UserError(f"init.workdir {workdir} has another codec than the dataset {dataset.path}: export the songs "
                        f"with --codec={workdir}/codec")
    _check_same_use(config, base)
    return base


def _check_same_use(config: ml_collections.ConfigDict, base: Workdir) -> None:
    """What the shapes of parameters do not show, such as heads and norms."""
    old, new = base.config, config
    fields = [(f"model.{name}", value, new.model.get(name)) for name, value in old.model.items() if name not in FREE]
    shapes = source_shapes(new)
    fields += [(f"sources.{name} of width, heads, layers", shape, shapes.get(name, shape))
               for name, shape in source_shapes(old).items()]
    for name, of_base, given in fields:
        if of_base != given:
            raise UserError(f"init.workdir {base.directory} has {name} {of_base}, the config {given}: give what the "
                            "base has")


def check_shapes(base: Workdir, trainer: Trainer) -> None:
    """Raises UserError if the model of `trainer` has no place for a parameter of the base."""
    params = combine(trainer.abstract.params, trainer.frozen)
    shapes = {path: leaf.shape for path, leaf in leaves(params).items()}
    merged = jax.eval_shape(lambda params: lora.merge(params, base.config.lora), base.abstract)
    for path, leaf in leaves(merged).items():
        if shapes.get(path) != leaf.shape:
            found = f"has {list(shapes[path])}" if path in shapes else "lacks it"
            raise UserError(f"init.workdir {base.directory} holds the parameter {path} of shape {list(leaf.shape)}, "
                            f"but the model of this config {found}: give the sources and sizes that the base has")


def start(config: ml_collections.ConfigDict, trainer: Trainer, checkpoints: Checkpoints, workdir: pathlib.Path,
          base: Workdir | None, given: Callable[[], Parameters]) -> tuple[TrainState, Parameters]:
    """The first state of a run, and the parameters that it does not train.

    That is the newest checkpoint; without one, the weights of `base`, those that are `given`, and for those that both
    lack initial values. A checkpoint of a converted model has no state of an optimizer, which then starts anew.
    """
    if checkpoints.latest is None:
        known = {}
        if base:
            log.info("Starting from %s", base.directory)
            known, _ = base.read_weights()
        else:
            known = given()
        trained, frozen = partition(combine(trainer.fresh(config.seed, known), known), config.train.trainable)
        if frozen:
            save_frozen(workdir, frozen)
        state = trainer.init(jax.tree.map(
            lambda x, sharding: x if isinstance(x, jax.Array) else put(x, sharding), trained, trainer.shardings.params))
    else:
        state, step = checkpoints.restore_newest(trainer.abstract, trainer.shardings)
        if isinstance(state, TrainState):
            log.info("Going on from step %d of %s", step, workdir)
        else:
            state = trainer.init(state)
    return state, load_frozen(workdir, trainer.frozen)
