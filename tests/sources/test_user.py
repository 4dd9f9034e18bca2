"""What a user gives of songs, as sources."""

import numpy as np
import pytest

from autosong_jax import defaults
from autosong_jax.codecs.info import CodesInfo
from autosong_jax.errors import UserError
from autosong_jax.sources.base import Encoders
from autosong_jax.sources.chroma import pitch_classes as chroma
from autosong_jax.sources.text.encoders import get_text_encoder
from autosong_jax.sources.user import UserConditions

RATE = 800


@pytest.fixture
def conditions(request):
    config = defaults.base()
    config.model.dropped = getattr(request, "param", "absent")
    sizes = {"width": 0, "heads": 0, "layers": 0}
    config.sources = {"chroma": defaults.source(kind="chroma", max_length=3, **sizes),
                      "lyrics": defaults.source(max_length=8, **sizes)}
    encoder = get_text_encoder("bytes")
    codec = CodesInfo("melrvq", RATE, 1, 25.0, 2, 16)
    return UserConditions(config, encoder.info, codec, Encoders(lambda: encoder, codec=None))


def test_a_window_hears_its_own_part_of_a_melody(conditions):
    notes = [60, 64, 67, 71, 62]  # for 6 hops each
    time = np.arange(6 * chroma.HOP) / RATE
    audio = np.concatenate([np.sin(2 * np.pi * 110 * 2 ** ((note - 45) / 12) / 8 * time) for note in notes])
    sources = conditions.encode([{"melody": audio[None].astype(np.float32), "lyrics": "la"}])
    classes = sources["chroma"]["chroma"][0]
    assert len(classes) == 1 + len(audio) // chroma.HOP
    hop = chroma.HOP / RATE
    for first in (0, 10, 29):  # the last begins the melody again
        window = conditions.at(sources, first * hop)
        np.testing.assert_array_equal(window["chroma"]["chroma"][0], np.roll(classes, -first)[:3])
        assert window["chroma"]["length"] == [3]
        assert window["lyrics"] is sources["lyrics"]


@pytest.mark.parametrize(("conditions", "slots"), [("absent", 0), ("null", 3)], indirect=["conditions"])
def test_no_melody(conditions, slots):
    source = conditions.at(conditions.encode([{}, {}]), 99.0)["chroma"]
    np.testing.assert_array_equal(source["chroma"], np.zeros((2, 3)))
    np.testing.assert_array_equal(source["length"], [slots] * 2)


@pytest.mark.parametrize(("melody", "words"), [
    (np.zeros(8, np.float32),
     r"the melody is float32 of shape \[8\], expected float32 \[channels, samples\] at 800 Hz"),
    (np.zeros((1, 800), np.int16), "the melody is int16"), (np.zeros((0, 800), np.float32), r"shape \[0, 800\]"),
    (np.full((2, 800), np.nan, np.float32), "the melody holds NaN")])
def test_a_melody_that_is_no_audio(conditions, melody, words):
    with pytest.raises(UserError, match=words):
        conditions.encode([{"melody": melody}])


def test_what_the_model_does_not_know(conditions):
    with pytest.raises(UserError, match="genre was given, but the model was not trained with it: expected lyrics, mel"):
        conditions.encode([{"genre": "pop"}])
