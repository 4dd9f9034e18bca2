"""Recordings as sources: what reads their codes, and what of them users give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax import config as config_file
from autosong_jax import defaults
from autosong_jax.codecs.codec import load_codec
from autosong_jax.errors import UserError
from autosong_jax.sources.base import Encoders
from autosong_jax.sources.spec import source_specs
from autosong_jax.sources.text.encoders import get_text_encoder
from autosong_jax.sources.user import UserConditions

TEXT = get_text_encoder("bytes").info
SLOTS, K, V, HOP = 6, 3, 16, 640


@pytest.fixture(scope="module")
def codec(toy_dataset):
    return load_codec(toy_dataset / "codec")


def make_config(**source):
    config = defaults.base()
    config.model.update(width=16, dropout=0.0)
    config.sources = {"backing": defaults.source(kind="backing", max_length=SLOTS, **source),
                      "style": defaults.source(kind="style", max_length=SLOTS)}
    return config


def make_module(codec, **source):
    config = make_config(**source)
    return source_specs(config.sources, TEXT, codec.info)["backing"].module(config, "float32", rngs=nnx.Rngs(0))


def codes_of(seed, *shape):
    return np.random.default_rng(seed).integers(V, size=(*shape, K))


@pytest.mark.parametrize("width", [0, 8])
def test_without_layers_a_slot_is_the_sum_of_its_embeddings_and_where_it_stands(codec, width):
    module, codes = make_module(codec, width=width), codes_of(0, 2, SLOTS)
    tables, width = np.asarray(module.embeddings[...]), width or 16
    expected = np.zeros((2, SLOTS, width))
    for b, i, k in np.ndindex(codes.shape):
        expected[b, i] += width**0.5 * tables[k, codes[b, i, k]]
    for i in range(SLOTS):
        angles = i * 10000.0 ** (-np.arange(width // 2) / (width // 2 - 1))
        expected[:, i] += np.concatenate([np.cos(angles), np.sin(angles)])
    assert (module.projection is None) == (width == 16)
    if module.projection is not None:
        expected = expected @ np.asarray(module.projection.kernel[...]) + np.asarray(module.projection.bias[...])
    states = module({"codes": jnp.asarray(codes), "length": jnp.array([SLOTS, 2])})
    np.testing.assert_allclose(states, expected, atol=1e-5)


def test_with_layers_a_slot_depends_on_all_codes_that_count_and_on_no_other(codec):
    module, codes = make_module(codec, width=16, heads=2, layers=2), codes_of(0, 1, SLOTS)
    read = jax.jit(lambda codes: module({"codes": codes, "length": jnp.array([4])})[0])
    states = read(codes)
    assert states.shape == (SLOTS, 16)
    for slot in range(SLOTS):
        other = codes.copy()
        other[0, slot] = (other[0, slot] + 1) % V
        same = np.isclose(read(other), states, atol=1e-6).all(axis=1)
        assert same[:4].tolist() == [slot >= 4] * 4


def test_sizes_that_do_not_go_together_are_named():
    with pytest.raises(UserError, match=r"sources.backing.width 7: expected an even width"):
        config_file.check(make_config(width=7))
    with pytest.raises(UserError, match=r"sources.backing.width 6: expected an even width for each of the 2"):
        config_file.check(make_config(width=6, heads=2, layers=1))
    config_file.check(make_config())


@pytest.fixture(scope="module")
def conditions(codec):
    return UserConditions(make_config(), TEXT, codec.info, Encoders(text=None, codec=lambda: codec))


@pytest.fixture(scope="module")
def audio():
    return 0.3 * np.random.default_rng(0).standard_normal((1, 10 * HOP + 77)).astype(np.float32)


def test_windows_of_a_backing_slide_and_a_style_stays(conditions, codec, audio, caplog):
    codes = codec.encode(audio)
    assert len(codes) == 11
    songs = [{"backing": audio, "style_audio": audio}, {}, {"backing": codes[:3], "style_audio": codes[:2]}]
    given = conditions.encode(songs)
    assert caplog.messages == ["style of length 11: the model reads the first 6"]
    for first in (0, 4, 9, 40):
        window = conditions.at(given, first / codec.frame_rate)
        for song, known in enumerate([codes, codes[:0], codes[:3]]):
            expected = known[first:first + SLOTS]
            assert window["backing"]["length"][song] == len(expected)
            np.testing.assert_array_equal(window["backing"]["codes"][song, :len(expected)], expected)
        np.testing.assert_array_equal(window["backing"]["codes"].shape, [3, SLOTS, K])
        np.testing.assert_array_equal(window["style"]["codes"][0], codes[:SLOTS])
        np.testing.assert_array_equal(window["style"]["length"], [SLOTS, 0, 2])
    seconds = [conditions.seconds(song) for song in songs]
    assert seconds == [audio.shape[1] / codec.sample_rate, None, 3 / codec.frame_rate]


@pytest.mark.parametrize(("given", "words"), [
    (np.full((1, 800), np.nan, np.float32), "holds NaN"), (np.zeros((2, 800), np.float32), r"expected float32 \[1, s"),
    (np.zeros((1, 800), np.int16), "is int16"), (np.zeros((1, 0), np.float32), "holds no sound"),
    (np.zeros((0, K), np.int32), "holds no sound"), (np.full((4, K), V), f"codes from {V} to {V}, expected 0 to 15")])
@pytest.mark.parametrize("name", ["backing", "style_audio"])
def test_what_is_no_recording_is_named(conditions, name, given, words):
    with pytest.raises(UserError, match=f"^{name} .*{words}"):
        conditions.encode([{name: given}])
