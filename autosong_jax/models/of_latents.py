"""Songs of latents: a song model whose steps are columns of a mel autoencoder's latents."""

import functools

import ml_collections
from flax import nnx

from autosong_jax.codecs.info import CodecInfo
from autosong_jax.latents.table import HEADS
from autosong_jax.models.autoencoder import SCALE
from autosong_jax.models.decoder import song_model
from autosong_jax.models.kinds import Steps
from autosong_jax.models.latent_frames import LatentFrames, Latents
from autosong_jax.models.of_mels import autoencoder, check_mel
from autosong_jax.models.song import SongModel
from autosong_jax.sources.text.encoders import TextEncoderInfo

OPTIONS = {"regression": ("mlp_layers", "mlp_width", "adversarial"),
           "mixture": ("mlp_layers", "mlp_width", "components"),
           "flow": ("layers", "hidden", "draws", "steps"), "distilled": ("layers", "hidden", "draws", "steps")}
"""The fields of `config.latents` that a head is made with."""


def build(config: ml_collections.ConfigDict, codec: CodecInfo, text: TextEncoderInfo, dtype: str, *, rngs: nnx.Rngs
          ) -> SongModel:
    """See `kinds.Kind`."""
    fields = config.latents
    latents = Latents(autoencoder(config, dtype, rngs=rngs), codec.n_mels // SCALE)
    head = functools.partial(HEADS[fields.head], **{name: fields[name] for name in OPTIONS[fields.head]})
    frames = functools.partial(LatentFrames, latents, fields.order, head, fields.short_context,
                               config.data.end_of_song)
    return song_model(config, codec, text, dtype, frames, rngs=rngs)


def steps(config: ml_collections.ConfigDict, codec: CodecInfo, num_frames: int) -> Steps:
    """See `kinds.Kind`; a window is whole columns."""
    codec, columns = check_mel(config, codec), -(-num_frames // SCALE)
    return Steps(columns * SCALE, columns * per_column(config, codec), codec)


def per_column(config: ml_collections.ConfigDict, codec: CodecInfo) -> int:
    """How many steps a column takes."""
    return codec.n_mels // SCALE if config.latents.order == "raster" else 1
