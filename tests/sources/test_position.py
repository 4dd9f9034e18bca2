"""Where in its song a window begins, as a source."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autosong_jax import config as config_file
from autosong_jax import defaults
from autosong_jax.codecs.info import CodesInfo
from autosong_jax.errors import UserError
from autosong_jax.sources.base import Encoders, Span
from autosong_jax.sources.spec import source_specs
from autosong_jax.sources.text.encoders import get_text_encoder
from autosong_jax.sources.user import UserConditions

TEXT = get_text_encoder("bytes").info
CODEC = CodesInfo("melrvq", 800, 1, 25.0, 2, 16)


@pytest.fixture
def config():
    config = defaults.base()
    config.model.width = 16
    config.sources = {"position": defaults.source(kind="position", max_length=1)}
    return config


def test_windows_of_training_and_of_sampling_say_alike_where_they_begin(config):
    spec = source_specs(config.sources, TEXT, CODEC)["position"]
    conditions = UserConditions(config, TEXT, CODEC, Encoders(text=None, codec=None))
    given = conditions.encode([{}, {}])
    for seconds in (0.0, 12.5, 200.04):
        sung = conditions.at(given, seconds)["position"]
        np.testing.assert_array_equal(sung["seconds"], np.full((2, 1), seconds, np.float32))
        np.testing.assert_array_equal(sung["length"], [1, 1])
        np.testing.assert_equal(spec.cut({}, Span(seconds, seconds + 3, None)), {"seconds": sung["seconds"][0]})
    with pytest.raises(UserError, match="position was given, but"):
        conditions.encode([{"position": "7"}])


def test_one_slot_of_waves_of_the_second(config):
    module = source_specs(config.sources, TEXT, CODEC)["position"].module(config, "float32", rngs=nnx.Rngs(0))
    seconds = np.array([[0.0], [3.25], [240.0]])
    periods = 2 * np.pi * 10000 ** (np.arange(32) / 31)
    waves = [[f(2 * np.pi * s / period) for f in (np.cos, np.sin) for period in periods] for s in seconds[:, 0]]
    expected = np.array(waves) @ module.projection.kernel[...] + module.projection.bias[...]
    np.testing.assert_allclose(module({"seconds": jnp.float32(seconds)}), expected[:, None], atol=1e-4)


def test_it_has_one_slot(config):
    config_file.check(config)
    config.sources.position.max_length = 2
    with pytest.raises(UserError, match=r"sources.position.max_length 2: expected 1 of kind position"):
        config_file.check(config)
