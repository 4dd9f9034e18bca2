"""LoRA: against explicit merged kernels, the base where B is zero, and what it may be added to."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax import nnx

from autosong_jax.errors import UserError
from autosong_jax.layers import lora
from autosong_jax.layers.declaration import declared
from autosong_jax.layers.transformer import Transformer, TransformerConfig

CONFIG = TransformerConfig(width=16, heads=2, layers=2, mlp_width=32, cross_attention=True, bias=True)
LORA = ml_collections.ConfigDict({"rank": 3, "alpha": 12.0, "targets": ("attention/(q|v)$", "mlp/down")})


@pytest.fixture(scope="module")
def models():
    """The same transformer without LoRA and with it, where B is random."""
    base = Transformer(CONFIG, rngs=nnx.Rngs(0))
    tuned = Transformer(CONFIG, rngs=nnx.Rngs(0))
    lora.add(tuned, LORA, rngs=nnx.Rngs(1))
    for path, parameter in nnx.to_flat_state(nnx.state(tuned, nnx.Param)):
        if path[-1] == "lora_b":
            parameter[...] = jax.random.normal(jax.random.key(len(path[-2])), parameter.shape)
    return base, tuned


def apply(model):
    x, memory = (jax.random.normal(jax.random.key(i), (2, 5 + i, CONFIG.width)) for i in range(2))
    return nnx.jit(lambda m: m(x, memory=memory))(model)


def params_of(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def test_lora_gives_what_explicitly_merged_kernels_give(models):
    base, tuned = models
    params = params_of(tuned)
    expected = jax.tree.map(np.array, params_of(base))
    for block, layer in [("self_attention", "q"), ("self_attention", "v"), ("cross_attention", "q"),
                         ("cross_attention", "v"), ("mlp", "down")]:
        parts = params["blocks"][block][layer]
        for i in range(CONFIG.layers):
            product = np.asarray(parts["lora_a"][i], np.float64) @ np.asarray(parts["lora_b"][i], np.float64)
            expected["blocks"][block][layer]["kernel"][i] += 12.0 / 3 * product
    merged = lora.merge(params, LORA)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged, expected)
    graph, _ = nnx.split(base)
    tuned_output, merged_output = apply(tuned), apply(nnx.merge(graph, merged))
    np.testing.assert_allclose(tuned_output, merged_output, atol=1e-5)
    assert np.abs(tuned_output - apply(base)).max() > 0.1


def test_one_layer_within_float32_rounding():
    layer = lora.Linear(8, 6, kernel_metadata=declared("matrix", None, None), rngs=nnx.Rngs(0))
    lora.add(layer, ml_collections.ConfigDict({"rank": 2, "alpha": 1.0, "targets": ("",)}), rngs=nnx.Rngs(1))
    layer.lora_b[...] = jax.random.normal(jax.random.key(0), (2, 6))
    x = jax.random.normal(jax.random.key(1), (4, 8))
    kernel = layer.kernel[...] + 0.5 * layer.lora_a[...] @ layer.lora_b[...]
    np.testing.assert_allclose(layer(x), x @ kernel + layer.bias[...], atol=1e-6)


def test_zero_b_is_the_base_exactly_and_unstacking_keeps_lora(models):
    base, tuned = models
    fresh = Transformer(CONFIG, rngs=nnx.Rngs(0))
    lora.add(fresh, LORA, rngs=nnx.Rngs(1))
    np.testing.assert_array_equal(apply(fresh), apply(base))
    assert params_of(fresh)["blocks"]["self_attention"]["q"]["lora_a"].shape == (2, 16, 3)
    np.testing.assert_allclose(apply(tuned.unstacked()), apply(tuned), atol=1e-5)


def test_a_spreads_as_its_inputs_want():
    layer = lora.Linear(4096, 2, kernel_metadata=declared("matrix", None, None), rngs=nnx.Rngs(0))
    lora.add(layer, ml_collections.ConfigDict({"rank": 16, "alpha": 1.0, "targets": ("",)}), rngs=nnx.Rngs(1))
    assert np.std(layer.lora_a[...]) == pytest.approx(4096**-0.5, rel=0.05) and not np.any(layer.lora_b[...])


def test_rank_zero_adds_nothing_and_merging_without_lora_changes_nothing(models):
    model = Transformer(CONFIG, rngs=nnx.Rngs(0))
    lora.add(model, ml_collections.ConfigDict({"rank": 0, "alpha": 1.0, "targets": ("nowhere",)}), rngs=nnx.Rngs(0))
    params, expected = lora.merge(params_of(model), LORA), params_of(models[0])
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_merging_keeps_the_dtype_of_the_kernel():
    params = {"kernel": jnp.ones((4, 4), jnp.bfloat16), "lora_a": jnp.ones((4, 1)), "lora_b": jnp.ones((1, 4))}
    merged = lora.merge({"q": params}, ml_collections.ConfigDict({"rank": 1, "alpha": 2.0}))
    assert merged["q"]["kernel"].dtype == jnp.bfloat16 and np.all(merged["q"]["kernel"] == 3)


@pytest.mark.parametrize(("changes", "words"), [
    ({"targets": ("attention/z$",)}, ["lora.targets 'attention/z$'", "blocks/mlp/up"]), ({"rank": -1}, ["rank -1"])])
def test_what_cannot_be_added_is_named(changes, words):
    with pytest.raises(UserError) as error:
        lora.add(Transformer(CONFIG, rngs=nnx.Rngs(0)), ml_collections.ConfigDict(LORA.to_dict() | changes),
                 rngs=nnx.Rngs(0))
    assert all(word in str(error.value) for word in words)
