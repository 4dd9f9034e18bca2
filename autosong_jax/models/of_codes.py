"""Songs of codes: a song model whose steps are those of a codebook pattern."""

import functools

import ml_collections
from flax import nnx

from autosong_jax.codebooks.patterns import Pattern, get_pattern
from autosong_jax.codecs.info import CodecInfo, CodesInfo
from autosong_jax.models.decoder import song_model
from autosong_jax.models.frames import CodeFrames
from autosong_jax.models.kinds import Kind
from autosong_jax.models.song import SongModel
from autosong_jax.sources.text.encoders import TextEncoderInfo


def build(config: ml_collections.ConfigDict, codec: CodecInfo, text: TextEncoderInfo, dtype: str, *, rngs: nnx.Rngs
          ) -> SongModel:
    """See `kinds.Kind`."""
    codec = CodesInfo.required(codec, f"objective.name {config.objective.name!r}")
    frames = functools.partial(CodeFrames, codec.num_codebooks, codec.codebook_size, config.data.end_of_song)
    return song_model(config, codec, text, dtype, frames, rngs=rngs)


def steps(config: ml_collections.ConfigDict, codec: CodecInfo, num_frames: int) -> Pattern:
    """See `kinds.Kind`."""
    codec = CodesInfo.required(codec, f"objective.name {config.objective.name!r}")
    return get_pattern(config.model.pattern, num_frames, codec.num_codebooks, config.model.delays)


KIND = Kind("a song model of codes", "configs/small.py", build, steps)
