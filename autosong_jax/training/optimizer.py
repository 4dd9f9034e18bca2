"""The optimizer: AdamW with clipping, and the learning rates of its steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
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
    """AdamW with clipping by global norm, with weight decay of the parameters whose declarations say so, and with
    learning rates of their own for tables and for a discriminator.

    A discriminator is what stands under that name in a model. It is trained in the same step, against the rest, so its
    gradients have nothing to do with those of the rest: each side is clipped by a norm of its own.
    """
    optimizer = config.optimizer
    return optax.chain(
        clip_by_global_norm(optimizer.clip_norm, of_discriminator(declared)),
        optax.chain(
            optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps),
            optax.add_decayed_weights(optimizer.weight_decay, jax.tree.map(lambda what: what.decay, declared)),
            scale_by_rates(config, declared)))


def of_discriminator(params: Parameters) -> Parameters:
    """Of each parameter, whether it is a discriminator's: a tree of bools like `params`."""
    return unflatten_dict({path: "discriminator" in path for path in flatten_dict(params)})


def clip_by_global_norm(max_norm: float, other: Parameters) -> optax.GradientTransformation:
    """Scales all gradients by one factor so that their global norm is at most `max_norm`, as optax's of this name does;
    those for which the tree `other` says True by another factor, of their own norm.

    That one divides every gradient by the norm, a division which XLA on a CPU does once and keeps: a second copy of all
    gradients. A product with a factor it computes again wherever the optimizer reads it.
    """
    def clip(gradients, _):
        leaves, sides = jax.tree.leaves(gradients), jax.tree.leaves(other)
        norms = {side: optax.tree.norm([leaf for leaf, one in zip(leaves, sides, strict=True) if one == side])
                 for side in set(sides)}
        factors = {side: jnp.minimum(1.0, max_norm / norm) for side, norm in norms.items()}
        return jax.tree.map(lambda g, side: g * factors[side].astype(g.dtype), gradients, other)

    return optax.stateless(clip)


def scale_by_rates(config: ml_collections.ConfigDict, declared: Parameters) -> optax.GradientTransformation:
    """Multiplies by minus the learning rate of the step: that of a discriminator, of tables, or of all else."""
    optimizer = config.optimizer
    peaks = {"discriminator": optimizer.discriminator_learning_rate, "table": optimizer.embedding_learning_rate,
             "else": optimizer.learning_rate}
    rates = {name: _rate(config, peak or optimizer.learning_rate) for name, peak in peaks.items()}
    names = jax.tree.map(lambda what, adversary: "discriminator" if adversary else
                         "table" if what.kind == "table" else "else", declared, of_discriminator(declared))

    def init(params):
        del params
        count = jnp.int32(0)
        if optimizer.schedule == "plateau":
            return PlateauState(count, jnp.float32(jnp.inf), jnp.int32(0), jnp.float32(1))
        return optax.ScaleByScheduleState(count)

    def update(updates, state, params=None):
        del params
        factors = {name: -rate(state) for name, rate in rates.items()}
        updates = jax.tree.map(lambda name, update: update * jnp.asarray(factors[name], update.dtype), names, updates)
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
