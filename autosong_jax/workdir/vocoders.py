"""A vocoder that was trained in a workdir of its own, taken over into the codec of another."""

import pathlib

from autosong_jax.codecs.info import CodecInfo
from autosong_jax.codecs.mel import saved
from autosong_jax.codecs.mel.settings import MelInfo
from autosong_jax.errors import UserError
from autosong_jax.models.of_samples import KIND, mel_of, sizes_of
from autosong_jax.workdir.workdir import Workdir, open_trained


def open_vocoder(source: str, codec: CodecInfo) -> Workdir:
    """The workdir of a vocoder.

    Args:
      source: where it is.
      codec: whose mel spectrograms it is to sing.

    Raises:
      UserError: there is none, or it reads other mel spectrograms, or the songs are none.
    """
    codec = MelInfo.required(codec, f"latents.vocoder {source}")
    vocoder = open_trained(source, "latents.vocoder", KIND)
    if (own := mel_of(vocoder.config, vocoder.codec)) != codec.config:
        raise UserError(f"latents.vocoder {source} reads mel spectrograms of {own}, but the songs are of "
                        f"{codec.config}")
    return vocoder


def take_vocoder(vocoder: Workdir, directory: pathlib.Path) -> None:
    """Writes the vocoder beside the mel codec in a directory. Raises UserError where its weights cannot be read."""
    params = {name: part for name, part in vocoder.read_weights()[0].items() if name != "discriminator"}
    saved.save(directory, sizes_of(vocoder.config), params)
