"""The released weights themselves, for machines that can fetch them: python -m pytest --network tests/pretrained"""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import autosong_jax
from autosong_jax.pretrained import released

pytestmark = [pytest.mark.network, pytest.mark.timeout(1800)]


def test_the_logits_that_musicgen_small_is_known_by():
    """Of the first step, for the first of two descriptions, in the first codebook, as transformers tests them."""
    model = released.read("facebook/musicgen-small")
    graph, params = model.load()
    rows = [model.text.source("description", text, 16) for text in ("80s music", "Club techno")]
    sources = {"description": {key: jnp.stack([row[key] for row in rows]) for key in rows[0]}}
    song_model = nnx.merge(graph, params)
    memory = song_model.encode(sources, jnp.ones((2, 1), bool))
    logits = song_model(jnp.full((2, 1, 4), 2048), memory)
    np.testing.assert_allclose(logits[0, 0, 0, :4], [-0.9708, -3.0149, -4.6415, -1.4754], atol=1e-4)


def test_musicgen_small_sings_in_one_call():
    song = autosong_jax.load("facebook/musicgen-small").generate(description="80s music", duration=2.0)
    assert song.codes.shape == (100, 4)
    assert song.audio.shape == (1, 64_000)
    assert 0.001 < np.abs(song.audio).max() < 2.0
