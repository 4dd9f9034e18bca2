"""From a config, a codec and a text encoder to a song model."""

import functools
from typing import Any

import ml_collections
from flax import nnx

from autosong_jax.codecs.info import CodecInfo, CodesInfo
from autosong_jax.layers import lora
from autosong_jax.layers.platform import platform
from autosong_jax.layers.transformer import TransformerConfig
from autosong_jax.models.frames import CodeFrames
from autosong_jax.models.song import SongModel
from autosong_jax.sources.spec import source_specs
from autosong_jax.sources.text.encoders import TextEncoderInfo


def build_model(config: ml_collections.ConfigDict, codec: CodecInfo, text: TextEncoderInfo, *,
                rngs: nnx.Rngs) -> SongModel:
    """The model that `config` describes (fields: `autosong_jax/defaults.py`).

    Args:
      codec: whose codes it models, and reads of recordings.
      text: the text encoder of the dataset, which decides how each source is read.
    """
    model = config.model
    codec = CodesInfo.required(codec, f"objective.name {config.objective.name!r}")
    context = config.objective.context_ms / 1000 * codec.frame_rate
    window = max(round(context), 1) if context else None
    dtype = compute_dtype(model.dtype)
    decoder = TransformerConfig(
        width=model.width, heads=model.heads, layers=model.layers, mlp_width=model.mlp_width, norm=model.norm,
        activation=model.activation, positions=model.positions, max_positions=model.max_positions, bias=model.bias,
        dropout=model.dropout, window=window, remat=config.train.remat,
        unroll=config.train.unroll, dtype=dtype)

    sources = {name: spec.module(config, dtype, rngs=rngs)
               for name, spec in sorted(source_specs(config.sources, text, codec).items())}
    frames = functools.partial(CodeFrames, codec.num_codebooks, codec.codebook_size, config.data.end_of_song)
    song_model = SongModel(frames, decoder, model.fusion, sources, model.dropped, rngs=rngs)
    lora.add(song_model, config.lora, rngs=rngs)  # last: the parameters before it are the same with and without it
    return song_model


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
