"""From a config to a song model over any frames."""

from collections.abc import Callable

import ml_collections
from flax import nnx

from autosong_jax.codecs.info import CodecInfo
from autosong_jax.layers.transformer import TransformerConfig
from autosong_jax.models.song import SongModel
from autosong_jax.sources.spec import source_specs
from autosong_jax.sources.text.encoders import TextEncoderInfo


def song_model(config: ml_collections.ConfigDict, codec: CodecInfo, text: TextEncoderInfo, dtype: str,
               frames: Callable[..., nnx.Module], *, rngs: nnx.Rngs) -> SongModel:
    """The song model that `config` describes.

    Args:
      codec, text: as of `build.build_model`.
      dtype: of the computation.
      frames: makes the frame adapter; see `SongModel`.
    """
    model = config.model
    context = config.objective.context_ms / 1000 * codec.frame_rate
    window = max(round(context), 1) if context else None
    decoder = TransformerConfig(
        width=model.width, heads=model.heads, layers=model.layers, mlp_width=model.mlp_width, norm=model.norm,
        activation=model.activation, positions=model.positions, max_positions=model.max_positions, bias=model.bias,
        dropout=model.dropout, window=window, remat=config.train.remat,
        unroll=config.train.unroll, dtype=dtype)

    sources = {name: spec.module(config, dtype, rngs=rngs)
               for name, spec in sorted(source_specs(config.sources, text, codec).items())}
    return SongModel(frames, decoder, model.fusion, sources, model.dropped, rngs=rngs)
