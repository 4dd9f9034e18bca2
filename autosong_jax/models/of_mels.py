"""Mel spectrograms: the autoencoder that brings them to latents and back."""

import ml_collections
from flax import nnx

from autosong_jax.codecs.info import CodecInfo
from autosong_jax.codecs.mel.settings import MelInfo
from autosong_jax.errors import UserError
from autosong_jax.models.autoencoder import SCALE, MelAutoencoder
from autosong_jax.models.discriminators import PatchDiscriminator
from autosong_jax.models.kinds import Kind, Steps
from autosong_jax.sources.text.encoders import TextEncoderInfo


def build(config: ml_collections.ConfigDict, codec: CodecInfo, text: TextEncoderInfo, dtype: str, *, rngs: nnx.Rngs
          ) -> MelAutoencoder:
    """See `kinds.Kind`."""
    width = config.autoencoder.discriminator_width
    discriminator = PatchDiscriminator(width, dtype=dtype, rngs=rngs) if width else None
    return autoencoder(config, dtype, discriminator, rngs=rngs)


def autoencoder(config: ml_collections.ConfigDict, dtype: str, discriminator: nnx.Module | None = None, *,
                rngs: nnx.Rngs) -> MelAutoencoder:
    """The autoencoder of `config.autoencoder`, with a discriminator that it is trained against or without."""
    fields = config.autoencoder
    return MelAutoencoder(fields.channels, fields.width, fields.blocks, fields.norm, fields.block_columns,
                          fields.overlap, discriminator, dtype=dtype, rngs=rngs)


def steps(config: ml_collections.ConfigDict, codec: CodecInfo, num_frames: int) -> Steps:
    """See `kinds.Kind`; a window is whole columns."""
    codec = check_mel(config, codec)
    frames = -(-num_frames // SCALE) * SCALE
    return Steps(frames, frames, codec)


def check_mel(config: ml_collections.ConfigDict, codec: CodecInfo) -> MelInfo:
    """The codec, if there are latents of its frames. Raises UserError if there are none."""
    codec = MelInfo.required(codec, f"objective.name {config.objective.name!r}")
    if codec.n_mels % SCALE:
        raise UserError(f"the songs have {codec.n_mels} bands, expected a multiple of {SCALE} for an autoencoder: "
                        f"export them with --codec=mel:n_mels={max(codec.n_mels // SCALE, 1) * SCALE}")
    return codec


KIND = Kind("an autoencoder", "configs/autosong_autoencoder.py", build, steps, used=(
    "learn songs of its latents with\n  python -m autosong_jax.train --config=configs/autosong_mel.py "
    "--config.data.path={dataset} --config.latents.workdir={workdir} --workdir=DIR"))
