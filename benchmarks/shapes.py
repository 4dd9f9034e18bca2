"""MusicGen's shapes (Copet et al. 2023) and smaller ones of the same kind, which benchmarks give random weights."""

from typing import Any, NamedTuple

import ml_collections
import numpy as np

from autosong_jax import defaults
from autosong_jax.codecs.info import CodesInfo
from autosong_jax.sources.text.encoders import TextEncoderInfo
from configs import small


class Shape(NamedTuple):
    """The size of a decoder."""

    width: int
    heads: int
    layers: int

    def __str__(self) -> str:
        return f"width {self.width}, {self.heads} heads, {self.layers} layers"


SHAPES = {"toy": Shape(32, 2, 2), "tiny": Shape(256, 4, 6), "xsmall": Shape(512, 8, 6), "small": Shape(1024, 16, 24),
          "medium": Shape(1536, 24, 48), "large": Shape(2048, 32, 48)}
CODEC = CodesInfo("encodec", 32_000, 1, 50.0, 4, 2048)  # MusicGen's
TEXT = TextEncoderInfo("t5:t5-base", "", "states", width=768)


def config_of(name: str, text_length: int) -> ml_collections.ConfigDict:
    """The config of a model of that shape that is conditioned on so many states of T5 alone."""
    config = small.musicgen(**SHAPES[name]._asdict())
    config.data.end_of_song = False
    config.sources = {"description": defaults.source(max_length=text_length, width=TEXT.width, heads=1, layers=1)}
    config.train.ema_decay = 0.0
    return config


def random_params(abstract: Any) -> Any:
    """Random parameters of the shapes and dtypes of a tree."""
    import jax

    leaves, tree = jax.tree.flatten(abstract)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return jax.tree.unflatten(tree, [0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)
                                     for key, leaf in zip(keys, leaves, strict=True)])


def random_states(songs: int, length: int) -> np.ndarray:
    """float32 [songs, length, D], as of the text encoder."""
    return np.random.default_rng(0).normal(size=(songs, length, TEXT.width)).astype(np.float32)


def sources_of(states: np.ndarray) -> dict[str, Any]:
    """The part of a batch that has such states, none of them padding."""
    return {"description": {"states": states, "length": np.full(len(states), states.shape[1], np.int32)}}


def random_codes(songs: int, frames: int) -> np.ndarray:
    """int32 [songs, frames, K]."""
    return np.random.default_rng(1).integers(
        CODEC.codebook_size, size=(songs, frames, CODEC.num_codebooks), dtype=np.int32)


def released(name: str) -> dict[str, Any]:
    """The decoder as `transformers` describes it."""
    width, heads, layers = SHAPES[name]
    special = CODEC.codebook_size
    return {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers, "ffn_dim": 4 * width,
            "activation_function": "gelu", "num_codebooks": CODEC.num_codebooks, "vocab_size": special,
            "audio_channels": 1, "scale_embedding": False, "pad_token_id": special, "bos_token_id": special,
            "max_position_embeddings": 2048}
