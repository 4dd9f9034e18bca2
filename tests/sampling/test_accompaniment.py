"""Songs to a backing and in a style: as long as what they go with, window for window; models of random weights."""

import numpy as np
import pytest

from autosong_jax.errors import UserError
from autosong_jax.sampling import sound
from benchmarks.fuzzing.fixtures import recording_sources

WINDOW, K, V, HOP = 12, 3, 16, 640


@pytest.fixture(scope="module")
def singers(make_singer):
    return {"step by step": make_singer(sources=recording_sources()),
            "filled in": make_singer(sources=recording_sources(), **{
                "objective.name": "masked_spans", "model.pattern": "parallel", "sampling.masked.steps": (2, 1, 1)})}


@pytest.fixture(scope="module")
def backing():
    """29 frames and a half: more than two windows."""
    return 0.3 * np.random.default_rng(0).standard_normal((1, 29 * HOP + 321)).astype(np.float32)


@pytest.fixture(scope="module")
def style():
    return np.random.default_rng(1).integers(V, size=(3, K))


@pytest.mark.parametrize("name", ["step by step", "filled in"])
def test_a_song_has_the_samples_of_its_backing_streamed_or_not(singers, backing, style, name):
    singer = singers[name]
    song = singer.generate(backing=backing, style_audio=style, seed=1)
    assert song.audio.shape == backing.shape and song.codes.shape == (30, K)
    chunks = list(singer.stream(backing=backing, style_audio=style, seed=1, chunk_seconds=0.3))
    np.testing.assert_array_equal(np.concatenate([chunk.codes for chunk in chunks]), song.codes)
    assert sum(chunk.audio.shape[1] for chunk in chunks) == backing.shape[1]
    of_codes = singer.generate(backing=singer.codec.encode(backing), style_audio=style, seed=1)
    np.testing.assert_array_equal(of_codes.codes, song.codes)
    assert singer.generate(backing=backing, duration=0.4).audio.shape[1] == 10 * HOP
    short = singer.generate(backing=backing[:, :5 * HOP - 9], seed=1)
    assert short.codes.shape == (5, K) and short.audio.shape[1] == 5 * HOP - 9


@pytest.mark.parametrize("name", ["step by step", "filled in"])
def test_each_window_hears_its_own_part_of_the_backing(singers, style, name):
    """Windows of 30 frames are [0, 12), [8, 20), [16, 28), [18, 30): what is heard from frame 20 on, the third does."""
    one = np.random.default_rng(2).integers(V, size=(30, K))
    other = np.concatenate([one[:20], (one[20:] + 1) % V])
    songs = [singers[name].generate(backing=codes, style_audio=style, seed=1).codes for codes in (one, other)]
    np.testing.assert_array_equal(songs[0][:20], songs[1][:20])
    assert (songs[0][20:] != songs[1][20:]).any()
    others = [singers[name].generate(backing=one, seed=1).codes,
              singers[name].generate(backing=one, style_audio=style, seed=1, cfg_scales={"backing": 1.0, "style": 7.0}
                                     ).codes]
    assert all((songs[0] != song).any() for song in others)


def test_a_song_that_is_over_before_its_backing_is_followed_by_silence(make_singer, backing):
    singer = make_singer(sources=recording_sources(), **{"data.end_of_song": True})
    frames = set()
    for seed in range(6):
        asked = {"backing": backing, "seed": seed, "temperature": 3.0}
        song, chunks = singer.generate(**asked), list(singer.stream(**asked))
        frames.add(len(song.codes))
        assert song.audio.shape == backing.shape and not song.audio[:, len(song.codes) * HOP:].any()
        assert sum(chunk.audio.shape[1] for chunk in chunks) == backing.shape[1]
    assert min(frames) < 30


def test_songs_of_one_length_at_once(singers, backing):
    singer, shorter = singers["step by step"], backing[:, :9 * HOP]
    songs = singer.generate(backing=[backing, 0.5 * backing], seed=4)
    np.testing.assert_array_equal(songs[1].codes, singer.generate(backing=0.5 * backing, seed=5).codes)
    with pytest.raises(UserError, match=r"what the songs go with lasts 0.36, 1.18 s: expected one length"):
        singer.generate(backing=[backing, shorter])
    with pytest.raises(UserError, match=r"lasts 1.18 s, or is not given"):
        singer.generate(backing=[backing, None])
    songs = singer.generate(backing=[backing, shorter], duration=0.4, seed=4)
    np.testing.assert_array_equal(songs[1].codes, singer.generate(backing=shorter, duration=0.4, seed=5).codes)


def test_a_mix_is_the_sum_and_does_not_clip():
    song, backing = np.array([[0.5, -0.25]], np.float32), np.array([[0.25, 0.5, 1.0]], np.float32)
    np.testing.assert_allclose(sound.mixed(song, backing), [[0.75, 0.25, 1.0]])
    np.testing.assert_allclose(sound.mixed(2 * song, backing), np.array([[1.25, 0.0, 1.0]]) / 1.25)
