"""The optimizer: its schedules against closed forms, its updates against optax's with rates by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, path_aware_map

from autosong_jax.data.dataset import SongDataset
from autosong_jax.errors import UserError
from autosong_jax.layers.declaration import Declaration, declarations
from autosong_jax.models.build import build_model
from autosong_jax.training import loop
from autosong_jax.training.optimizer import (
    after_evaluation,
    clip_by_global_norm,
    last_rate,
    make_optimizer,
    make_schedule,
)

PEAK, LEAST, WARMUP, STEPS = 1e-3, 1e-4, 10, 100


@pytest.fixture(scope="module")
def model(toy_config):
    """Declarations and parameters of a model with biases, learned positions and LoRA."""
    config = toy_config(**{"model.bias": True, "model.positions": "learned", "model.max_positions": 64,
                           "lora.rank": 2})
    dataset = SongDataset(config.data.path, "train")
    graph, params = nnx.split(build_model(config, dataset.codec, dataset.text, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(params)
    return declarations(graph, params), params


def closed_form(schedule, step):
    """With drops by half every 20 steps."""
    if step < WARMUP:
        return PEAK * step / WARMUP
    done, after = (step - WARMUP) / (STEPS - WARMUP), step - WARMUP
    return {"cosine": LEAST + (PEAK - LEAST) * (1 + np.cos(np.pi * done)) / 2,
            "linear": PEAK + (LEAST - PEAK) * done,
            "step": max(PEAK * 0.5 ** (after // 20), LEAST),
            "plateau": PEAK, "constant": PEAK}[schedule]


@pytest.mark.parametrize("name", ["cosine", "linear", "step", "plateau", "constant"])
def test_schedules_are_their_closed_forms(toy_config, name):
    config = toy_config(**{
        "train.steps": STEPS, "optimizer.warmup_steps": WARMUP, "optimizer.learning_rate": PEAK,
        "optimizer.final_learning_rate": LEAST, "optimizer.schedule": name, "optimizer.drop_every": 20})
    schedule = make_schedule(config, PEAK)
    rates = [float(schedule(step)) for step in range(STEPS + 1)]
    np.testing.assert_allclose(rates, [closed_form(name, step) for step in range(STEPS + 1)], rtol=1e-5, atol=1e-9)


def test_a_plateau_lowers_the_rate_as_a_loop_over_the_losses_does(toy_config, model):
    config = toy_config(**{
        "train.steps": STEPS, "optimizer.warmup_steps": 4, "optimizer.learning_rate": PEAK,
        "optimizer.final_learning_rate": LEAST, "optimizer.schedule": "plateau", "optimizer.patience": 2,
        "optimizer.drop_factor": 0.3})
    declared, params = model
    optimizer = make_optimizer(config, declared)
    state, best, waited, scale = optimizer.init(params), np.inf, 0, 1.0
    zeros = jax.tree.map(jnp.zeros_like, params)
    update = jax.jit(lambda state: optimizer.update(zeros, state, params)[1])
    for step, loss in enumerate([3, 2, 2.5, 2.4, 2.4, 1, 1, 1, 0.9, 2, 2, 2, 2, 2, 2], start=1):
        state = update(state)
        full = PEAK * min((step - 1) / 4, 1)
        assert last_rate(config, state) == pytest.approx(max(full * scale, min(full, LEAST)), rel=1e-6)
        state = after_evaluation(config, state, loss)
        if loss < best:
            best, waited = loss, 0
        else:
            waited += 1
        if waited == 2:
            scale, waited = 0.3 * scale, 0
    assert scale == pytest.approx(0.3**5)


def test_other_schedules_keep_what_optax_keeps(toy_config, model):
    """So a checkpoint does not depend on how many schedules there are."""
    declared, params = model
    for name in ("cosine", "step"):
        config = toy_config(**{"optimizer.schedule": name})
        state = jax.eval_shape(make_optimizer(config, declared).init, params)
        mask = jax.tree.map(lambda what: what.decay, declared)
        expected = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lambda step: 0.1, mask=mask))
        assert jax.tree.structure(state) == jax.tree.structure(jax.eval_shape(expected.init, params))
        assert after_evaluation(config, state, 1.0) == state


def test_tables_learn_at_a_rate_of_their_own(toy_config, model):
    """Beside optax's AdamW, once for each of the two rates."""
    config = toy_config(**{
        "train.steps": 20, "optimizer.warmup_steps": 2, "optimizer.learning_rate": 1e-3,
        "optimizer.embedding_learning_rate": 2e-2, "optimizer.schedule": "linear", "optimizer.clip_norm": 1e9})
    declared, params = model
    gradients = [jax.tree.map(lambda x, i=i: np.random.default_rng(i).normal(size=x.shape).astype("float32"), params)
                 for i in range(3)]

    def run(optimizer):
        now, state, update = params, optimizer.init(params), jax.jit(optimizer.update)
        for gradient in gradients:
            updates, state = update(gradient, state, now)
            now = optax.apply_updates(now, updates)
        return flatten_dict(now, sep="/")

    tables = {"frames/embeddings", "decoder/position_table/embedding", *(
        f"conditions/sources/{table}/embedding" for table in ("lyrics/ids", "lyrics/sections", "lyrics/lines",
                                                              "genre/ids"))}
    assert {path for path, what in flatten_dict(declared, sep="/").items() if what.kind == "table"} == tables
    mask = path_aware_map(lambda path, _: path[-1] not in ("bias", "scale") and path[1] != "types", params)

    def by_hand(peak):
        rate = optax.join_schedules([optax.linear_schedule(0, peak, 2), optax.linear_schedule(peak, 0, 18)], [2])
        return optax.adamw(rate, config.optimizer.b1, config.optimizer.b2, weight_decay=0.1, mask=mask)

    ours, slow, fast = run(make_optimizer(config, declared)), run(by_hand(1e-3)), run(by_hand(2e-2))
    for path, value in ours.items():
        np.testing.assert_allclose(value, (fast if path in tables else slow)[path], atol=1e-6, err_msg=path)
    assert np.abs(ours["frames/embeddings"] - slow["frames/embeddings"]).max() > 1e-2


