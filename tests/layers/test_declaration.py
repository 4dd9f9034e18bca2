"""What is declared of parameters, and what follows from it whatever they are called."""

import jax
import jax.numpy as jnp
import ml_collections
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh, AxisType

from autosong_jax.codecs.info import CodesInfo
from autosong_jax.layers.declaration import declarations, declared, held_in
from autosong_jax.models.build import abstract_model
from autosong_jax.parallel.sharding import AXES, partition_spec, tree_shardings
from autosong_jax.sources.text.encoders import TextEncoderInfo, get_text_encoder
from autosong_jax.training.optimizer import make_optimizer
from autosong_jax.training.step import TrainState, state_shardings

CODEC = CodesInfo("melrvq", 16000, 1, 25.0, 3, 15)
# By parameter: what it is used for, the axes of its last dimensions, whether it is cast before use.
OUT_OF, INTO = ("matrix", ("fsdp", "tensor"), True), ("matrix", ("tensor", "fsdp"), True)
SPLIT_BIAS, VECTOR = ("vector", ("tensor",), False), ("vector", (), False)
ATTENTION = {"q/kernel": OUT_OF, "k/kernel": OUT_OF, "v/kernel": OUT_OF, "out/kernel": INTO,
             "q/bias": SPLIT_BIAS, "k/bias": SPLIT_BIAS, "v/bias": SPLIT_BIAS, "out/bias": VECTOR,
             "q/lora_a": ("matrix", ("fsdp", None), False), "q/lora_b": ("matrix", (None, "tensor"), False),
             "out/lora_a": ("matrix", ("tensor", None), False), "out/lora_b": ("matrix", (None, "fsdp"), False)}
MLP = {"up/kernel": OUT_OF, "down/kernel": INTO, "up/bias": SPLIT_BIAS, "down/bias": VECTOR}
NORM = {"scale": VECTOR, "bias": VECTOR}
PROJECTION = {"kernel": ("matrix", ("fsdp", None), True), "bias": VECTOR}
MODEL = {
    "frames": {"embeddings": ("table", ("fsdp",), True), "heads": ("matrix", ("fsdp", "tensor"), True)},
    "conditions": {"types": {"genre": VECTOR, "chroma": VECTOR},
                   "sources": {"genre": {"projection": PROJECTION}, "chroma": {"projection": PROJECTION}}},
    "decoder": {"position_table": {"embedding": ("table", ("fsdp",), False)}, "norm": NORM, "blocks": {
        "self_attention": ATTENTION, "cross_attention": ATTENTION, "mlp": MLP, "self_norm": NORM, "cross_norm": NORM,
        "mlp_norm": NORM}},
}
TABLE = {"embedding": ("table", (), False)}


@pytest.fixture
def config(toy_config):
    sources = {name: {"kind": kind, "max_length": 4, "dropout": 0.1, "width": 16, "heads": 2, "layers": 2}
               for name, kind in (("genre", "text"), ("chroma", "chroma"))}
    config = toy_config(**{"model.bias": True, "model.positions": "learned", "model.max_positions": 64,
                           "lora.rank": 2, "lora.targets": ("decoder/.*(q|out)$",)})
    config.sources = ml_collections.ConfigDict(sources)
    return config


def mesh_of(*sizes):
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3)


def flat(tree):
    return flatten_dict(tree, sep="/")


def test_every_kind_of_parameter_says_what_it_is(config):
    graph, params = abstract_model(config, CODEC, TextEncoderInfo("t5", "", "states", width=24))
    found = {path: (what.kind, what.axes, what.cast) for path, what in flat(declarations(graph, params)).items()}
    assert found == flat(MODEL)


def test_an_encoder_learned_with_the_model_is_cut_as_the_decoder_and_its_tables_are_whole(toy_config):
    graph, params = abstract_model(toy_config(), CODEC, get_text_encoder("bytes").info)
    found = flat(declarations(graph, params)["conditions"]["sources"]["lyrics"])
    found = {path: (what.kind, what.axes, what.cast) for path, what in found.items()}
    kernels = {part: {name: what for name, what in table.items() if name.endswith("kernel")}
               for part, table in (("self_attention", ATTENTION), ("mlp", MLP))}
    assert found == flat({"ids": TABLE, "sections": TABLE, "lines": TABLE, "projection": PROJECTION, "encoder": {
        "norm": NORM, "blocks": kernels | {"self_norm": NORM, "mlp_norm": NORM}}})


def test_names_decide_nothing():
    """Paths such as `conv/kernel` and `group/kernel` end as `v/kernel` and `up/kernel` do."""
    class Odd(nnx.Module):
        def __init__(self):
            self.conv = nnx.Dict(kernel=nnx.Param(jnp.zeros((4, 8, 8)), **declared("table")))
            self.group = nnx.Dict(kernel=nnx.Param(jnp.zeros((8, 8)), **declared("vector", None, "fsdp")))
            self.bias = nnx.Param(jnp.zeros((8, 8)), **declared("matrix", "tensor", None, cast=True))

    graph, params = nnx.split(Odd())
    params = nnx.to_pure_dict(params)
    what = declarations(graph, params)
    shardings = flat(tree_shardings(params, what, mesh_of(1, 2, 4)))
    specs = {path: tuple(sharding.spec) for path, sharding in shardings.items()}
    assert specs == {"conv/kernel": (None, None, None), "group/kernel": (None, "fsdp"), "bias": ("tensor", None)}
    assert {path: one.decay for path, one in flat(what).items()} == {
        "conv/kernel": True, "group/kernel": False, "bias": True}
    held = {path: x.dtype for path, x in flat(held_in("bfloat16", params, what)).items()}
    assert held == {"conv/kernel": jnp.float32, "group/kernel": jnp.float32, "bias": jnp.bfloat16}


def test_a_parameter_that_says_nothing_is_refused():
    graph, params = nnx.split(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"shape \[3\].*declared"):
        declarations(graph, nnx.to_pure_dict(params))
    with pytest.raises(ValueError, match="kind 'fsdp': expected one of matrix, table, vector"):
        declared("fsdp", "tensor")


@pytest.mark.parametrize(("axes", "shape", "expected"), [
    (("fsdp", "tensor"), (2, 16, 64), (None, "fsdp", "tensor")),  # stacked layers in front
    (("fsdp", "tensor"), (4, 16, 2049), (None, "fsdp", None)),
    (("fsdp", "tensor"), (6, 6), (None, "tensor")),
    ((None, "tensor"), (2, 3, 64), (None, None, "tensor")),
    ((), (16,), (None,)),
])
def test_a_dimension_that_does_not_divide_is_kept_whole(axes, shape, expected):
    assert tuple(partition_spec(axes, shape, mesh_of(1, 4, 2))) == expected


def test_what_the_optimizer_keeps_of_a_parameter_is_cut_as_it_is(config):
    graph, params = abstract_model(config, CODEC, get_text_encoder("bytes").info)
    what, mesh = declarations(graph, params), mesh_of(2, 2, 2)
    optimizer = jax.eval_shape(make_optimizer(config, what).init, params)
    shardings = state_shardings(TrainState(jnp.int32(0), params, params, optimizer), what, mesh)
    expected = tree_shardings(params, what, mesh)
    adam = shardings.optimizer[1][0]
    assert shardings.params == shardings.ema == adam.mu == adam.nu == expected
    assert not any(adam.count.spec) and not any(shardings.step.spec)
    assert jax.tree.structure(shardings.optimizer) == jax.tree.structure(optimizer)
