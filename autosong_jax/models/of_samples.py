"""Sound itself: the vocoder, which makes it of mel spectrograms."""

import ml_collections
from flax import nnx

from autosong_jax.codecs.info import CodecInfo
from autosong_jax.codecs.mel.saved import Sizes
from autosong_jax.codecs.mel.settings import MelConfig
from autosong_jax.codecs.mel.vocoder import Vocoder
from autosong_jax.codecs.pcm.settings import PcmInfo
from autosong_jax.models.discriminators import StftDiscriminator
from autosong_jax.models.kinds import Kind, Steps
from autosong_jax.sources.text.encoders import TextEncoderInfo


def build(config: ml_collections.ConfigDict, codec: CodecInfo, text: TextEncoderInfo, dtype: str, *, rngs: nnx.Rngs
          ) -> Vocoder:
    """See `kinds.Kind`."""
    width = config.vocoder.discriminator_width
    discriminator = StftDiscriminator(width, dtype=dtype, rngs=rngs) if width else None
    return sizes_of(config).build(mel_of(config, codec), discriminator=discriminator, dtype=dtype, rngs=rngs)


def sizes_of(config: ml_collections.ConfigDict) -> Sizes:
    """Those of the vocoder that `config` describes."""
    return Sizes(config.vocoder.width, config.vocoder.blocks, config.vocoder.mlp_width)


def mel_of(config: ml_collections.ConfigDict, codec: PcmInfo) -> MelConfig:
    """Which mel spectrograms a vocoder reads, whose rate and hop are those of the songs."""
    return MelConfig(codec.sample_rate, codec.hop, config.vocoder.n_fft, config.vocoder.n_mels, config.vocoder.floor)


def steps(config: ml_collections.ConfigDict, codec: CodecInfo, num_frames: int) -> Steps:
    """See `kinds.Kind`."""
    return Steps(num_frames, num_frames, PcmInfo.required(codec, f"objective.name {config.objective.name!r}"))


KIND = Kind("a vocoder", "configs/vocoder.py", build, steps,
            used="models of mel spectrograms are heard by it with --config.latents.vocoder={workdir}")