def test_weight_decay_leaves_biases_norms_and_type_vectors_alone(toy_config, model):
    declared, params = model
    optimizer = make_optimizer(toy_config(), declared)
    state = optimizer.init(params)
    zeros = jax.tree.map(np.zeros_like, params)
    for _ in range(2):  # the first step has the rate 0
        updates, state = optimizer.update(zeros, state, params)
    for path, update in flatten_dict(updates).items():
        kept = path[-1] in ("bias", "scale", "lora_b") or path[1] == "types"  # B of LoRA begins as zeros
        assert np.all(update == 0) if kept else np.any(update != 0), path


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
def test_clipping_is_that_of_optax(scale):
    rng = np.random.default_rng(0)
    gradients = {"a": scale * rng.standard_normal((3, 5)).astype("float32"), "b": np.full(2, scale, "float32")}
    ours = clip_by_global_norm(0.5, {"a": False, "b": False})
    theirs = optax.clip_by_global_norm(0.5)
    assert jax.tree.structure(ours.init(gradients)) == jax.tree.structure(theirs.init(gradients))
    for a, b in zip(*(jax.tree.leaves(one.update(gradients, one.init(gradients))[0]) for one in (ours, theirs)),
                    strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_discriminator_is_clipped_and_learns_by_itself(toy_config):
    """Beside two optimizers, each of which knows one side alone."""
    rng = np.random.default_rng(0)
    params = {"net": {"kernel": rng.standard_normal((3, 4))}, "discriminator": {"kernel": rng.standard_normal((4, 2))}}
    params = jax.tree.map(np.float32, params)
    gradients = {"net": jax.tree.map(lambda x: 100 * x, params["net"]), "discriminator": params["discriminator"]}
    matrix = Declaration("matrix")
    config = toy_config(**{"optimizer.learning_rate": 1e-3, "optimizer.discriminator_learning_rate": 1e-2,
                           "optimizer.warmup_steps": 0, "optimizer.schedule": "constant"})

    def run(peak, params, gradients):
        with config.unlocked():
            config.optimizer.learning_rate = peak
        optimizer = make_optimizer(config, jax.tree.map(lambda _: matrix, params))
        state = optimizer.init(params)
        for factor in (1, 3):
            updates, state = optimizer.update(jax.tree.map(lambda x, by=factor: by * x, gradients), state, params)
            params = optax.apply_updates(params, updates)
        return params

    both = run(1e-3, params, gradients)
    for side, peak in (("net", 1e-3), ("discriminator", 1e-2)):
        alone = run(peak, {"net": params[side]}, {"net": gradients[side]})
        np.testing.assert_allclose(both[side]["kernel"], alone["net"]["kernel"], rtol=1e-6)


def test_a_plateau_wants_validation_losses(toy_config, tmp_path):
    with pytest.raises(UserError, match="'plateau' waits for validation losses, but there are none"):
        loop.train(toy_config(**{"optimizer.schedule": "plateau", "train.eval_every": 0}), tmp_path)
    assert not any(tmp_path.iterdir())
