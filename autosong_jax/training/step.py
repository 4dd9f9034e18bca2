"""The training state and the step that changes it: pure functions under one jit.

Parameters that are not trained are no part of the state: they are an argument of their own, `frozen`, and there is no
gradient, moving average or optimizer state of them.

Letters: B batch, A accumulation parts.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from autosong_jax.codebooks.patterns import Pattern
from autosong_jax.errors import UserError
from autosong_jax.layers.declaration import declarations, held_in
from autosong_jax.models.build import compute_dtype
from autosong_jax.models.kinds import Steps, kind_of
from autosong_jax.objectives.objective import Objective
from autosong_jax.objectives.table import get_objectives
from autosong_jax.parallel.sharding import BATCH, tree_shardings
from autosong_jax.training.optimizer import make_optimizer
from autosong_jax.weights.trainable import Parameters, combine, partition, without

Batch = Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that training changes.

    Attributes:
      step: int32 [], the number of steps done. Everything random in a step follows from the seed and this number.
      params: the trained parameters, float32, a tree of dictionaries.
      ema: their moving average, or an empty tree.
      optimizer: the optimizer's state.
    """

    step: Array
    params: Parameters
    ema: Parameters
    optimizer: Any

    @property
    def average(self) -> Parameters:
        """The weights to evaluate and sample with."""
        return self.ema or self.params


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The compiled functions of one training run, and what they close over.

    Attributes:
      mesh: the devices.
      pattern: how a window is read.
      objectives: what the model is trained for, by name; steps take them in turns, step 0 the first.
      graph: the model without its parameters; `nnx.merge(graph, combine(params, frozen))` is the model.
      declarations: what each parameter is, trained or not; see `layers.declaration`.
      abstract: a `TrainState` of shapes and dtypes.
      shardings: a `TrainState` of shardings.
      frozen: the parameters that are not trained: shapes, dtypes and shardings.
      fresh: (seed, known) -> initial values, float32, of the parameters, trained or not, that `known` lacks.
      init: params -> TrainState. The parameters are donated.
      train_step: (TrainState, frozen, batch) -> TrainState, sums. The state is donated.
      eval_step: (params, frozen, batch) -> sums.

    `sums` are those of the step's objective, with the loss, and for training the gradient norm; those of `eval_step`
    are by objective.
    """

    mesh: Mesh
    pattern: Pattern | Steps
    objectives: Mapping[str, Objective]
    graph: Any
    declarations: Parameters
    abstract: TrainState
    shardings: TrainState
    frozen: Parameters
    fresh: Callable[[int, Parameters], Parameters]
    init: Callable[[Parameters], TrainState]
    train_step: Callable[[TrainState, Parameters, Batch], tuple[TrainState, dict[str, Array]]]
    eval_step: Callable[[Parameters, Parameters, Batch], dict[str, dict[str, Array]]]


def make_trainer(config: ml_collections.ConfigDict, create_model: Callable[[nnx.Rngs], nnx.Module],
                 pattern: Pattern | Steps, mesh: Mesh | AbstractMesh) -> Trainer:
    """Compiles nothing yet; shapes and shardings come from abstract evaluation.

    Args:
      config: see `autosong_jax/defaults.py`.
      create_model: makes the model with fresh parameters.
      pattern: how as many frames are read as a batch has.
      mesh: from `parallel.sharding.make_mesh`; of one without devices come shapes alone.
    """
    train = config.train
    abstract_model = nnx.eval_shape(lambda: create_model(nnx.Rngs(0)))
    graph, abstract_params = nnx.split(abstract_model)
    abstract_params = nnx.to_pure_dict(abstract_params)
    declared = declarations(graph, abstract_params)
    of_trained, of_frozen = partition(declared, train.trainable)
    optimizer = make_optimizer(config, of_trained)
    objectives = get_objectives(config, pattern, abstract_model)
    rates = jnp.array([config.sources[name].dropout for name in abstract_model.source_names])

    def fresh(seed: int, known: Parameters) -> Parameters:
        def create(seed):
            params = nnx.to_pure_dict(nnx.state(create_model(nnx.Rngs(jax.random.key(seed))), nnx.Param))
            return without(params, known)

        out = tree_shardings(without(abstract_params, known), declared, mesh)
        return jax.jit(create, out_shardings=out)(np.uint32(seed))

    def init(params: Parameters) -> TrainState:
        return TrainState(jnp.int32(0), params, params if train.ema_decay else {}, optimizer.init(params))

    trained, frozen = partition(abstract_params, train.trainable)
    _check_frozen(config, trained)
    frozen = _frozen_arrays(frozen, of_frozen, compute_dtype(config.model.dtype), mesh)
    frozen_shardings = jax.tree.map(lambda x: x.sharding, frozen)
    abstract = jax.eval_shape(init, trained)
    shardings = state_shardings(abstract, of_trained, mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    batch_sharding = NamedSharding(mesh, BATCH)

    def loss_of(objective: Objective) -> Callable:
        """(params, frozen, songs, shared, key) -> loss, sums; `songs` are (examples, sources, keep), all or some."""
        def loss(params: Parameters, frozen: Parameters, songs: tuple[Any, Any, Array], shared: Any, key: Array | None):
            examples, sources, keep = songs
            model = nnx.merge(graph, combine(params, frozen))
            encoder_key, decoder_key = (None, None) if key is None else jax.random.split(key)
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                memory = model.encode(sources, keep, encoder_key)
                loss, sums = objective.loss(model, examples, shared, memory, decoder_key)
            return loss, sums | {"loss": loss}

        return loss

    losses = {name: loss_of(objective) for name, objective in objectives.items()}

    def gradient_of(name: str) -> Callable:
        objective, gradient = objectives[name], accumulated(
            jax.grad(losses[name], has_aux=True), train.accumulation, mesh)

        def gradient_of_batch(params: Parameters, frozen: Parameters, batch: Batch, keep, key, dropout_key, step):
            stage_key, key = jax.random.split(key)
            examples, shared = objective.examples(
                batch, jax.random.randint(stage_key, (), 0, objective.stages), jax.random.split(key, len(keep)), step)
            return gradient(params, frozen, (examples, batch["sources"], keep), shared, dropout_key)

        return gradient_of_batch

    gradients_of = [gradient_of(name) for name in objectives]

    def train_step(state: TrainState, frozen: Parameters, batch: Batch):
        key = jax.random.fold_in(jax.random.key(np.uint32(config.seed)), state.step)
        keep_key, dropout_key, objective_key = jax.random.split(key, 3)
        keep = jax.random.uniform(keep_key, (len(batch["num_frames"]), len(rates))) >= rates
        gradients, metrics = jax.lax.switch(
            state.step % len(objectives), gradients_of,
            state.params, frozen, batch, keep, objective_key, dropout_key if config.model.dropout else None, state.step)
        updates, new_optimizer = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        return TrainState(step, params, moving_average(state.ema, params, step, train), new_optimizer), metrics

    return Trainer(
        mesh, pattern, objectives, graph, declared, abstract, shardings, frozen, fresh,
        init=jax.jit(init, in_shardings=(shardings.params,), out_shardings=shardings, donate_argnums=0),
        train_step=jax.jit(train_step, in_shardings=(shardings, frozen_shardings, batch_sharding),
                           out_shardings=(shardings, replicated), donate_argnums=0),
        eval_step=jax.jit(evaluated(losses, objectives, len(rates)), out_shardings=replicated,
                          in_shardings=(shardings.params, frozen_shardings, batch_sharding)))


def evaluated(losses: Mapping[str, Callable], objectives: Mapping[str, Objective], num_sources: int) -> Callable:
    """`Trainer.eval_step`: all stages of all objectives, each with the same masks for the same batch at every pass.

    Args:
      losses: (params, frozen, songs, shared, key) -> loss, sums of each objective; see `make_trainer`.
      objectives: by name.
      num_sources: of the model, all of which are kept.
    """
    def eval_step(params: Parameters, frozen: Parameters, batch: Batch) -> dict[str, dict[str, Array]]:
        songs = len(batch["num_frames"])
        keep = jnp.ones((songs, num_sources), bool)
        keys = jax.random.split(jax.random.key(0), songs)

        def of_stage(name: str, stage: Array):
            examples, shared = objectives[name].examples(batch, stage, keys, None)
            return losses[name](params, frozen, (examples, batch["sources"], keep), shared, None)[1]

        def of_all(name: str):
            stages = jax.lax.map(functools.partial(of_stage, name), jnp.arange(objectives[name].stages))
            return jax.tree.map(lambda x: x.sum(axis=0), stages)

        return {name: of_all(name) for name in objectives}

    return eval_step


def accumulated(gradient: Callable, count: int, mesh: Mesh) -> Callable:
    """`gradient` taken over `count` parts of a batch, one after another, and summed.

    Args:
      gradient: (params, frozen, songs, shared, key) -> gradients by `params`, sums. All arrays of `songs` have the
        batch axis in front, those of `shared` are for all parts; each part gets a key of its own, unless that is None.
    """
    if count == 1:
        return gradient

    def accumulate(params, frozen, songs, shared, key):
        # Example i goes to part i mod A, which keeps every example on its device.
        parts = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(
            x.reshape(len(x) // count, count, *x.shape[1:]).swapaxes(0, 1),
            NamedSharding(mesh, PartitionSpec(None, *BATCH))), songs)
        keys = None if key is None else jax.random.split(key, count)
        shapes = jax.eval_shape(
            lambda xs: gradient(params, frozen, xs, shared, key), jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def add(total, xs):
            part, key = xs
            return jax.tree.map(jnp.add, total, gradient(params, frozen, part, shared, key)), None

        return jax.lax.scan(add, zeros, (parts, keys))[0]

    return accumulate


def moving_average(ema: Parameters, params: Parameters, step: Array, train: ml_collections.ConfigDict) -> Parameters:
    """The moving average after `step`; early updates weigh more, so the initial weights are soon forgotten."""
    if not ema:
        return ema
    updates = step // train.ema_every
    decay = jnp.minimum(train.ema_decay, (1 + updates) / (10 + updates))
    rate = jnp.where(step % train.ema_every == 0, 1.0 - decay, 0.0)
    return jax.tree.map(lambda old, new: old + rate * (new - old), ema, params)


def state_shardings(state: TrainState, declarations: Parameters, mesh: Mesh | AbstractMesh) -> TrainState:
    """Where the arrays of a state are: the moving average and what the optimizer keeps for each parameter as the
    parameters, all else whole on every device.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    params, structure = tree_shardings(state.params, declarations, mesh), jax.tree.structure(state.params)

    def is_like_params(part: Any) -> bool:
        return jax.tree.structure(part) == structure

    optimizer = jax.tree.map(lambda part: params if is_like_params(part) else whole, state.optimizer,
                             is_leaf=is_like_params)
    return TrainState(whole, params, params if state.ema else {}, optimizer)


def _check_frozen(config: ml_collections.ConfigDict, trained: Parameters) -> None:
    """Raises UserError if a component of the model would be trained with it."""
    component = kind_of(config).component
    path = component.path if component else ()
    for name in path:
        trained = trained.get(name, {})
    if path and trained:
        where = "/".join(path)
        raise UserError(f"train.trainable {list(config.train.trainable)}: expected expressions that are not found in "
                        f"{where}, which holds {component.kind.name} that is trained, such as '^(?!{where}/)'")


def _frozen_arrays(params: Parameters, declarations: Parameters, dtype: str, mesh: Mesh) -> Parameters:
    """Shapes, dtypes and shardings of the frozen parameters."""
    return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                        held_in(dtype, params, declarations), tree_shardings(params, declarations, mesh))
