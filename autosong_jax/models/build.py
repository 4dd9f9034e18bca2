"""From a config, a codec and a text encoder to a model."""

from typing import Any

import ml_collections
from flax import nnx

from autosong_jax.codecs.info import CodecInfo
from autosong_jax.layers import lora
from autosong_jax.layers.platform import platform
from autosong_jax.models.kinds import kind_of
from autosong_jax.models.song import SongModel
from autosong_jax.sources.text.encoders import TextEncoderInfo


def build_model(config: ml_collections.ConfigDict, codec: CodecInfo, text: TextEncoderInfo, *,
                rngs: nnx.Rngs) -> SongModel:
    """The model that `config` describes (fields: `autosong_jax/defaults.py`).

    Args:
      codec: whose codes it models, and reads of recordings.
      text: the text encoder of the dataset, which decides how each source is read.
    """
    model = kind_of(config).build(config, codec, text, compute_dtype(config.model.dtype), rngs=rngs)
    lora.add(model, config.lora, rngs=rngs)  # last: the parameters before it are the same with and without it
    return model


def abstract_model(config: ml_collections.ConfigDict, codec: CodecInfo, text: TextEncoderInfo
                   ) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """The model without its parameters, and the parameters' shapes and dtypes; see `build_model`.

    `nnx.merge(graph, params)` of parameters of those shapes is the model, `layers.declaration.declarations` says what
    each of them is.
    """
    graph, state = nnx.split(nnx.eval_shape(lambda: build_model(config, codec, text, rngs=nnx.Rngs(0))))
    return graph, nnx.to_pure_dict(state)


def compute_dtype(name: str) -> str:
    """The dtype that "auto" stands for: XLA on a CPU computes bfloat16 ten times slower than float32."""
    if name != "auto":
        return name
    return "float32" if platform() == "cpu" else "bfloat16"
