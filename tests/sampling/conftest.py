"""Singers of random weights."""

import pytest
from flax import nnx

from autosong_jax.codecs.info import CodecInfo
from autosong_jax.models.build import build_model
from autosong_jax.sampling.singer import Singer
from autosong_jax.sources.text.encoders import TextEncoderInfo
from autosong_jax.workdir.workdir import ModelContext


@pytest.fixture(scope="session")
def make_singer(toy_config, toy_dataset):
    """`make_singer(seed, sources, **{"objective.name": "both"})`; of one seed and one architecture the weights are the
    same. Its windows have 12 frames, and unless told otherwise its songs do not end by themselves.

    What it predicts is far from uniform, so that greedy choices and masks depend on what it has read.
    """
    def make(seed=0, sources=None, **changes):
        config = toy_config(**{"data.end_of_song": False, "sampling.masked.steps": (4, 2, 3), "model.width": 8,
                               "model.layers": 1, "model.heads": 1} | changes)
        if sources:
            config.sources = sources
        codec, text = CodecInfo.load(toy_dataset / "codec"), TextEncoderInfo.load(toy_dataset)
        model = build_model(config, codec, text, rngs=nnx.Rngs(seed))
        model.frames.heads[...] = 3 * model.frames.heads[...]
        return Singer(ModelContext.read(config, toy_dataset), model.unstacked())

    return make
