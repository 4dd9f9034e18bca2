"""Songs of latents: a song model whose steps are columns of a mel autoencoder's latents."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx
from jax import Array

from autosong_jax.codecs.info import CodecInfo
from autosong_jax.latents.table import HEADS
from autosong_jax.models import of_mels
from autosong_jax.models.autoencoder import SCALE
from autosong_jax.models.decoder import song_model
from autosong_jax.models.kinds import Component, Kind, Steps
from autosong_jax.models.latent_frames import LatentFrames, Latents
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
    latents = Latents(of_mels.autoencoder(config, dtype, rngs=rngs), codec.n_mels // SCALE)
    head = functools.partial(HEADS[fields.head], **{name: fields[name] for name in OPTIONS[fields.head]})
    frames = functools.partial(LatentFrames, latents, fields.order, head, fields.short_context,
                               config.data.end_of_song)
    return song_model(config, codec, text, dtype, frames, rngs=rngs)


def steps(config: ml_collections.ConfigDict, codec: CodecInfo, num_frames: int) -> Steps:
    """See `kinds.Kind`; a window is whole columns."""
    codec, columns = of_mels.check_mel(config, codec), -(-num_frames // SCALE)
    return Steps(columns * SCALE, columns * per_column(config, codec), codec)


def per_column(config: ml_collections.ConfigDict, codec: CodecInfo) -> int:
    """How many steps a column takes."""
    return codec.n_mels // SCALE if config.latents.order == "raster" else 1


def _adopt(config: ml_collections.ConfigDict, trained: ml_collections.ConfigDict) -> None:
    config.autoencoder = trained.autoencoder
    config.autoencoder.discriminator_width = 0


def _latents(config: ml_collections.ConfigDict, codec: CodecInfo, params: dict[str, Any],
             batches: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The parameters of `Latents`: those of a trained autoencoder, and mean and spread of the latents of songs."""
    params = {name: part for name, part in params.items() if name != "discriminator"}
    graph = nnx.graphdef(nnx.eval_shape(lambda: of_mels.autoencoder(config, "float32", rngs=nnx.Rngs(0))))

    @jax.jit
    def sums(params: dict[str, Any], frames: Array, num_frames: Array) -> tuple[Array, Array, Array]:
        """The number of columns, the sum and the sum of squares [R, C] of their latents."""
        latents = nnx.merge(graph, params).to_latents(codec.config.values(frames))
        inside = (np.arange(latents.shape[1]) < -(-num_frames[:, None] // SCALE))[..., None, None]
        latents = latents * inside
        return inside.sum(), latents.sum((0, 1)), (latents**2).sum((0, 1))

    total = None
    for batch in batches:
        of_batch = jax.tree.map(np.float64, jax.device_get(sums(params, batch["frames"], batch["num_frames"])))
        total = of_batch if total is None else jax.tree.map(np.add, total, of_batch)
    count, first, second = total
    mean = first / count
    spread = np.sqrt(np.maximum(second / count - mean**2, 1e-12))
    return {"autoencoder": params, "mean": mean.astype(np.float32), "spread": spread.astype(np.float32)}


KIND = Kind("a song model of latents", "configs/autosong_mel.py", build, steps,
            Component("latents.workdir", of_mels.KIND, _adopt, ("frames", "latents"), _latents))
