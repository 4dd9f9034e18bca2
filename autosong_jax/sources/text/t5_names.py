"""T5, mT5 and umT5 encoders as the Hugging Face hub holds them: their configs and the names of their tensors."""

from collections.abc import Mapping
from typing import Any

from autosong_jax import inputs
from autosong_jax.sources.text.biased_attention import ACTIVATIONS
from autosong_jax.sources.text.t5 import T5Config
from autosong_jax.weights import shapes
from autosong_jax.weights.files import Tensors
from autosong_jax.weights.parameters import Recipe

# Tensors of whole models: the decoder, what is on top of it, and the encoder's second name for the embedding.
IGNORED = r"^(decoder|lm_head|classification_head|classifier)\.|^encoder\.embed_tokens\."


def read_config(config: Mapping[str, Any], where: str = "config.json") -> T5Config:
    """From a `config.json`, which errors call `where`.

    Raises:
      UserError: a size is missing or out of range.
      ValueError: for an activation that is unknown.
    """
    shape = inputs.check(dict(config), shapes.T5, where)
    default = "relu" if shape.model_type == "t5" else "gated-gelu"
    gate, _, activation = (shape.feed_forward_proj or default).rpartition("-")
    if activation not in ACTIVATIONS or gate not in ("", "gated"):
        raise ValueError(f"feed_forward_proj {shape.feed_forward_proj!r}, expected gated-ACTIVATION or ACTIVATION, "
                         f"which is one of {', '.join(ACTIVATIONS)}")
    if gate and activation == "gelu":
        activation = "gelu_new"  # the released configs mean the approximation by it
    return T5Config(
        vocab_size=shape.vocab_size, width=shape.d_model, heads=shape.num_heads, head_width=shape.d_kv,
        layers=shape.num_layers, mlp_width=shape.d_ff, buckets=shape.relative_attention_num_buckets,
        max_distance=shape.relative_attention_max_distance, shared_bias=shape.model_type != "umt5",
        activation=activation, gated=bool(gate), epsilon=shape.layer_norm_epsilon)


def standard_names(tensors: Tensors) -> Tensors:
    """The tensors under the names that an encoder has which was saved alone."""
    if "transformer.encoder.final_layer_norm.weight" in tensors:  # of models with a classifier
        tensors = tensors.renamed(lambda name: name.removeprefix("transformer."))
    if "shared.weight" in tensors:
        return tensors
    return tensors.renamed(lambda name: "shared.weight" if name == "encoder.embed_tokens.weight" else name)


def recipes(config: T5Config) -> dict[str, Recipe]:
    """What each parameter of a `sources.text.t5.T5Encoder` is made of."""
    def stacked(name: str, transpose: bool = False) -> Recipe:
        names = tuple(f"encoder.block.{i}.layer.{name}.weight" for i in range(config.layers))
        return Recipe(names, transpose, stacked=True)

    linear = {"q": "0.SelfAttention.q", "k": "0.SelfAttention.k", "v": "0.SelfAttention.v",
              "out": "0.SelfAttention.o", "down": "1.DenseReluDense.wo"}
    if config.gated:
        linear |= {"gate": "1.DenseReluDense.wi_1", "up": "1.DenseReluDense.wi_0"}
    else:
        linear |= {"up": "1.DenseReluDense.wi"}
    bias = "0.SelfAttention.relative_attention_bias"
    shared = {"bias/embedding": Recipe((f"encoder.block.0.layer.{bias}.weight",))}
    return {
        "embedding/embedding": Recipe(("shared.weight",)),
        "norm/scale": Recipe(("encoder.final_layer_norm.weight",)),
        "blocks/attention_norm/scale": stacked("0.layer_norm"),
        "blocks/mlp_norm/scale": stacked("1.layer_norm"),
        **{f"blocks/{ours}/kernel": stacked(name, transpose=True) for ours, name in linear.items()},
        **(shared if config.shared_bias else {"blocks/bias/embedding": stacked(bias)}),
    }
