"""The programs that a GPU would run, as far as they go without one: traced and lowered, neither compiled nor run."""

import re

import jax
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from autosong_jax.data.dataset import SongDataset, train_batches
from autosong_jax.layers import attention
from autosong_jax.models import build
from autosong_jax.models.build import abstract_model, build_model
from autosong_jax.parallel.sharding import make_mesh, put_batch
from autosong_jax.sampling.samplers import encode
from autosong_jax.training.step import make_trainer
from autosong_jax.workdir.workdir import window_pattern


@pytest.fixture
def on_gpu(monkeypatch):
    """Tracing takes what it would take on an H100 with its own cuDNN."""
    for module in (attention, build):
        monkeypatch.setattr(module, "platform", lambda: "gpu")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda _: False)


def attention_calls(function, *arguments):
    """The names of what cuDNN is asked for."""
    program = function.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    return set(re.findall(r"__cudnn\$(\w+)", program))


@pytest.fixture
def config_of(toy_config):
    """As `toy_config`, with heads as wide as cuDNN takes them: a multiple of 8."""
    def make(**overrides):
        width = {f"{name}.width": 32 for name in ("model", "sources.lyrics", "sources.genre")}
        heads = {f"{name}.heads": 4 for name in ("model", "sources.lyrics", "sources.genre")}
        return toy_config(**width, **heads, **overrides)

    return make


@pytest.mark.parametrize("objective", ["next_step", "masked_spans"])
@pytest.mark.parametrize("frames", [12, 13])
def test_a_step_of_training_and_of_validation(config_of, on_gpu, objective, frames):
    config = config_of(**{"objective.name": objective, "data.seconds": frames / 25})
    dataset = SongDataset(config.data.path, "train")
    pattern, mesh = window_pattern(config, dataset.codec), make_mesh(config.mesh, jax.devices()[:1])
    assert len(pattern.steps) == frames
    trainer = make_trainer(
        config, lambda rngs: build_model(config, dataset.codec, dataset.text, rngs=rngs), pattern, mesh)
    batch = put_batch(train_batches(
        dataset, batch_size=config.data.batch_size, frames=frames, seed=0, end_of_song=True,
        sources=config.sources)[0], mesh)
    assert attention_calls(trainer.train_step, trainer.abstract, trainer.frozen, batch) == {
        "fmhaSoftmax", "fmhaSoftmaxBackward"}
    assert attention_calls(trainer.eval_step, trainer.abstract.params, trainer.frozen, batch) == {"fmhaSoftmax"}


def test_a_prompt_of_any_length_and_a_step_of_singing(config_of, on_gpu):
    config = config_of()
    dataset = SongDataset(config.data.path, "train")
    graph, abstract = abstract_model(config, dataset.codec, dataset.text)
    ids = {"ids": np.zeros((1, 5), np.int32), "length": np.full(1, 5, np.int32)}
    lyrics = ids | {"sections": ids["ids"], "lines": ids["ids"]}

    def begin(params, prompt):
        model = nnx.merge(graph, params).unstacked()
        return model.start(encode(model, {"lyrics": lyrics, "genre": ids}, np.ones((2, 2), bool), 1), prompt, 16)

    def step(params, ids, step, cache):
        return nnx.merge(graph, params).unstacked().step(ids, step, cache)

    for read in (0, 4, 7):
        prompt = np.zeros((2, read, 3), np.int32)
        assert attention_calls(jax.jit(begin), abstract, prompt) == {"fmhaSoftmax"}
    cache = jax.eval_shape(begin, abstract, prompt)
    assert attention_calls(jax.jit(step), abstract, np.zeros((2, 3), np.int32), np.int32(3), cache) == set()
