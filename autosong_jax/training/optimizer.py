"""The optimizer: AdamW with clipping, and the learning rates of its steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax import Array

from autosong_jax.parallel.sharding import put
from autosong_jax.weights.trainable import Parameters


class PlateauState(NamedTuple):
    """What schedule "plateau" keeps between steps.

    Attributes:
      count: int32 [], the steps done.
      best: float32 [], the lowest validation loss so far.
      waited: int32 [], the evaluations since then, or since the last reduction.
      scale: float32 [], the product of all reductions.
    """

    count: Array
    best: Array
    waited: Array
    scale: Array


def make_schedule(config: ml_collections.ConfigDict, peak: float) -> optax.Schedule:
    """Linear warm-up from 0 to `peak`, then what `optimizer.schedule` says; of "plateau", before any reduction."""
    optimizer, steps = config.optimizer, config.train.steps
    warmup = min(optimizer.warmup_steps, steps - 1)
    if optimizer.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, optimizer.final_learning_rate)
    after = {
        "linear": optax.linear_schedule(peak, optimizer.final_learning_rate, steps - warmup),
        "step": optax.exponential_decay(peak, optimizer.drop_every, optimizer.drop_factor, staircase=True,
                                        end_value=optimizer.final_learning_rate),
        "plateau": optax.constant_schedule(peak),
        "constant": optax.constant_schedule(peak),
    }[optimizer.schedule]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(config: ml_collections.ConfigDict, declared: Parameters) -> optax.GradientTransformation:
    """AdamW with clipping by global norm, with weight decay of the parameters whose declarations say so, and with a
    learning rate of their own for tables.
    """
    optimizer = config.optimizer
    return optax.chain(
        clip_by_global_norm(optimizer.clip_norm),
        optax.chain(
            optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps),
            optax.add_decayed_weights(optimizer.weight_decay, jax.tree.map(lambda what: what.decay, declared)),
            scale_by_rates(config, declared)))


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales all gradients by one factor so that their global norm is at most `max_norm`, as optax's of this name does.

    That one divides every gradient by the norm, a division which XLA on a CPU does once and keeps: a second copy of all
    gradients. A product with a factor it computes again wherever the optimizer reads it.
    """
    def clip(gradients, _):
        factor = jnp.minimum(1.0, max_norm / optax.tree.norm(gradients))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), gradients)

    return optax.stateless(clip)


def scale_by_rates(config: ml_collections.ConfigDict, declared: Parameters) -> optax.GradientTransformation:
    """Multiplies by minus the learning rate of the step: that of tables, or that of all else."""
    optimizer = config.optimizer
    rate, table_rate = (_rate(config, peak) for peak in (
        optimizer.learning_rate, optimizer.embedding_learning_rate or optimizer.learning_rate))

    def init(params):
        del params
        count = jnp.int32(0)
        if optimizer.schedule == "plateau":
            return PlateauState(count, jnp.float32(jnp.inf), jnp.int32(0), jnp.float32(1))
        return optax.ScaleByScheduleState(count)

    def update(updates, state, params=None):
        del params
        of_others, of_tables = -rate(state), -table_rate(state)
        updates = jax.tree.map(
            lambda what, update: update * jnp.asarray(of_tables if what.kind == "table" else of_others, update.dtype),
            declared, updates)
        return updates, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _rate(config: ml_collections.ConfigDict, peak: float) -> Callable[[Any], Array]:
    """The learning rate of the step after the state of `scale_by_rates`."""
    schedule, least = make_schedule(config, peak), config.optimizer.final_learning_rate

    def rate(state):
        full = schedule(state.count)
        if not isinstance(state, PlateauState):
            return full
        return jnp.maximum(full * state.scale, jnp.minimum(full, least))

    return rate


def last_rate(config: ml_collections.ConfigDict, state: Any) -> float:
    """The learning rate of the last step that an optimizer has done, of all but tables.

    Args:
      state: the optimizer's, after that step and before `after_evaluation`.
    """
    kinds = (optax.ScaleByScheduleState, PlateauState)
    kept, = (part for part in jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, kinds))
             if isinstance(part, kinds))
    kept = jax.device_get(kept)
    return float(_rate(config, config.optimizer.learning_rate)(kept._replace(count=kept.count - 1)))


def after_evaluation(config: ml_collections.ConfigDict, state: Any, loss: float) -> Any:
    """An optimizer's state once the validation loss is known: with schedule "plateau", the learning rate is reduced
    when that has not become lower for `patience` evaluations. With others nothing changes.
    """
    def of_plateau(part: Any) -> Any:
        if not isinstance(part, PlateauState):
            return part
        kept = jax.device_get(part)
        waited = 0 if loss < kept.best else kept.waited + 1
        reduced = waited >= config.optimizer.patience
        new = kept._replace(best=min(loss, kept.best), waited=0 if reduced else waited,
                            scale=kept.scale * (config.optimizer.drop_factor if reduced else 1))
        return jax.tree.map(lambda x, old: put(np.asarray(x, old.dtype), old.sharding), new, part)

    return jax.tree.map(of_plateau, state, is_leaf=lambda part: isinstance(part, PlateauState))
