"""Loops on the device: what they are compiled with, that they never call the host, and progress nevertheless."""

import logging

import jax
import numpy as np
import pytest
from flax import nnx

from autosong_jax.cli import log
from autosong_jax.codecs.info import CodecInfo
from autosong_jax.errors import UserError
from autosong_jax.layers import decoding, platform
from autosong_jax.models.build import build_model
from autosong_jax.sampling import singer as singer_module
from autosong_jax.sampling import stepwise
from autosong_jax.sampling.singer import Singer
from autosong_jax.sources.text.encoders import TextEncoderInfo
from autosong_jax.workdir.workdir import ModelContext


@pytest.fixture
def on_cuda(monkeypatch):
    monkeypatch.delenv("AUTOSONG_LOOP_GRAPH", raising=False)
    monkeypatch.setattr(platform, "_on_cuda", lambda: True)
    platform._accepted.cache_clear()
    yield
    platform._accepted.cache_clear()


def test_loops_are_one_graph_on_an_nvidia_gpu_alone(on_cuda, monkeypatch):
    options = platform.loop_options()
    assert "WHILE" in options["xla_gpu_enable_command_buffer"].split(",")
    assert options["xla_gpu_graph_min_graph_size"] == "1"
    monkeypatch.setenv("AUTOSONG_LOOP_GRAPH", "while")
    assert platform.loop_options() == options
    monkeypatch.setenv("AUTOSONG_LOOP_GRAPH", "default")
    assert platform.loop_options() is None
    monkeypatch.undo()
    assert platform.loop_options() is None  # on the CPU that is here


@pytest.mark.parametrize(("backend", "version", "expected"), [
    ("gpu", "PJRT C API\ncuda 12090", True), ("gpu", "PJRT C API\nrocm 70000", False), ("cpu", "cpu", False),
    ("tpu", "PJRT C API\nTFRT TPU v5 lite", False)])
def test_an_nvidia_gpu_is_told_from_others(backend, version, expected, monkeypatch):
    class Device:
        class client:
            platform_version = version

    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "devices", lambda: [Device])
    assert platform._on_cuda() is expected


def test_a_wrong_choice_of_graphs_is_named(monkeypatch):
    monkeypatch.setenv("AUTOSONG_LOOP_GRAPH", "whole")
    with pytest.raises(UserError, match=r"AUTOSONG_LOOP_GRAPH=whole: expected while .* or default"):
        platform.loop_options()


@pytest.mark.parametrize("options", [
    {"xla_gpu_no_such_option": "1"}, {"xla_gpu_enable_command_buffer": "FUSION,NO_SUCH"}])
def test_options_that_xla_does_not_know_are_left_out(options, on_cuda, monkeypatch, caplog):
    """XLA looks at the names of options and values wherever it compiles."""
    monkeypatch.setattr(platform, "ONE_GRAPH", options)
    with caplog.at_level(logging.WARNING, log.name):
        assert platform.loop_options() is None and platform.loop_options() is None
    (record,) = [record for record in caplog.records if record.name == log.name]
    assert "no_such" in record.getMessage().lower() and "\n" not in record.getMessage()


class Bar:
    """A progress bar that remembers where it stood."""

    disable = False

    def __init__(self, total, **options):
        self.n, self.total, self.seen = 0, total, []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, count):
        assert count >= 0
        self.n += count
        self.seen.append(self.n)


@pytest.fixture(scope="module")
def singer(make_singer):
    return make_singer(**{"objective.name": "both"})


