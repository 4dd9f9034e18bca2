"""BERT as the Hugging Face hub holds it: its config and the names of its tensors."""

from collections.abc import Mapping
from typing import Any

from autosong_jax import inputs
from autosong_jax.sources.text.bert import BertConfig
from autosong_jax.sources.text.biased_attention import ACTIVATIONS
from autosong_jax.weights import shapes
from autosong_jax.weights.files import Tensors
from autosong_jax.weights.parameters import Recipe

# What is on top of the encoder, and a buffer of old files.
IGNORED = r"^(pooler|cls|classifier|qa_outputs)\.|^embeddings\.position_ids$"
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}  # of norms, in files that come from TensorFlow


def read_config(config: Mapping[str, Any], begin: int, end: int, where: str = "config.json",
                first_position: int = 0) -> BertConfig:
    """From a `config.json`, which errors call `where`, the ids of [CLS] and [SEP], and the position of the first.

    Raises:
      UserError: a size is missing or out of range.
      ValueError: for an activation or a kind of positions that is not known.
    """
    shape = inputs.check(dict(config), shapes.Bert, where)
    activation, positions = shape.hidden_act, shape.position_embedding_type
    if shape.hidden_size % shape.num_attention_heads:
        raise ValueError(f"hidden_size {shape.hidden_size}, expected a multiple of num_attention_heads "
                         f"{shape.num_attention_heads}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"hidden_act {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    if positions != "absolute":
        raise ValueError(f"position_embedding_type {positions!r}, expected 'absolute'")
    return BertConfig(
        vocab_size=shape.vocab_size, max_positions=shape.max_position_embeddings, token_types=shape.type_vocab_size,
        width=shape.hidden_size, heads=shape.num_attention_heads, layers=shape.num_hidden_layers,
        mlp_width=shape.intermediate_size, activation=activation, epsilon=shape.layer_norm_eps, begin=begin, end=end,
        first_position=first_position)


def standard_names(tensors: Tensors) -> Tensors:
    """The tensors under the names that an encoder has which was saved alone."""
    def rename(name: str) -> str:
        stem, dot, last = name.removeprefix("bert.").rpartition(".")
        return stem + dot + (_OLD_NAMES.get(last, last) if stem.endswith("LayerNorm") else last)

    return tensors.renamed(rename)


def recipes(config: BertConfig) -> dict[str, Recipe]:
    """What each parameter of a `sources.text.bert.BertEncoder` is made of."""
    tables = {"embedding": "word_embeddings", "positions": "position_embeddings", "types": "token_type_embeddings"}
    linear = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
              "out": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"}
    norms = {"attention_norm": "attention.output.LayerNorm", "mlp_norm": "output.LayerNorm"}

    def stacked(name: str, transpose: bool = False) -> Recipe:
        return Recipe(tuple(f"encoder.layer.{i}.{name}" for i in range(config.layers)), transpose, stacked=True)

    return {
        **{f"{ours}/embedding": Recipe((f"embeddings.{name}.weight",)) for ours, name in tables.items()},
        "norm/scale": Recipe(("embeddings.LayerNorm.weight",)),
        "norm/bias": Recipe(("embeddings.LayerNorm.bias",)),
        **{f"blocks/{ours}/kernel": stacked(f"{name}.weight", transpose=True) for ours, name in linear.items()},
        **{f"blocks/{ours}/scale": stacked(f"{name}.weight") for ours, name in norms.items()},
        **{f"blocks/{ours}/bias": stacked(f"{name}.bias") for ours, name in (linear | norms).items()},
    }
