"""Models from configs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax.codecs.info import CodesInfo
from autosong_jax.codecs.mel.settings import MelConfig, MelInfo
from autosong_jax.codecs.pcm.settings import PcmInfo
from autosong_jax.errors import UserError
from autosong_jax.layers.declaration import declarations, held_in
from autosong_jax.models.build import build_model
from autosong_jax.sources.recording.spec import BackingSpec
from autosong_jax.sources.text.encoders import get_text_encoder
from autosong_jax.workdir.workdir import window_pattern

CODEC = CodesInfo("melrvq", 16000, 1, 25.0, 3, 16)


def test_matrices_held_in_the_dtype_of_the_computation_change_no_bit(toy_config):
    config = toy_config(**{"model.dtype": "bfloat16"})
    model = build_model(config, CODEC, get_text_encoder("bytes").info, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    params = nnx.to_pure_dict(state)
    targets = held_in("bfloat16", params, declarations(graph, params))
    held = jax.tree.map(lambda leaf, target: leaf.astype(target.dtype), params, targets)
    assert {leaf.dtype for leaf in jax.tree.leaves(held)} == {jnp.dtype("bfloat16"), jnp.dtype("float32")}
    rng = np.random.default_rng(0)
    ids = {"ids": rng.integers(0, 200, (2, 9)), "length": np.array([9, 4]),
           "sections": np.zeros((2, 9), int), "lines": np.zeros((2, 9), int)}
    sources = {"lyrics": ids, "genre": {"ids": ids["ids"][:, :4], "length": np.array([0, 3])}}
    steps, keep = rng.integers(0, 17, (2, 7, 3)), jnp.ones((2, 2), bool)

    @jax.jit
    def logits(params):
        model = nnx.merge(graph, params)
        return model(steps, model.encode(sources, keep))

    np.testing.assert_array_equal(logits(params), logits(held))


def test_models_of_codes_and_songs_as_values_do_not_go_together(toy_config):
    """Each way round, and for a recording that a model reads, too."""
    mel, config = MelInfo.of(MelConfig()), toy_config()
    words = r"reads songs as codes, but these are mel spectrograms \(mel, 256 values a frame\): export them with " \
            "--codec=melrvq"
    with pytest.raises(UserError, match=f"objective.name 'next_step' {words}"):
        build_model(config, mel, get_text_encoder("bytes").info, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=f"objective.name 'next_step' {words}"):
        window_pattern(config, mel)
    backing = BackingSpec("backing", get_text_encoder("bytes").info, mel, 5)
    with pytest.raises(UserError, match=f"sources.backing {words}"):
        backing.arrays()
    with pytest.raises(UserError, match=r"as samples, but these are codes \(melrvq, 3 codebooks x 16 a frame\)"):
        PcmInfo.required(CODEC, "the vocoder")
    assert MelInfo.required(mel, "the autoencoder") is mel


def test_initial_weights_are_drawn_in_the_memory_of_a_layer(toy_config):
    config = toy_config(**{"model.layers": 24, "model.width": 128, "model.mlp_width": 512})

    @jax.jit
    def draw(seed):
        rngs = nnx.Rngs(jax.random.key(seed))
        return nnx.to_pure_dict(nnx.state(build_model(config, CODEC, get_text_encoder("bytes").info, rngs=rngs)))

    compiled = draw.lower(np.uint32(0)).compile()
    taken = compiled.memory_analysis()
    assert taken.temp_size_in_bytes < 0.25 * taken.output_size_in_bytes
    blocks = compiled(np.uint32(0))["decoder"]["blocks"]
    for kernel in (blocks["mlp"]["up"]["kernel"], blocks["cross_attention"]["q"]["kernel"]):
        # Pre-norm, as MusicGen begins: variance 1 / width, divided by sqrt(2 l) in layer l = 1, 2, ...
        expected = (128 * 2 * np.arange(1, 25)) ** -0.5
        np.testing.assert_allclose(np.std(kernel, axis=(1, 2)), expected, rtol=0.05)
        assert len(np.unique(kernel[:, 0, 0] / expected)) == 24