@pytest.mark.parametrize("lead", [0.0, 9.0], ids=["masked", "step by step"])
def test_progress_reaches_the_total_and_changes_neither_codes_nor_programs(singer, lead, monkeypatch):
    """Over several windows; all that is compiled is compiled before there is progress."""
    monkeypatch.setattr(singer_module, "STRIDE", 2)
    sources = singer.encode_conditions([{"lyrics": "la la", "genre": "pop"}, {"lyrics": "lo"}])
    options = {"duration": 1.0, "hybrid_seconds": lead}
    plain = singer.sing(sources, [3, 4], **options)
    bars, advances = [], [sampler._loop._advance for sampler in singer._samplers]
    monkeypatch.setattr(singer_module, "progress", lambda **options: bars.append(Bar(options["total"])) or bars[-1])
    sizes = [advance._cache_size() for advance in advances]
    shown = singer.sing(sources, [3, 4], **options, show_progress=True)
    np.testing.assert_array_equal(plain, shown)
    assert sizes == [advance._cache_size() for advance in advances]
    seen = [n for bar in bars for n in bar.seen]
    assert all(bar.n == bar.total for bar in bars) and sum(bar.total for bar in bars) == 25
    assert len(set(seen)) > 2 * 3  # more than one report for each of the three windows


def test_no_loop_calls_the_host(singer, monkeypatch):
    """In the programs as JAX hands them to XLA a call of the host is a custom call with "callback" in its name."""
    texts = []
    for sampler in singer._samplers:
        def watched(*arguments, advance=sampler._loop._advance, **options):
            texts.append(advance.lower(*arguments, **options).as_text())
            return advance(*arguments, **options)

        monkeypatch.setattr(sampler._loop, "_advance", watched)
    monkeypatch.setattr(singer_module, "progress", lambda **options: Bar(options["total"]))
    sources = singer.encode_conditions([{"lyrics": "la la", "genre": "pop"}, {"lyrics": "lo"}])
    singer.sing(sources, [3, 4], hybrid_seconds=0.2, show_progress=True)
    assert {"jit__advanced" in text for text in texts} == {True} and all("stablehlo.while" in text for text in texts)
    assert len(texts) > 3 and not any("callback" in text for text in texts)

    def calls(x):
        jax.debug.callback(lambda x: None, x)
        return x

    assert "callback" in jax.jit(calls).lower(1.0).as_text()


def test_the_step_by_step_loop_alone_is_compiled_with_the_options(on_cuda, make_singer, singer, monkeypatch):
    """XLA for a CPU knows the options of GPUs by name and does nothing about them."""
    given, jit = [], jax.jit

    def watched(function, compiler_options=None, **options):
        if compiler_options is not None and function.__module__ != platform.__name__:
            given.append((function.__module__, function.__name__, compiler_options))
        return jit(function, compiler_options=compiler_options, **options)

    monkeypatch.setattr(jax, "jit", watched)
    other = make_singer(**{"objective.name": "both"})
    monkeypatch.undo()
    assert given == [(stepwise.__name__, "_advanced", platform.ONE_GRAPH)]
    sources = singer.encode_conditions([{"lyrics": "la la"}])
    options = {"hybrid_seconds": 9.0}
    np.testing.assert_array_equal(other.sing(sources, [5], **options), singer.sing(sources, [5], **options))


@pytest.mark.parametrize("fusion", ["cross", "prefix"])
def test_keys_and_values_in_one_array_as_on_a_gpu_give_the_same_codes(fusion, toy_config, toy_dataset, monkeypatch):
    config = toy_config(**{"model.width": 8, "model.layers": 2, "model.heads": 1, "model.fusion": fusion})
    text, codec = TextEncoderInfo.load(toy_dataset), CodecInfo.load(toy_dataset / "codec")
    model = build_model(config, codec, text, rngs=nnx.Rngs(0)).unstacked()
    apart, together = (Singer(ModelContext.read(config, toy_dataset), model) for _ in range(2))
    sources = apart.encode_conditions([{"lyrics": "la la", "genre": "pop"}, {"lyrics": "lo"}])
    prompt = np.random.default_rng(0).integers(16, size=(5, 3))
    expected = apart.sing(sources, [5, 6], prompt=prompt)
    held = []
    monkeypatch.setattr(decoding, "platform", lambda: held.append("gpu") or "gpu")
    for song_of_one, song_of_two in zip(together.sing(sources, [5, 6], prompt=prompt), expected, strict=True):
        np.testing.assert_array_equal(song_of_one, song_of_two)
    assert held
